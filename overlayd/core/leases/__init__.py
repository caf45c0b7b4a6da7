"""Leases: what they hold, which subnets there are, which one a node gets."""
