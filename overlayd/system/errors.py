"""The error of this floor: the host refused something."""


class HostError(Exception):
    """The kernel, a file or a program refused; the text says what was asked, the answer and the remedy."""
