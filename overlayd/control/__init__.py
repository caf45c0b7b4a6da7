"""Floor 4: the control socket, its client and the health check."""
