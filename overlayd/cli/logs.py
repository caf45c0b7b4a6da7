"""Where the log goes: one line for each event, key=value for people, JSON on request; under systemd, journal fields."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from overlayd.core.settings.model import Settings
from overlayd.core.text import printable
from overlayd.log import Event, log
from overlayd.system import journal

_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}  # <syslog.h>
_FIRST = ("ts", "level", "msg")  # in a line for people


def set_up(settings: Settings) -> None:
    """Send the log to standard error in the configured form, or to the journal where standard error is the journal."""
    log.level = settings.log_level
    as_json = settings.log_format == "json"
    log.write = ForJournal(as_json) if journal.is_standard_error() else _for_standard_error(as_json)
    # Libraries log through the standard library; their warnings get the same form.
    logging.basicConfig(level=logging.WARNING, handlers=[FromLibraries()], force=True)


class FromLibraries(logging.Handler):
    """Records of the standard library's logging as our events, each on one line."""

    def emit(self, record: logging.LogRecord) -> None:
        fields: Event = {"source": record.name}
        if record.exc_info:
            fields["error"] = logging.Formatter().formatException(record.exc_info)
        # The kind is the text without its arguments, or each stranger's address would be a kind of its own.
        kind = f"{record.name} {record.msg if record.args else ''}"
        log.event(record.levelname.lower(), record.getMessage(), fields, kind)


def _for_standard_error(as_json: bool) -> Callable[[Event], None]:
    def write(event: Event) -> None:
        event["ts"], event["msg"] = datetime.now(UTC).replace(tzinfo=None).isoformat() + "Z", event.pop("msg")
        shown = _presentable(event)
        line = _json(shown) if as_json else key_values({**{key: shown[key] for key in _FIRST}, **shown})
        sys.stderr.write(line + "\n")
        sys.stderr.flush()

    return write


def _presentable(event: Event) -> Event:
    """Without absent values, and without control characters."""
    return {
        key: printable(value) if isinstance(value, str) else value for key, value in event.items() if value is not None
    }


def _json(event: Event) -> str:
    return json.dumps(event, default=repr)


def key_values(fields: Event) -> str:
    """`key=value key="a value"` (brandur.org/logfmt)."""
    return " ".join(f"{key}={_value(value)}" for key, value in fields.items())


def _value(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    quoted = any(one in text for one in ' ="')
    if quoted:
        text = text.replace("\\", "\\\\").replace('"', '\\"')
    text = text.replace("\n", "\\n")
    return f'"{text}"' if quoted else text


class ForJournal:
    """Writes events to the journal: the line for people as MESSAGE, and each key as a field of its own."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._journal = journal.Journal()

    def __call__(self, event: Event) -> None:
        """Send to the journal; if that fails, to standard error with the priority in front (sd-daemon(3))."""
        shown = _presentable(event)
        rest = {key: value for key, value in shown.items() if key not in ("level", "msg")}
        fields = {
            "MESSAGE": _json(shown) if self._as_json else " ".join(filter(None, (shown["msg"], key_values(rest)))),
            "PRIORITY": str(_PRIORITIES[event["level"]]),
            "SYSLOG_IDENTIFIER": "overlayd",
            "OVERLAYD_EVENT": shown["msg"],
            **{f"OVERLAYD_{_field(key)}": str(value) for key, value in rest.items()},
        }
        if not self._journal.send(fields):
            sys.stderr.write(f"<{fields['PRIORITY']}>{fields['MESSAGE']}\n")
            sys.stderr.flush()


def _field(key: str) -> str:
    return re.sub(r"[^A-Z0-9_]", "_", key.upper())
