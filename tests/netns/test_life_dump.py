"""What the other life tests share: dumps of a host's kernel state, continuous pings, and waiting for what must come.

The tests in here hold the dump to account: one that did not see a change would let every comparison pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from overlayd.lab import Host, LabError, hosts
from support.dump import assert_same, devices, dump, index_of, route_events
from support.pings import pinging

# --- the commands -----------------------------------------------------------------------------------------------------


# --- dumps ------------------------------------------------------------------------------------------------------------


# --- what goes on meanwhile -------------------------------------------------------------------------------------------


# --- the dump itself --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with hosts(2, mode="none", underlay="dual") as (one, _):
        yield one


@pytest.mark.parametrize(
    ("make", "undo", "command"),
    [
        ("ip link add x type bridge", "ip link del x", "ip -d link"),
        ("ip link set eth0 mtu 1400", "ip link set eth0 mtu 1500", "ip -d link"),
        ("ip addr add 10.9.9.9/32 dev lo", "ip addr del 10.9.9.9/32 dev lo", "ip -d addr"),
        ("ip route add unreachable 10.9.0.0/16", "ip route del unreachable 10.9.0.0/16", "ip route show table all"),
        ("ip route add 10.9.0.0/16 dev eth0 table 7", "ip route flush table 7", "ip route show table all"),
        ("ip -6 route add fd99::/64 dev eth0", "ip -6 route del fd99::/64", "ip -6 route show table all"),
        ("ip rule add pref 7 lookup 7", "ip rule del pref 7", "ip rule"),
        (
            "ip neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev eth0 nud permanent",
            "ip neigh del 192.0.2.9 dev eth0",
            "ip neigh",
        ),
        ("bridge fdb add 02:00:00:00:00:09 dev eth0 self", "bridge fdb del 02:00:00:00:00:09 dev eth0", "bridge fdb"),
        ("nft add table inet x", "nft delete table inet x", "nft list ruleset"),
    ],
)
def test_a_dump_shows_each_kind_of_change(host: Host, make: str, undo: str, command: str) -> None:
    before = dump(host)
    host.run(*make.split())
    try:
        with pytest.raises(AssertionError, match=re.escape(f"{command}: ")):
            assert_same(before, dump(host))
    finally:
        host.run(*undo.split())
    assert_same(before, dump(host))


def test_a_dump_shows_rules_of_iptables(host: Host) -> None:
    host.run("iptables", "-P", "FORWARD", "ACCEPT")
    before = dump(host)
    host.run("iptables", "-A", "FORWARD", "-s", "10.9.0.0/16", "-j", "ACCEPT")
    with pytest.raises(AssertionError, match=r"iptables-save: \+ -A FORWARD"):
        assert_same(before, dump(host))
    host.run("iptables", "-F", "FORWARD")
    assert_same(before, dump(host))


def test_a_lost_ping_is_noticed(host: Host) -> None:
    def broken_for_a_moment() -> None:
        with pinging(host, "192.0.2.2"):
            host.run("iptables", "-A", "INPUT", "-p", "icmp", "-j", "DROP")
            assert not host.ping("192.0.2.2", timeout=0.1)
            host.run("iptables", "-F", "INPUT")

    with pytest.raises(AssertionError, match="echo requests were not answered"):
        broken_for_a_moment()
    with pinging(host, "192.0.2.2"):
        pass


def test_a_deleted_route_is_noticed(host: Host) -> None:
    with route_events(host) as events:
        host.ip("route add unreachable 10.9.0.0/16", "route del unreachable 10.9.0.0/16")
    assert [line.split()[0] for line in events] == ["unreachable", "Deleted"]


def test_devices_are_those_that_the_lab_did_not_make(host: Host) -> None:
    assert devices(host) == set()
    host.ip("link add x type bridge")
    assert devices(host) == {"x"}
    assert index_of(host, "x") > index_of(host, "eth0")
    host.ip("link del x")
    with pytest.raises(LabError, match="x"):
        index_of(host, "x")
