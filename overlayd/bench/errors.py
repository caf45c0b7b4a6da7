"""What can go wrong while measuring."""

from __future__ import annotations

from overlayd.core.errors import ReportedError


class BenchError(ReportedError):
    """A figure, a result file or a peer cannot be had; the text says why and what to do."""
