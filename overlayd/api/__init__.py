"""Floor 5: the control API."""
