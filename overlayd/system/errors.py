"""The errors of this floor: the host refused something."""

from __future__ import annotations

from overlayd.core.errors import ReportedError


class HostError(ReportedError):
    """The kernel, a file or a program refused; the text says what was asked, the answer and the remedy."""


class InUseError(HostError):
    """A process has it: a port, or a device that takes one reader."""

    def __init__(self, text: str, port: int | None = None) -> None:
        """`port`: of UDP or TCP; None for a device."""
        super().__init__(text)
        self.port = port
