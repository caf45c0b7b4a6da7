"""overlayd: an overlay network for Linux containers, in user space or in the kernel."""

__version__ = "0.1.0"
