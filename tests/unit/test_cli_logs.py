"""Logs: one line for each event, limited by kind, and with fields where standard error is the journal."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from overlayd.cli.logs import key_values
from overlayd.log import BURST, RATE, Event, Limit, Log
from overlayd.system.journal import Journal, encode


def made(now: Callable[[], float]) -> tuple[Log, list[Event]]:
    """A log, and what it has written."""
    log, written = Log(now), []
    log.write = written.append
    return log, written


def test_each_kind_is_limited_on_its_own() -> None:
    now = 0.0
    log, written = made(lambda: now)

    for _ in range(10_000):
        log.warning("a stranger did it")
    assert len(written) == BURST
    log.warning("something else", peer="a")
    assert written[-1] == {"peer": "a", "level": "warning", "msg": "something else"}
    written.clear()
    log.level = "debug"
    for _ in range(10_000):
        log.debug("a stranger did it")
    assert len(written) == 10_000, "those were asked for"
    now = 1.0
    written.clear()
    for _ in range(100):
        log.warning("a stranger did it")
    assert written[0] == {"level": "warning", "suppressed": 10_000 - BURST, "msg": "a stranger did it"}
    assert written[1] == {"level": "warning", "msg": "a stranger did it"}
    assert len(written) == RATE


def test_a_kind_may_be_named_apart_from_the_text() -> None:
    log, written = made(lambda: 0.0)
    for number in range(1000):
        log.event("warning", f"from {number}", {}, kind="x")
    assert [event["msg"] for event in written] == [f"from {number}" for number in range(int(BURST))]


def test_nothing_below_the_level_is_written_or_counted() -> None:
    log, written = made(lambda: 0.0)
    log.level = "warning"
    for _ in range(10_000):
        log.info("the same text")
    log.warning("the same text")
    assert written == [{"level": "warning", "msg": "the same text"}]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("one", "one"),
        ("", ""),
        ("two words", '"two words"'),
        ("a=b", '"a=b"'),
        ('say "x"', r'"say \"x\""'),
        (r"C:\x", r"C:\x"),
        (r"C:\x y", r'"C:\\x y"'),
        ("two\nlines", r"two\nlines"),
        (True, "true"),
        (7, "7"),
        (["a", "b"], "\"['a', 'b']\""),
    ],
)
def test_a_value_for_people(value: object, shown: str) -> None:
    assert key_values({"key": value}) == f"key={shown}"


def test_kinds_without_end_take_no_memory_without_end() -> None:
    limit = Limit(lambda: 0.0)
    for number in range(10_000):
        limit.admit(str(number))
    assert len(limit._kinds) <= 500


# --- as a process -----------------------------------------------------------------------------------------------------

PROGRAM = """
import logging, os
from overlayd.cli.logs import set_up
from overlayd.core.settings.model import Settings
from overlayd.system import journal
from overlayd.log import log
if "SOCKET" in os.environ:
    journal.Journal.__init__.__defaults__ = (journal.Path(os.environ["SOCKET"]),)
    found = os.fstat(2)
    os.environ["JOURNAL_STREAM"] = f"{found.st_dev}:{found.st_ino}"
set_up(Settings(network="10.1.0.0/16", log_format=os.environ.get("FORMAT", "text")))
log.warning("peer does not answer", address="192.0.2.2", reason="two\\nlines \\x1b[31m", nothing=None)
try:
    raise RuntimeError("a defect")
except RuntimeError:
    logging.getLogger("asyncio").exception("task failed")
"""


def run(**environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **environment},
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stderr.splitlines()


def test_lines_for_people() -> None:
    warning, defect = run()
    assert warning.startswith("ts=20")
    assert warning.endswith(
        r'level=warning msg="peer does not answer" address=192.0.2.2 reason="two\\nlines \\x1b[31m"'
    ), warning
    assert 'level=error msg="task failed" source=asyncio' in defect
    assert "RuntimeError: a defect" in defect
    assert "Traceback" in defect, "a defect of ours is shown whole, though in one line"


def test_lines_for_machines() -> None:
    warning, defect = (json.loads(line) for line in run(FORMAT="json"))
    assert (warning["level"], warning["msg"], warning["address"]) == ("warning", "peer does not answer", "192.0.2.2")
    assert defect["msg"] == "task failed"


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "socket"))
        sock.settimeout(10)
        yield sock


def entry(sock: socket.socket) -> dict[str, str]:
    lines = sock.recv(65536).decode().splitlines()
    return dict(line.split("=", 1) for line in lines)


def test_the_journal_gets_fields_and_a_priority(journald: socket.socket) -> None:
    assert run(SOCKET=journald.getsockname()) == []
    assert entry(journald) == {
        "MESSAGE": r'peer does not answer address=192.0.2.2 reason="two\\nlines \\x1b[31m"',
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "overlayd",
        "OVERLAYD_EVENT": "peer does not answer",
        "OVERLAYD_ADDRESS": "192.0.2.2",
        "OVERLAYD_REASON": r"two\nlines \x1b[31m",
    }
    defect = entry(journald)
    assert (defect["PRIORITY"], defect["OVERLAYD_SOURCE"]) == ("3", "asyncio")


def test_without_a_journal_there_is_standard_error_with_priorities(tmp_path: Path) -> None:
    warning, defect = run(SOCKET=str(tmp_path / "none"))
    assert warning.startswith("<4>peer does not answer address=192.0.2.2")
    assert defect.startswith("<3>task failed")


def test_a_journal_that_is_behind_holds_nobody_up(journald: socket.socket) -> None:
    journal = Journal(Path(journald.getsockname()))
    assert all(journal.send({"MESSAGE": "x" * 1000}) for _ in range(5000))


def test_fields_on_the_wire() -> None:
    assert encode("MESSAGE", "one line") == b"MESSAGE=one line\n"
    assert encode("MESSAGE", "two\nlines") == b"MESSAGE\n\x09\0\0\0\0\0\0\0two\nlines\n"
    assert len(encode("MESSAGE", "x" * 100_000)) < 10_000
