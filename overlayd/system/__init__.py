"""Floor 2: the kernel, the disk and processes."""
