"""WireGuard in user space: the protocol as classes that do no I/O, and the engine that does."""
