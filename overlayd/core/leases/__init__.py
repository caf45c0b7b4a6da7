"""Leases: their data, the table of all of them, the subnets of a network, and which one a node gets."""
