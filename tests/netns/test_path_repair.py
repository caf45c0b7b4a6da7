"""What somebody changes by hand comes back, and a peer with a new MAC is reached by it and by nothing else.

     h1c1 10.1.1.2                     h2c1 10.1.2.2                     h3c1 10.1.3.2
        |                                 |                                 |
     br0 [h1] eth0 =================== br0 [h2] eth0 ================== br0 [h3] eth0
         ^                                 ^                                 ^
         device down and up,               device deleted                    device down, and left so
         entries deleted

Here much is damaged at once, in all labs before the first test looks; test_repair has each kind of damage by itself.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from overlayd.lab import Host, hosts, merged
from support.picture import picture, ticks
from support.waiting import eventually
from support.wire import FAMILIES, MODES

Trio = tuple[Host, ...]

ROUTE_PROTOCOL = 178
"""Of every route that overlayd makes."""


class Damaged:
    """The labs of all modes as they were, and since when they are not so any more."""

    def __init__(self, labs: dict[str, Trio]) -> None:
        self.labs = labs
        self.pids = {host: host.pid for trio in labs.values() for host in trio}
        self.before = {host: picture(host, mode) for mode, trio in labs.items() for host in trio}
        self.ticks = {host: ticks(pid) for host, pid in self.pids.items() if pid}
        self.since = time.monotonic()
        damage_udp(*labs["udp"])
        damage_vxlan(*labs["vxlan"])
        damage_host_gw(*labs["host-gw"])

    def differences(self, host: Host, mode: str) -> set[str]:
        """What was in the host's kernel and is not, and the other way round."""
        return set(self.before[host]) ^ set(picture(host, mode))


def damage_udp(a: Host, b: Host, c: Host) -> None:
    a.ip("link set ovl0 down", "link set ovl0 up mtu 1300", "route delete unreachable 10.1.0.0/16")
    b.ip("link delete ovl0")
    c.ip("route delete 10.1.1.0/24 dev ovl0", "link set ovl0 down")


def damage_vxlan(a: Host, b: Host, c: Host) -> None:
    macs = [host.status()["lease"]["vtep_mac"] for host in (a, b, c)]
    a.run("bridge", "fdb", "delete", macs[2], "dev", "ovl.1")
    a.ip("neigh delete 10.1.3.0 dev ovl.1", "link set ovl.1 down", "link set ovl.1 up", "link set ovl6.1 mtu 1300")
    a.run("nft", "delete", "table", "inet", "overlayd")
    b.ip("link delete ovl.1", "link delete ovl6.1")
    c.ip("route delete 10.1.1.0/24 dev ovl.1", "link set ovl6.1 down")
    c.run("bridge", "fdb", "replace", macs[0], "dev", "ovl.1", "dst", "192.0.2.2", "self", "permanent")


def damage_host_gw(a: Host, b: Host, c: Host) -> None:
    a.ip("route delete 10.1.2.0/24 via 192.0.2.2", "route delete unreachable 10.1.0.0/16")
    b.ip("link set eth0 down", "link set eth0 up")
    b.run("ip", "address", "replace", "fd00:192:0:2::2/64", "dev", "eth0", "nodad")
    c.ip(f"route replace 10.1.1.0/24 via 192.0.2.2 proto {ROUTE_PROTOCOL}")
    c.run("ip", "-6", "route", "delete", "fd00:10:1:1::/64")


@pytest.fixture(scope="module")
def damaged() -> Iterator[Damaged]:
    with ExitStack() as stack:
        labs = {
            mode: stack.enter_context(hosts(3, mode=mode, family="dual", underlay="dual", settings={"ip_masq": True}))
            for mode in MODES
        }
        yield Damaged(labs)


@pytest.mark.parametrize("mode", MODES)
def test_damage_is_repaired_and_the_daemon_does_not_spin(damaged: Damaged, mode: str) -> None:
    """flannel.md 5: a deleted device costs a whole processor there."""
    trio = damaged.labs[mode]
    for host in trio:
        eventually(lambda host=host: host.status()["repairs"] > 0, what=f"a repair by {host.name}")
        with suppress(pytest.fail.Exception):  # it may still be at work
            eventually(lambda host=host: not damaged.differences(host, mode), timeout=5)
        assert damaged.differences(host, mode) == set(), f"not all of {host.name} came back at once"
        assert host.pid == damaged.pids[host]
    eventually(lambda: time.monotonic() > damaged.since + 2)  # long enough to see a spinning process
    elapsed = time.monotonic() - damaged.since
    for host in trio:
        used = (ticks(host.pid or 0) - damaged.ticks[host]) / os.sysconf("SC_CLK_TCK")
        assert used < elapsed / 2, f"{host.name} used {used} s of processor in {elapsed} s"
        eventually(lambda host=host: host.status()["problems"] == [])
    for one, other in itertools.permutations(trio, 2):
        for family in FAMILIES:
            assert one.container(0).ping(other.container(0).address(family)), (one, other, family)


