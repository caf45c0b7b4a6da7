"""The error of this floor: the host refused something."""

from __future__ import annotations

from overlayd.core.errors import ReportedError


class HostError(ReportedError):
    """The kernel, a file or a program refused; the text says what was asked, the answer and the remedy."""
