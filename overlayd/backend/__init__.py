"""Floor 3: how packets travel. A backend turns leases into desired kernel state."""
