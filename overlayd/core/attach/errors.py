"""Why a container cannot be attached or detached: a text for people, and a kind that programs tell apart."""

from __future__ import annotations

from typing import Literal

from overlayd.core.errors import ReportedError, UsageError

Kind = Literal["invalid", "exists", "unknown", "taken", "exhausted", "conflict", "refused", "later"]
"""invalid     the request is wrong as it stands
exists      the container has that attachment, or that interface, already
unknown     there is no such attachment
taken       something that was asked for belongs to another attachment
exhausted   no address is free
conflict    something on this host is in the way
refused     the kernel refused it
later       the daemon cannot do it yet; the same request may succeed soon"""


class AttachError(ReportedError):
    """The text says what is wrong, the value seen, and what to do."""

    def __init__(self, text: str, kind: Kind = "invalid") -> None:
        super().__init__(text)
        self.kind = kind
        self.exit_status = UsageError.exit_status if kind == "invalid" else ReportedError.exit_status
