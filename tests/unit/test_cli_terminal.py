"""Tables in the width that there is, without splitting a word; colours where they are shown and wanted."""

from __future__ import annotations

import io
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlayd.cli import lease, peer, status
from overlayd.cli.terminal import Column, Row, Table, Terminal, Text
from support.answers import LEASE, PEER, PROBE, REGISTRY, STATE

DUAL = {**LEASE, "ipv6_subnet": "fd00:10:1:2::/64", "problem": "10.1.2.0/24 is reached by backend vxlan, here udp"}
SILENT = {**PROBE, "state": "unreachable", "problem": "192.0.2.2 has never answered; a firewall may drop UDP 8286"}
PAGES = {
    "peer list": [peer.peers([{**PEER, "probes": [PROBE, SILENT]}, {**PEER, "name": "a-host-with-a-name"}])],
    "lease list": lease.leases([{**DUAL, "own": True}, {**LEASE, "own": False}], REGISTRY, with_mac=True),
    "status": status.status({**STATE, "problems": ["h2: 192.0.2.2 has never answered; a firewall may drop UDP 8286"]}),
}


@pytest.mark.parametrize("page", PAGES)
def test_pages_fit_60_characters_and_split_no_word(page: str) -> None:
    wide = {word for line in Terminal().lines(PAGES[page]) for word in line.split()}
    narrow = Terminal(60).lines(PAGES[page])
    assert max(len(line) for line in narrow) <= 60, "\n".join(narrow)
    assert {word for line in narrow for word in line.split()} <= wide


def test_what_is_essential_is_shown_at_60_characters() -> None:
    shown = "\n".join(Terminal(60).lines(PAGES["peer list"]))
    for word in ("host-b", "10.1.2.0/24", "192.0.2.2", "reachable", "unreachable", "firewall"):
        assert word in shown
    assert "RUNS" not in shown
    assert "RUNS" in "\n".join(Terminal(160).lines(PAGES["peer list"]))


def test_columns_are_aligned() -> None:
    table = Table((Column("NAME"), Column("COUNT", right=True)), [Row(("a", "1")), Row(("long", "1000"))])
    assert Terminal().lines([table]) == ["NAME  COUNT", "a         1", "long   1000"]


@pytest.mark.parametrize(
    ("terminal", "environment", "colours"),
    [
        (True, {}, True),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),
        (True, {"TERM": "dumb"}, False),
        (False, {}, False),
    ],
)
def test_colours(terminal: bool, environment: dict[str, str], colours: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"COLUMNS": "80", **environment}.items():
        monkeypatch.setenv(name, value)
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: terminal)
    (line,) = Terminal.of(stream).lines([Text("down", "red")])
    assert line == ("\x1b[31mdown\x1b[0m" if colours else "down")


def test_output_that_is_not_a_terminal_has_no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    with open(os.devnull, "w") as stream:  # noqa: PTH123
        assert Terminal.of(stream) == Terminal(None, False)


@given(st.text(), st.sampled_from([None, 1, 20, 80]))
def test_no_text_draws_on_the_terminal(text: str, width: Any) -> None:
    table = Table((Column("NAME"), Column("", optional=True)), [Row((text, Text(text, "red")), (Text(text),))])
    for line in Terminal(width).lines([table, Text(text)]):
        assert line.isprintable()
