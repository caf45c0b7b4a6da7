"""Tunnels of other programs as scenarios of the benchmark: containers talk through them, and nothing is left."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from overlayd.bench.endpoint import Local
from overlayd.bench.errors import BenchError
from overlayd.bench.scenario import Scenario, available, labs
from overlayd.bench.tunnels import TUNNELS
from overlayd.core.address import Family


@pytest.fixture(autouse=True)
def _tools(demand: Callable[[str | None], None]) -> None:
    for tool in ("wg", "wireguard-go", "nebula"):
        demand(None if shutil.which(tool) else f"needs {tool}: make test installs it")


def carried(scenario: Scenario) -> list[int]:
    return [one.packets() for one in scenario.daemons]


@pytest.mark.parametrize("underlay", [4, 6])
@pytest.mark.parametrize("name", ["wireguard-go", "nebula"])
def test_packets_go_through_the_program(name: str, underlay: Family) -> None:
    with labs([name], "1500", 4, underlay) as (scenario,):
        before = carried(scenario)
        assert isinstance(scenario.client, Local)
        assert scenario.client.where.ping(scenario.address, count=5, size=scenario.facts["mtu"], dont_fragment=True)
        assert [now - was >= 10 for now, was in zip(carried(scenario), before, strict=True)] == [True, True]
        assert scenario.facts["mtu"] == (1440 if underlay == 4 else 1420)
        assert len(scenario.memory()) == 2
        processes = [Path(f"/proc/{one.pid}") for one in scenario.daemons]
    assert [path for path in processes if path.exists()] == []
    assert not Path("/run/wireguard").exists()


def test_ipv6_in_wireguard_and_not_in_nebula() -> None:
    told: dict[str, str] = {}
    with labs(["wireguard-go", "nebula"], "any", 6, 6, told.__setitem__) as (scenario,):
        assert scenario.name == "wireguard-go"
        assert isinstance(scenario.client, Local)
        assert scenario.client.where.ping(scenario.address)
    assert "nebula 1.6 carries IPv4 only" in told["nebula"]


def test_the_kernels_wireguard_or_why_not() -> None:
    told: dict[str, str] = {}
    with suppress(BenchError), labs(["wireguard"], "any", failed=told.__setitem__) as (scenario,):
        assert isinstance(scenario.client, Local)
        assert scenario.client.where.ping(scenario.address)
        assert scenario.daemons == (), "no process carries the packets"
        return
    assert "type wireguard` failed: Error: Unknown device type" in told["wireguard"]


def test_what_the_machine_does_not_have_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(TUNNELS) < set(available())
    monkeypatch.setenv("PATH", "")
    assert set(TUNNELS).isdisjoint(available())
