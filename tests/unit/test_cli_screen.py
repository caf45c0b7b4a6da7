"""`overlayctl top` on a terminal: keys are read one at a time, and the terminal is as it was before at the end."""

from __future__ import annotations

import os
import pty
import termios
from collections.abc import Iterator
from typing import Any, TextIO

import pytest

from overlayd.cli import top
from overlayd.cli.overlayctl import main
from overlayd.cli.screen import Screen
from overlayd.cli.terminal import Text
from support.answers import COUNTERS, STATE


@pytest.fixture
def terminal() -> Iterator[tuple[int, TextIO]]:
    """The side of a person, and that of a program."""
    person, program = pty.openpty()
    with os.fdopen(program, "w") as stream:
        yield person, stream
    os.close(person)


def read(person: int) -> str:
    return os.read(person, 65536).decode()


def test_a_key_is_read_without_enter(terminal: tuple[int, TextIO], monkeypatch: pytest.MonkeyPatch) -> None:
    person, stream = terminal
    monkeypatch.setenv("NO_COLOR", "1")
    before = termios.tcgetattr(stream)
    with Screen(stream, stream) as screen:
        assert screen.wait(0) == ""
        os.write(person, b"q")
        assert screen.wait(10) == "q"
        assert "q" not in read(person), "nothing is echoed"
        screen.draw([Text("one"), Text("two")])
        assert "\x1b[Hone\x1b[K\r\ntwo\x1b[J" in read(person)
    assert read(person).endswith("\x1b[?25h\x1b[?1049l"), "the cursor and the former screen are back"
    assert termios.tcgetattr(stream) == before


def test_the_terminal_is_put_back_after_an_error(terminal: tuple[int, TextIO]) -> None:
    _, stream = terminal
    before = termios.tcgetattr(stream)
    with pytest.raises(KeyboardInterrupt), Screen(stream, stream):
        raise KeyboardInterrupt
    assert termios.tcgetattr(stream) == before


def test_top_ends_with_q(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    keys = iter(["", "x", "q"])
    monkeypatch.setattr(Screen, "wait", lambda *_: next(keys))
    answers: dict[str, Any] = {"/v1/counters": COUNTERS, "/v1/status": STATE}
    monkeypatch.setattr(top, "ask", lambda _, target: answers[target])
    assert main(["top"]) == 0
    assert capsys.readouterr().out.count("OUT PACKETS/s") == 2
