"""Floor 4: providers of desired state, comparison with the kernel, repair."""