def test_a_route_of_somebody_elses_in_the_way_is_reported_and_left_alone() -> None:
    with hosts(2, mode="host-gw") as (a, b):
        a.ip("route delete 10.1.2.0/24", "route add 10.1.2.0/24 via 192.0.2.77")
        reload_now(a)
        (problem,) = eventually(lambda: a.status()["problems"])
        assert "a route to 10.1.2.0/24 that overlayd did not make is there; remove it" in problem
        assert "via 192.0.2.77" in a.run("ip", "route", "show", "10.1.2.0/24").stdout
        assert not a.container(0).ping(b.container(0).address(), timeout=0.2)
        a.ip("route delete 10.1.2.0/24")
        reload_now(a)
        eventually(lambda: a.status()["problems"] == [])
        assert a.container(0).ping(b.container(0).address())


def reload_now(host: Host) -> None:
    """Have the daemon read its files and compare, and wait until it has done so."""
    count = host.status()["reload"]["count"]
    assert host.pid
    os.kill(host.pid, signal.SIGHUP)
    eventually(lambda: host.status()["reload"]["count"] > count)


# --- a peer's MAC (flannel leaves the old forwarding entry) -----------------------------------------------------------

NEW_MAC = "0a:58:0a:01:02:00"


def test_a_peers_new_mac_replaces_the_old_one() -> None:
    """flannel.md 10. Written into the table, which the daemons look at every second; the peer itself takes it then,
    or at a start."""
    with hosts(2, mode="vxlan", family="dual", underlay="dual") as (a, b):
        old = b.status()["lease"]["vtep_mac"]

        def macs_of_b(command: str) -> set[str]:
            shown = a.run(*command.split()).stdout
            return set(re.findall(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}", shown))

        def known() -> set[str]:
            commands = ["bridge fdb show dev ovl.1", "bridge fdb show dev ovl6.1"]
            commands += ["ip neigh show dev ovl.1 nud permanent", "ip neigh show dev ovl6.1 nud permanent"]
            return set.union(*map(macs_of_b, commands))

        assert known() == {old}
        first, second = a.lab.leases()
        a.lab.write_leases([first, {**second, "vtep_mac": NEW_MAC}])
        eventually(lambda: known() == {NEW_MAC})
        for command in ("bridge fdb show dev ovl.1", "ip neigh show dev ovl.1 nud permanent"):
            assert macs_of_b(command) == {NEW_MAC}
        eventually(lambda: b.status()["lease"]["vtep_mac"] == NEW_MAC)
        for family in FAMILIES:
            eventually(lambda family=family: a.container(0).ping(b.container(0).address(family), timeout=0.5))
            assert b.container(0).ping(a.container(0).address(family))
        # A new MAC makes the kernel forget a device's neighbours: they must not be gone until the next comparison.
        assert [host.status()["repairs"] for host in (a, b)] == [0, 0]
        b.restart()
        for family in FAMILIES:
            assert a.container(0).ping(b.container(0).address(family))
            assert b.container(0).ping(a.container(0).address(family))
        assert known() == {NEW_MAC}


def test_a_new_mtu_does_not_cut_the_overlay() -> None:
    """Setting a device's MAC, be it to what it is, makes the kernel forget the device's neighbours."""
    with hosts(2, mode="vxlan", family="dual", underlay="dual") as (a, b):
        before = picture(a, "vxlan")
        a.write_config(merged(a.config, {"mtu": 1400}))
        eventually(lambda: a.status()["overlay"]["mtu"] == 1400)
        for family in FAMILIES:
            eventually(lambda family=family: a.container(0).ping(b.container(0).address(family), timeout=0.5))
        assert a.status()["repairs"] == 0, "it was so at once, not after the next comparison"
        assert picture(a, "vxlan") == [line.replace("mtu 1430", "mtu 1400") for line in before]
