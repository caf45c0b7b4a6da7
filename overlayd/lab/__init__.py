"""Floor 3: hosts in network namespaces on this machine."""
