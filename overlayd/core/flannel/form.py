"""The form of a value in etcd: a JSON object."""

from __future__ import annotations

import json
from typing import Any

Json = dict[str, Any]


class FormatError(ValueError):
    """A key or a value in etcd that is not in flannel's form; the text says what is wrong with it."""


def parse_object(text: str) -> Json:
    """The JSON object in a value. Raises FormatError."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise FormatError("is not a JSON object")
    return found
