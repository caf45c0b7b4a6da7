"""Floor 2: where leases come from."""
