"""Floor 2: the packet engines of udp mode."""
