"""Text that came from a file or from another host, made fit to be shown."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text on one line, with its control characters spelt out: a value must not draw on a terminal or in a log."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
