"""Tunnels of other programs, as ways of the benchmark: containers talk through them, and nothing of them is left."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from overlayd.bench.errors import BenchError
from overlayd.bench.others import OTHERS
from overlayd.bench.station import Local
from overlayd.bench.way import Way, found, labs
from overlayd.core.address import Family


@pytest.fixture(autouse=True)
def _tools(demand: Callable[[str | None], None]) -> None:
    for tool in ("wg", "wireguard-go", "nebula"):
        demand(None if shutil.which(tool) else f"needs {tool}: make test installs it")


def carried(way: Way) -> list[int]:
    return [one.packets() for one in way.daemons]


@pytest.mark.parametrize("underlay", [4, 6])
@pytest.mark.parametrize("name", ["wireguard-go", "nebula"])
def test_packets_go_through_the_program(name: str, underlay: Family) -> None:
    with labs([name], "1500", 4, underlay) as (way,):
        before = carried(way)
        assert isinstance(way.client, Local)
        assert way.client.where.ping(way.address, count=5, size=way.facts["mtu"], dont_fragment=True)
        assert [now - was >= 10 for now, was in zip(carried(way), before, strict=True)] == [True, True]
        assert way.facts["mtu"] == (1440 if underlay == 4 else 1420)
        assert len(way.memory()) == 2
        processes = [Path(f"/proc/{one.pid}") for one in way.daemons]
    assert [path for path in processes if path.exists()] == []
    assert not Path("/run/wireguard").exists()


def test_ipv6_in_wireguard_and_not_in_nebula() -> None:
    told: dict[str, str] = {}
    with labs(["wireguard-go", "nebula"], "any", 6, 6, told.__setitem__) as (way,):
        assert way.name == "wireguard-go"
        assert isinstance(way.client, Local)
        assert way.client.where.ping(way.address)
    assert "nebula 1.6 carries IPv4 only" in told["nebula"]


def test_the_kernels_wireguard_or_why_not() -> None:
    told: dict[str, str] = {}
    with suppress(BenchError), labs(["wireguard"], "any", failed=told.__setitem__) as (way,):
        assert isinstance(way.client, Local)
        assert way.client.where.ping(way.address)
        assert way.daemons == (), "no process carries the packets"
        return
    assert "type wireguard` failed: Error: Unknown device type" in told["wireguard"]


def test_what_the_machine_does_not_have_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(OTHERS) < set(found())
    monkeypatch.setenv("PATH", "")
    assert set(OTHERS).isdisjoint(found())
