"""Structured logs: one line for each event, key=value for people, JSON on request."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

from overlayd.core.config import Settings
from overlayd.core.validation import printable


def set_up(settings: Settings) -> None:
    """Send logs to standard error in the configured form."""
    processors: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
        _presentable,
    ]
    if settings.log_format == "json":
        processors += [structlog.processors.EventRenamer("msg"), structlog.processors.JSONRenderer()]
    else:
        processors += [
            structlog.processors.EventRenamer("msg"),
            structlog.processors.LogfmtRenderer(key_order=["ts", "level", "msg"], bool_as_flag=False),
        ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, settings.log_level.upper())),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # Libraries log through the standard library; what is worth hearing comes in the same form.
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="level=warning msg=%(message)r from=%(name)s")


def _presentable(_: Any, __: str, event: Any) -> Any:
    """Nothing that is not there, and nothing that breaks a line."""
    return {
        key: printable(value) if isinstance(value, str) else value for key, value in event.items() if value is not None
    }
