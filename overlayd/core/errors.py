"""Errors that end a command: their text is all that a user needs, so none of them is shown with a traceback."""

from __future__ import annotations


class ReportedError(Exception):
    """A failure in words: where, what, the value seen, what to do."""

    exit_status = 1


class UsageError(ReportedError):
    """What was typed or configured is wrong; nothing was done."""

    exit_status = 2
