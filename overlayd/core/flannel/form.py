"""The form of a value in etcd: a JSON object."""

from __future__ import annotations

import json
from typing import Any

Json = dict[str, Any]


class FormatError(ValueError):
    """A key or a value that is not what belongs there; the text says what is wrong with it."""


def parse_object(text: str) -> Json:
    """The object that a value is. Raises FormatError."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise FormatError("is no JSON object")
    return found
