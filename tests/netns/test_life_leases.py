"""Leases that come, go and move while daemons run: what follows of it, and that nobody else's traffic notices.

h1c1 10.1.1.2 -- br0 [h1] eth0 .1 ===+=== eth0 .2 [h2] br0 -- h2c1 10.1.2.2
                                     |
                                     +=== eth0 .3 [h3] br0 -- h3c1 10.1.3.2       underlay 192.0.2.0/24
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from overlayd.lab import Host, hosts, wait_ready
from support.commands import reloaded
from support.dump import assert_same, dump, route_events
from support.pings import pinging
from support.waiting import eventually
from support.wire import MODES

Three = tuple[Host, Host, Host]


@pytest.fixture(scope="module", params=MODES)
def three(request: pytest.FixtureRequest) -> Iterator[Three]:
    """Three hosts; the third one is ready, but the others do not know its lease."""
    with hosts(3, mode=request.param, start=False) as (a, b, c):
        c.start(wait=False)
        wait_ready([c])
        a.lab.write_leases(rows(a, b))
        a.start(wait=False)
        b.start(wait=False)
        wait_ready([a, b])
        yield a, b, c


def rows(*some: Host) -> list[dict[str, str]]:
    """The rows of these hosts, as the lab wrote them first."""
    return [host.plan.lease_entry() for host in some]


def traces(host: Host, peer: Host) -> list[str]:
    """Every line of kernel state that is about this peer: by its subnet, its VTEP's MAC or its underlay address."""
    signs = (str(peer.subnet), f"{peer.subnet.network_address} ", peer.plan.lease.vtep_mac, f" {peer.public_ip} ")
    shown = {
        "route": host.run("ip", "route").stdout,
        "neigh": host.run("ip", "neigh", "show", "nud", "permanent").stdout,
        "fdb": host.run("bridge", "fdb").stdout,
        "nft": host.run("nft", "list", "ruleset").stdout.replace(",", " "),
    }
    found = []
    for what, text in shown.items():
        found += [f"{what}: {line}" for line in text.splitlines() if any(sign in f"{line} " for sign in signs)]
    return found


def expected_traces(host: Host) -> list[str]:
    """What `traces` begins with for one reachable peer, in order."""
    return ["route", *(["neigh", "fdb"] if host.lab.spec.mode == "vxlan" else []), "nft"]


def test_a_lease_comes_and_goes(three: Three) -> None:
    a, b, c = three
    inner, third = a.container(0), c.container(0).address()
    before = dump(a)
    assert traces(a, c) == []
    assert not inner.ping(third, timeout=0.3)
    with pinging(inner, b.container(0).address()), route_events(a) as events:
        reloaded(a, lambda: a.lab.write_leases(rows(a, b, c)))
        eventually(lambda: inner.ping(third, timeout=0.5), "the new lease is reachable")
        assert [line.split(":")[0] for line in traces(a, c)] == expected_traces(a)
        reloaded(a, lambda: a.lab.write_leases(rows(a, b)))
        eventually(lambda: not inner.ping(third, timeout=0.3), "the lease that went is unreachable")
        assert traces(a, c) == []
    of_c = [line for line in events if str(c.subnet) in line]
    assert [line.startswith("Deleted") for line in of_c] == [False, True]
    assert [line for line in events if str(b.subnet) in line] == [], "the other peer's route was touched"
    assert_same(before, dump(a))
    eventually(lambda: a.status()["problems"] == [], "nothing is wrong")
    for change in ("added", "removed"):
        assert f'msg="lease {change}" lease={c.plan.lease} name=h3' in a.log()


def readdress(host: Host, subnet: str) -> None:
    """Give the host's bridge and container the addresses of another subnet, "10.1.9", as its operator would."""
    inner = host.container(0)
    host.run("ip", "-4", "addr", "flush", "dev", "br0")
    host.ip(f"addr add {subnet}.1/24 dev br0")
    inner.run("ip", "-4", "addr", "flush", "dev", "eth0")
    inner.ip(f"addr add {subnet}.2/24 dev eth0", f"route add default via {subnet}.1")


