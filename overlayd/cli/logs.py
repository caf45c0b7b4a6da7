"""Structured logs: one line for each event, key=value for people, JSON on request; under systemd, journal fields.

An event that a stranger can cause again and again must not fill a disk: each kind of event has a rate limit of its own,
and the next line of that kind says how many were suppressed.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from aiohttp.http_exceptions import HttpProcessingError

from overlayd.core.rate_limit import TokenBucket
from overlayd.core.settings.model import Settings
from overlayd.core.text import printable
from overlayd.system import journal

RATE, BURST = 10.0, 300.0
"""Lines per second of one kind, and how many of it in a burst."""
_KINDS = 500  # remembered at most; there are fewer, because their texts are in the code

_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2, "exception": 3}  # <syslog.h>


def set_up(settings: Settings) -> None:
    """Send logs to standard error in the configured form, or to the journal where standard error is the journal."""
    to_journal = journal.is_standard_error()
    processors: list[Any] = [structlog.processors.add_log_level, Limit(time.monotonic)]
    if not to_journal:  # which has its own clock
        processors.append(structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"))
    processors += [_presentable, structlog.processors.EventRenamer("msg")]
    if settings.log_format == "json":
        render: Any = structlog.processors.JSONRenderer()
    else:
        render = structlog.processors.LogfmtRenderer(key_order=["ts", "level", "msg"], bool_as_flag=False)
    structlog.configure(
        processors=[*processors, ForJournal(settings.log_format == "json") if to_journal else render],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, settings.log_level.upper())),
        logger_factory=JournalLogger if to_journal else structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # Libraries log through the standard library; their warnings get the same form.
    logging.basicConfig(level=logging.WARNING, handlers=[FromLibraries()], force=True)


class Limit:
    """A structlog processor that drops events above their rate. Debug lines were asked for: all of them pass.

    The kind of an event is its text, which the code holds, unless `kind` names it.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        """`now`: seconds of a monotonic clock."""
        self._now = now
        self._kinds: dict[str, tuple[TokenBucket, int]] = {}

    def __call__(self, _: Any, method: str, event: Any) -> Any:
        kind = str(event.pop("kind", None) or event.get("event"))
        if method == "debug":
            return event
        bucket, suppressed = self._kinds.get(kind) or (TokenBucket(RATE, BURST, self._now()), 0)
        passes = bucket.take(self._now())
        if kind not in self._kinds and len(self._kinds) >= _KINDS:
            self._kinds.clear()
        self._kinds[kind] = bucket, 0 if passes else suppressed + 1
        if not passes:
            raise structlog.DropEvent
        return {**event, "suppressed": suppressed} if suppressed else event


class FromLibraries(logging.Handler):
    """Records of the standard library's logging as our events, each on one line."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        words: dict[str, str | None] = {"source": record.name, "error": None}
        if isinstance(error, HttpProcessingError):
            record.levelno, words["error"] = logging.DEBUG, f"{type(error).__name__}: {error}"  # what a client sent
        elif error is not None:
            words["error"] = logging.Formatter().formatException(record.exc_info or (None, None, None))
        # The kind is the text without its arguments, or each stranger's address would be a kind of its own.
        kind = f"{record.name} {record.msg if record.args else ''}"
        structlog.get_logger().log(record.levelno, record.getMessage(), kind=kind, **words)


def _presentable(_: Any, __: str, event: Any) -> Any:
    """Without absent values, and without control characters."""
    return {
        key: printable(value) if isinstance(value, str) else value for key, value in event.items() if value is not None
    }


# --- the journal ------------------------------------------------------------------------------------------------------


class ForJournal:
    """A structlog renderer: the line for people as MESSAGE, and each key as a field of its own."""

    def __init__(self, as_json: bool) -> None:
        self._json = structlog.processors.JSONRenderer()
        self._text = structlog.processors.LogfmtRenderer(bool_as_flag=False)
        self._as_json = as_json

    def __call__(self, logger: Any, method: str, event: Any) -> Any:
        rest = {key: value for key, value in event.items() if key not in ("level", "msg")}
        if self._as_json:
            line = str(self._json(logger, method, dict(event)))
        else:
            line = " ".join(filter(None, (str(event["msg"]), self._text(logger, method, dict(rest)))))
        fields = {
            "MESSAGE": line,
            "PRIORITY": str(_PRIORITIES.get(event["level"], 6)),
            "SYSLOG_IDENTIFIER": "overlayd",
            "OVERLAYD_EVENT": str(event["msg"]),
            **{f"OVERLAYD_{_field(key)}": str(value) for key, value in rest.items()},
        }
        return (fields,), {}


def _field(key: str) -> str:
    return re.sub(r"[^A-Z0-9_]", "_", key.upper())


class JournalLogger:
    """The logger that structlog passes its events to."""

    def __init__(self, *_: Any) -> None:
        self._journal = journal.Journal()

    def msg(self, fields: Mapping[str, str]) -> None:
        """Send to the journal; if that fails, to standard error with the priority in front (sd-daemon(3))."""
        if not self._journal.send(fields):
            sys.stderr.write(f"<{fields['PRIORITY']}>{fields['MESSAGE']}\n")
            sys.stderr.flush()

    log = debug = info = warn = warning = error = err = critical = fatal = exception = failure = msg
