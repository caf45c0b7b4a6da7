"""What a server of the control API answers: its routes, and the answer that each gives."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import NamedTuple


class Answer(NamedTuple):
    """What a route answers with."""

    body: bytes | AsyncGenerator[bytes, None]
    content_type: str = "text/plain; charset=utf-8"
    status: int = 200


Handler = Callable[[], Awaitable[Answer]]
Routes = Mapping[tuple[str, str], Handler]
"""By method and path; GET answers HEAD too."""
