"""The status as people read it: every key fact is there, and no state of a daemon breaks it."""

from __future__ import annotations

from typing import Any

import pytest

from overlayd.cli import lease, status
from support.answers import LEASE, REGISTRY, STATE, text


def test_status() -> None:
    shown = text(*status.status(STATE))
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
        "peers": [{**LEASE, "problem": "has no public_ip", "traffic": None}],
        "repairs": 4,
        "reload": {"count": 1, "error": "overlayd.yaml:3: mtu: [bold] is no MTU"},
    }
    shown = text(*status.status(state))
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
        {"peers": [{**LEASE, "name": None, "traffic": None}]},
        {"peers": [{**LEASE, "subnet": None, "ipv6_subnet": "fd00::/64", "public_ip": None, "public_ipv6": "fd01::1"}]},
        {"drops": {"tx": {}, "rx": {}}, "icmp": None},
        {"uptime_seconds": 0.2},
    ],
)
@pytest.mark.parametrize("width", [30, 80, 200])
def test_no_state_breaks_it(extra: dict[str, Any], width: int) -> None:
    assert STATE["lease"]["subnet"][:4] in text(*status.status({**STATE, **extra}), width=width)


def test_no_peers_and_no_device_are_said() -> None:
    overlay = {"interfaces": [], "mtu": 1500, "networks": ["10.1.0.0/16"]}
    shown = text(*status.status({**STATE, "peers": [], "overlay": overlay}))
    assert "no peers" in shown
    assert "no device, MTU 1500" in shown


def test_names_are_text_and_no_markup() -> None:
    """A host's name comes from a file that others may write: it must not colour or link anything."""
    hostile = {**LEASE, "name": "[link=http://x]x[/link]", "own": False}
    assert "[link=http://x]x[/link]" in text(*lease.leases([hostile], REGISTRY, with_mac=True))
    assert "[link=http://x]x[/link]" in text(*status.status({**STATE, "peers": [hostile]}))


def test_leases() -> None:
    rows = [{**LEASE, "own": True}, {**LEASE, "name": None, "problem": "has no public_ip", "own": False}]
    heading, own, other, note = text(*lease.leases(rows, REGISTRY, with_mac=True)).splitlines()
    assert heading.split() == ["HOST", "SUBNET", "PUBLIC", "IP", "VTEP", "MAC"]
    assert "this host" in own
    assert other.startswith("- ")
    assert note == "  has no public_ip"


def test_a_reservation_and_what_makes_no_sense_are_shown_among_the_leases() -> None:
    rows = [{**LEASE, "own": False, "public_ip": None, "reserved": True}]
    state = {**REGISTRY, "name": "etcd", "invalid": {"/net/subnets/x": "is no [b]subnet[/b] key"}}
    shown = text(*lease.leases(rows, state, with_mac=False))
    assert "reserved" in shown
    assert "/net/subnets/x: ignored: is no [b]subnet[/b] key" in shown


@pytest.mark.parametrize(
    ("extra", "shown"),
    [
        ({"endpoint": "http://192.0.2.9:2379", "revision": 7}, "etcd, http://192.0.2.9:2379 at revision 7"),
        ({"connected": False}, "etcd, unreachable; leases are those last known"),
        ({"connected": False, "stale": 1.0}, "etcd, unreachable; leases are from this host's disk"),
    ],
)
def test_how_the_registry_is(extra: dict[str, Any], shown: str) -> None:
    registry = {**REGISTRY, "name": "etcd", **extra}
    assert shown in text(*status.status({**STATE, "registry_state": registry}))


def test_a_daemon_that_waits() -> None:
    state = {"state": "waiting", "problems": ["waiting for etcd: [red]no answer"]}
    assert "waiting for etcd: [red]no answer" in text(*status.status(state))


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
    assert lease.lease_event({**LEASE, **event}) == line
