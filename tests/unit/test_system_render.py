"""The status as people read it: every key fact is there, and no state of a daemon breaks it."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console, RenderableType

from overlayd.cli import render

TRAFFIC = {"tx_packets": 3, "tx_bytes": 1_500, "rx_packets": 4, "rx_bytes": 2_000_000}
PEER: dict[str, Any] = {
    "name": "host-b",
    "subnet": "10.1.2.0/24",
    "ipv6_subnet": None,
    "public_ip": "192.0.2.2",
    "public_ipv6": None,
    "vtep_mac": "06:47:0f:9c:01:2a",
    "backend": None,
    "reserved": False,
    "problem": None,
    "traffic": TRAFFIC,
    "ways": [],
    "probes": [],
}
REGISTRY: dict[str, Any] = {
    "name": "static",
    "connected": True,
    "since": None,
    "stale": None,
    "error": None,
    "endpoint": None,
    "revision": None,
    "bad": {},
}
STATE: dict[str, Any] = {
    "version": "0.1.0",
    "pid": 77,
    "state": "ready",
    "uptime_seconds": 90_061.5,
    "mode": "udp",
    "engine": "python",
    "registry": "static",
    "registry_state": REGISTRY,
    "lease": {**PEER, "name": "host-a", "subnet": "10.1.1.0/24", "ipv6_subnet": "fd00:10:1:1::/64"},
    "underlay": {"interface": "eth0", "mtu": 1500, "public_ip": "192.0.2.1", "public_ipv6": None},
    "overlay": {"interfaces": ["ovl0"], "mtu": 1472, "networks": ["10.1.0.0/16"]},
    "traffic": TRAFFIC,
    "drops": {"tx": {"no_route": 2}, "rx": {"not_a_peer": 5}},
    "icmp": {"sent": 1, "limited": 0},
    "peers": [PEER],
    "problems": [],
    "repairs": 0,
    "reload": {"count": 0, "error": None},
}


def text(thing: RenderableType, width: int = 160) -> str:
    output = io.StringIO()
    Console(file=output, width=width, color_system=None).print(thing)
    return output.getvalue()


def test_status() -> None:
    shown = text(render.status(STATE))
    for fact in (
        "ready",
        "udp, python engine",
        "10.1.1.0/24, fd00:10:1:1::/64 at 192.0.2.2",
        "ovl0, MTU 1472",
        "10.1.0.0/16",
        "eth0, MTU 1500",
        "static",
        "1 d 1 h",
        "out 3 packets 1.5 kB, in 4 packets 2.0 MB",
        "no_route 2",
        "not_a_peer 5",
        "host-b",
        "10.1.2.0/24",
    ):
        assert fact in shown
    assert "repairs" not in shown
    assert "problem" not in shown


def test_what_is_wrong_is_shown() -> None:
    state = {
        **STATE,
        "problems": ["10.1.2.0/24: has no public_ip", "route: [red]refused[/red]"],
        "peers": [{**PEER, "problem": "has no public_ip", "traffic": None}],
        "repairs": 4,
        "reload": {"count": 1, "error": "overlayd.yaml:3: mtu: [bold] is no MTU"},
    }
    shown = text(render.status(state))
    for fact in (
        "has no public_ip",
        "repairs",
        "refused: overlayd.yaml:3: mtu: [bold] is no MTU",
        "[red]refused[/red]",
    ):
        assert fact in shown


@pytest.mark.parametrize(
    "extra",
    [
        {"state": "starting"},
        {
            "engine": None,
            "traffic": None,
            "mode": "host-gw",
            "overlay": {"interfaces": [], "mtu": 1500, "networks": []},
        },
        {"peers": []},
        {"peers": [{**PEER, "name": None, "traffic": None}]},
        {"peers": [{**PEER, "subnet": None, "ipv6_subnet": "fd00::/64", "public_ip": None, "public_ipv6": "fd01::1"}]},
        {"drops": {"tx": {}, "rx": {}}, "icmp": None},
        {"uptime_seconds": 0.2},
    ],
)
@pytest.mark.parametrize("width", [30, 80, 200])
def test_no_state_breaks_it(extra: dict[str, Any], width: int) -> None:
    assert STATE["lease"]["subnet"][:4] in text(render.status({**STATE, **extra}), width)


def test_no_peers_and_no_device_are_said() -> None:
    overlay = {"interfaces": [], "mtu": 1500, "networks": ["10.1.0.0/16"]}
    shown = text(render.status({**STATE, "peers": [], "overlay": overlay}))
    assert "no peers" in shown
    assert "no device, MTU 1500" in shown


def test_names_are_text_and_no_markup() -> None:
    """A host's name comes from a file that others may write: it must not colour or link anything."""
    hostile = {**PEER, "name": "[link=http://x]x[/link]", "own": False}
    assert "[link=http://x]x[/link]" in text(render.leases([hostile], REGISTRY), 200)
    assert "[link=http://x]x[/link]" in text(render.status({**STATE, "peers": [hostile]}), 200)


def test_leases() -> None:
    rows = [{**PEER, "own": True}, {**PEER, "name": None, "problem": "has no public_ip", "own": False}]
    heading, own, other = text(render.leases(rows, REGISTRY)).splitlines()
    assert heading.split() == ["HOST", "SUBNET", "PUBLIC", "IP", "VTEP", "MAC"]
    assert own.rstrip().endswith("this host")
    assert other.startswith("- ")
    assert "has no public_ip" in other


def test_a_reservation_and_what_makes_no_sense_are_shown_among_the_leases() -> None:
    rows = [{**PEER, "own": False, "public_ip": None, "reserved": True}]
    state = {**REGISTRY, "name": "etcd", "bad": {"/net/subnets/x": "is no [b]subnet[/b] key"}}
    shown = text(render.leases(rows, state))
    assert "reserved" in shown
    assert "/net/subnets/x: left out: is no [b]subnet[/b] key" in shown


@pytest.mark.parametrize(
    ("extra", "shown"),
    [
        ({"endpoint": "http://192.0.2.9:2379", "revision": 7}, "etcd, http://192.0.2.9:2379 at revision 7"),
        ({"connected": False}, "etcd, out of reach; leases are those known before"),
        ({"connected": False, "stale": 1.0}, "etcd, out of reach; leases are stale, from this host's disk"),
    ],
)
def test_how_the_registry_is(extra: dict[str, Any], shown: str) -> None:
    registry = {**REGISTRY, "name": "etcd", **extra}
    assert shown in text(render.status({**STATE, "registry_state": registry}))


def test_a_daemon_that_waits() -> None:
    state = {"state": "waiting", "problems": ["waiting for etcd: [red]no answer"]}
    assert "waiting for etcd: [red]no answer" in text(render.status(state))


@pytest.mark.parametrize(
    ("event", "line"),
    [
        ({"event": "present"}, "=  10.1.2.0/24  192.0.2.2  host-b"),
        ({"event": "added", "name": None}, "+  10.1.2.0/24  192.0.2.2  -"),
        ({"event": "removed"}, "-  10.1.2.0/24  192.0.2.2  host-b"),
        (
            {"event": "changed", "reserved": True, "problem": "is odd"},
            "~  10.1.2.0/24  192.0.2.2  host-b  reserved  is odd",
        ),
    ],
)
def test_lease_events(event: dict[str, Any], line: str) -> None:
    assert render.lease_event({**PEER, **event}) == line
