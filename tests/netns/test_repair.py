"""Whatever of overlayd's is deleted or changed by somebody else is put back, long before the next full comparison.

h1c1 10.1.1.2 -- br0 10.1.1.1 [h1] eth0 192.0.2.1 ======== eth0 192.0.2.2 [h2] br0 10.1.2.1 -- h2c1 10.1.2.2
                               ^
                               damage

A full comparison comes once a minute, give or take; `eventually` waits a quarter of that. So what comes back does so
because it was heard of.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from overlayd.lab import Host, hosts
from support.picture import picture, ticks
from support.waiting import eventually
from support.wire import FAMILIES, MODES

Pair = tuple[Host, Host]

DAMAGE = {
    "udp": [
        "ip route delete 10.1.2.0/24",
        "ip route delete unreachable 10.1.0.0/16",
        "ip -6 route delete fd00:10:1:2::/64",
        "ip address delete 10.1.1.0/32 dev ovl0",
        "ip address add 10.1.77.1/24 dev ovl0",
        "ip link set ovl0 mtu 1300",
        "ip link set ovl0 mtu 1200",  # the kernel takes the IPv6 addresses and routes along
        "ip link set ovl0 txqueuelen 10",
        "ip link set ovl0 down",
        "ip link delete ovl0",
        "nft delete table inet overlayd",
        "nft flush ruleset",
    ],
    "vxlan": [
        "ip route delete 10.1.2.0/24",
        "ip route replace 10.1.2.0/24 dev ovl.1 proto 178",
        "ip route add 10.1.77.0/24 dev ovl.1 proto 178",
        "ip neigh delete 10.1.2.0 dev ovl.1",
        "ip neigh replace 10.1.2.0 lladdr 02:00:00:00:00:99 dev ovl.1 nud permanent",
        "ip neigh change 10.1.2.0 lladdr 02:00:00:00:00:99 dev ovl.1 nud stale",
        "ip neigh delete fd00:10:1:2:: dev ovl6.1",
        "bridge fdb delete MAC dev ovl.1",
        "bridge fdb replace MAC dev ovl.1 dst 192.0.2.9 self permanent",
        "bridge fdb delete MAC dev ovl6.1",
        "bridge fdb append 02:00:00:00:00:99 dev ovl.1 dst 192.0.2.9",
        "ip address delete 10.1.1.0/32 dev ovl.1",
        "ip link set ovl6.1 mtu 1300",
        "ip link set ovl.1 address 02:00:00:00:00:01",
        "ip link set ovl.1 down",
        "ip link set ovl6.1 down",
        "ip link set ovl.1 type vxlan learning",
        "ip link set ovl.1 name theirs",
        "ip link delete ovl.1",
        "nft delete table inet overlayd",
        "nft flush set inet overlayd peers4",
        "nft delete element inet overlayd peers6 { fd00:192:0:2::2 }",
        "nft flush chain inet overlayd guard",
        "nft add rule inet overlayd guard drop",
    ],
    "host-gw": [
        "ip route delete 10.1.2.0/24",
        "ip route replace 10.1.2.0/24 via 192.0.2.77 proto 178",
        "ip -6 route delete fd00:10:1:2::/64",
        "ip route flush proto 178",
        "nft delete table inet overlayd",
    ],
}


@pytest.fixture(scope="module")
def pairs() -> Iterator[dict[str, Pair]]:
    with ExitStack() as stack:
        spec = {"family": "dual", "underlay": "dual", "settings": {"ip_masq": True}}
        yield {mode: stack.enter_context(hosts(2, mode=mode, **spec)) for mode in MODES}


@pytest.mark.parametrize(("mode", "command"), [(mode, command) for mode in MODES for command in DAMAGE[mode]])
def test_damage_is_repaired(pairs: dict[str, Pair], mode: str, command: str) -> None:
    """flannel.md 5 and 9: it stays as it is there, until a restart."""
    a, b = pairs[mode]
    before, repairs, mark = picture(a, mode), a.status()["repairs"], len(a.log())
    a.run(*command.replace("MAC", b.status()["lease"]["vtep_mac"]).split())
    eventually(lambda: a.status()["repairs"] > repairs, what=f"a repair after {command}")
    eventually(lambda: picture(a, mode) == before, what="everything is as it was")
    assert 'msg="kernel state repaired"' in a.log()[mark:]
    errors = [line for line in a.log()[mark:].splitlines() if "level=error" in line]
    # A look at the device may fall between the damage and the repair.
    assert [line for line in errors if not re.search('msg="(the TUN is gone|data path is broken)', line)] == []
    eventually(lambda: a.status()["problems"] == [])
    for family in FAMILIES:
        assert a.container(0).ping(b.container(0).address(family))


def test_what_overlayd_changes_itself_is_no_damage() -> None:
    """A start, leases that come, change and go, another MTU of the underlay: nothing is repaired, nor compared."""
    with hosts(2, mode="vxlan", family="dual", underlay="dual", settings={"ip_masq": True}) as (a, _):
        before, leases = picture(a, "vxlan"), a.lab.leases()
        other = {"subnet": "10.1.9.0/24", "public_ip": "192.0.2.9"}
        for table in ([*leases, other], [*leases, {**other, "vtep_mac": "02:00:00:00:00:09"}], leases):
            a.lab.write_leases(table)
            wanted = len(table) - 1
            eventually(lambda wanted=wanted: len(a.status()["peers"]) == wanted)
        for mtu in (1400, 1500):
            a.ip(f"link set eth0 mtu {mtu}")
            eventually(lambda mtu=mtu: a.status()["overlay"]["mtu"] == mtu - 70)
        eventually(lambda: picture(a, "vxlan") == before)
        assert [a.status()[key] for key in ("repairs", "comparisons")] == [0, 0]


def test_another_firewall_that_comes_later_is_heard_of() -> None:
    """As when dockerd starts: its forward chain drops, and ours has to stand at its head."""
    with hosts(2, mode="vxlan") as (a, b):
        a.run("iptables", "-P", "FORWARD", "DROP")
        eventually(lambda: a.container(0).ping(b.container(0).address(), timeout=0.3), what="containers' packets pass")
        for _ in range(2):
            a.run("iptables", "-F", "FORWARD")
            eventually(lambda: a.container(0).ping(b.container(0).address(), timeout=0.3), what="they pass again")


def test_a_route_in_the_way_is_heard_of_when_it_comes_and_when_it_goes(pairs: dict[str, Pair]) -> None:
    a, b = pairs["host-gw"]
    a.ip("route replace 10.1.2.0/24 via 192.0.2.77")  # of protocol boot, in the place of ours
    (problem,) = eventually(lambda: a.status()["problems"])
    assert "a route to 10.1.2.0/24 that overlayd did not make is there; remove it" in problem
    assert "via 192.0.2.77" in a.run("ip", "route", "show", "10.1.2.0/24").stdout
    a.ip("route delete 10.1.2.0/24")
    eventually(lambda: a.status()["problems"] == [])
    assert a.container(0).ping(b.container(0).address())


def test_a_device_that_goes_under_load_takes_nothing_else_along() -> None:
    """Packets for it go nowhere, least of all into another file that has its descriptor's number now."""
    with hosts(2, mode="udp") as (a, b):
        flood = b.container(0).popen("ping", "-q", "-f", "-s", "1000", str(a.container(0).address()))
        try:
            for _ in range(10):
                repairs = a.status()["repairs"]
                a.ip("link delete ovl0")
                eventually(lambda repairs=repairs: a.status()["repairs"] > repairs)  # each answer is one of its own
        finally:
            flood.kill()
            flood.wait()
        assert eventually(lambda: a.container(0).ping(b.container(0).address(), timeout=0.3))


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.mark.parametrize("mode", MODES[:2])
def test_deleted_again_and_again(pairs: dict[str, Pair], mode: str) -> None:
    """flannel.md 5. The device, with everything that hangs on it, as soon as it is there."""
    a, b = pairs[mode]
    device = {"udp": "ovl0", "vxlan": "ovl.1"}[mode]
    before, pid = picture(a, mode), a.pid
    assert pid is not None
    started, used, files = a.status()["uptime_seconds"], ticks(pid), descriptors(pid)
    for _ in range(6):  # it goes in steps, and what goes first is heard of first
        a.ip(f"link delete {device}")
        eventually(lambda: picture(a, mode) == before, what="everything is as it was")
    used, elapsed = ticks(pid) - used, a.status()["uptime_seconds"] - started
    assert used / os.sysconf("SC_CLK_TCK") < elapsed / 2, "it spins"
    eventually(lambda: descriptors(pid) <= files, what="no file descriptor leaks")
    assert a.container(0).ping(b.container(0).address())


def test_more_notifications_than_the_kernel_keeps(pairs: dict[str, Pair]) -> None:
    """While the daemon stands still: what is lost among them is found by comparing everything."""
    a, b = pairs["vxlan"]
    before, pid = picture(a, "vxlan"), a.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        for verb in ("add", "delete"):
            a.ip(*(f"route {verb} blackhole 10.200.{number // 256}.{number % 256}" for number in range(30000)))
        a.ip("route delete 10.1.2.0/24")
    finally:
        os.kill(pid, signal.SIGCONT)
    eventually(lambda: picture(a, "vxlan") == before, what="everything is as it was")
    assert a.container(0).ping(b.container(0).address())