def leases(*some: tuple[Host, str]) -> list[dict[str, str]]:
    """Rows that give each of these hosts this subnet."""
    return [{**host.plan.lease_entry(), "subnet": f"{subnet}.0/24"} for host, subnet in some]


def assert_nothing_was_repaired(three: Three) -> None:
    """A reload leads to the right state by itself; what only the periodic comparison finds was broken until then."""
    repairs = [line for host in three for line in host.log().splitlines() if "kernel state repaired" in line]
    assert repairs == []


def own_subnet(host: Host) -> str:
    """What the daemon says that it holds."""
    return str(host.status()["lease"]["subnet"])


def test_a_host_gets_another_subnet(three: Three) -> None:
    a, b, _ = three
    before = dump(b)
    inner = a.container(0)
    readdress(b, "10.1.9")
    a.lab.write_leases(leases((a, "10.1.1"), (b, "10.1.9")))
    eventually(lambda: own_subnet(b) == "10.1.9.0/24", "b holds its new subnet")
    eventually(lambda: inner.ping("10.1.9.2", timeout=0.5), "the new subnet is reachable")
    assert b.container(0).ping(inner.address())
    eventually(lambda: "FLANNEL_SUBNET=10.1.9.1/24\n" in b.subnet_file.read_text(), "subnet.env has the new subnet")
    assert "10.1.2." not in a.run("ip", "route").stdout
    assert "10.1.2." not in b.run("ip", "-d", "addr").stdout
    readdress(b, "10.1.2")
    a.lab.write_leases(rows(a, b))
    eventually(lambda: own_subnet(b) == "10.1.2.0/24", "b holds its old subnet")
    eventually(lambda: inner.ping(b.container(0).address(), timeout=0.5), "the old subnet is reachable")
    assert_same(before, dump(b))
    assert_nothing_was_repaired(three)


def test_two_hosts_swap_their_subnets(three: Three) -> None:
    a, b, c = three
    inner = a.container(0)
    a.lab.write_leases(rows(a, b, c))
    eventually(lambda: inner.ping("10.1.3.2", timeout=0.5), "all know all")
    before = dump(a)
    readdress(b, "10.1.3")
    readdress(c, "10.1.2")
    # A packet may arrive by a stale route of a's, too: in host-gw mode whoever gets it sends it on.
    reloaded(a, lambda: a.lab.write_leases(leases((a, "10.1.1"), (b, "10.1.3"), (c, "10.1.2"))))
    for host, subnet in ((b, "10.1.3"), (c, "10.1.2")):
        eventually(lambda host=host, subnet=subnet: own_subnet(host) == f"{subnet}.0/24", f"{host.name} has {subnet}")
        eventually(lambda subnet=subnet: inner.ping(f"{subnet}.2", timeout=0.5), f"{subnet}.2 is reachable")
    eventually(lambda: b.container(0).ping("10.1.2.2", timeout=0.5), "the two reach each other")
    assert c.container(0).ping("10.1.3.2")
    for host in three:
        eventually(lambda host=host: host.status()["problems"] == [], f"nothing is wrong on {host.name}")
    readdress(b, "10.1.2")
    readdress(c, "10.1.3")
    reloaded(a, lambda: a.lab.write_leases(rows(a, b, c)))
    for host in (b, c):
        eventually(lambda host=host: own_subnet(host) == str(host.subnet), f"{host.name} has its old subnet")
        eventually(lambda host=host: inner.ping(host.container(0).address(), timeout=0.5), f"{host.name} is reachable")
    assert_same(before, dump(a))
    reloaded(a, lambda: a.lab.write_leases(rows(a, b)))
    assert_nothing_was_repaired(three)
