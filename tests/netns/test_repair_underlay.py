"""The underlay interface goes down and up, changes its MTU or its address, is made anew: the overlay follows.

h1c1 10.1.1.2 -- br0 10.1.1.1 [h1] eth0 192.0.2.1 ======== eth0 192.0.2.2 [h2] br0 10.1.2.1 -- h2c1 10.1.2.2
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from overlayd.backend.modes import SETTINGS
from overlayd.lab import Host, hosts
from support.etcd_cluster import etcd_of, flannel_value, key_of
from support.picture import DEVICES, picture
from support.waiting import eventually
from support.wire import FAMILIES, MODES, tcp_carries

Pair = tuple[Host, Host]


@pytest.fixture(scope="module")
def pairs() -> Iterator[dict[str, Pair]]:
    with ExitStack() as stack:
        yield {
            mode: stack.enter_context(hosts(2, mode=mode, family="dual", underlay="dual")) for mode in (*MODES, "udp")
        }


def talks(a: Host, b: Host, timeout: float = 2) -> bool:
    """Whether containers reach each other by each family."""
    return all(a.container(0).ping(b.container(0).address(family), timeout=timeout) for family in FAMILIES)


def addresses(host: Host, *lines: str) -> None:
    """Give the underlay interface what it had, as the host's network manager does, and then these lines."""
    host.ip(
        *(f"address replace {one} dev eth0{' nodad' if one.version == 6 else ''}" for one in host.plan.underlay), *lines
    )


@pytest.mark.parametrize("mode", MODES)
def test_down_and_up(pairs: dict[str, Pair], mode: str) -> None:
    """The kernel drops the routes over it and its IPv6 addresses; devices and sockets stay what they are."""
    a, b = pairs[mode]
    before, mark = picture(a, mode), len(a.log())
    a.ip("link set eth0 down")
    eventually(lambda: "interface eth0 is down: no peer can be reached" in a.status()["problems"])
    a.ip("link set eth0 up")
    addresses(a)
    eventually(lambda: talks(a, b, 0.3), what="containers talk again")
    eventually(lambda: a.status()["problems"] == [])
    eventually(lambda: picture(a, mode) == before)
    assert "data path rebuilt" not in a.log()[mark:]
    assert "device differs" not in a.log()[mark:]


@pytest.mark.parametrize("away", [0.5, 5.0], ids=["for a moment", "for longer than the grace period"])
@pytest.mark.parametrize("mode", MODES)
def test_an_address_that_comes_back(pairs: dict[str, Pair], mode: str, away: float) -> None:
    """With it the kernel forgets the routes that go over it; all is well again as soon as it is there."""
    a, b = pairs[mode]
    before, own = picture(a, mode), a.plan.underlay[0]
    a.ip(f"address delete {own} dev eth0")
    time.sleep(away)
    addresses(a)
    eventually(lambda: talks(a, b, 0.3), "containers talk again", timeout=3)
    eventually(lambda: a.status()["problems"] == [], "nothing is reported any more", timeout=3)
    eventually(lambda: picture(a, mode) == before)


@pytest.mark.parametrize("mode", MODES)
def test_another_mtu(pairs: dict[str, Pair], mode: str) -> None:
    """Both ends of the cable; the containers still have the MTU that they were made with, and are told."""
    a, b = pairs[mode]
    before, mark = {host: picture(host, mode) for host in (a, b)}, len(a.log())
    wide = a.status()["overlay"]["mtu"]
    for mtu in (1400, 1500):
        for host in (a, b):
            host.ip(f"link set eth0 mtu {mtu}")
        overlay = mtu - max(SETTINGS.modes[mode].overhead(family) for family in FAMILIES)
        for host in (a, b):
            eventually(lambda host=host, overlay=overlay: host.status()["overlay"]["mtu"] == overlay)
            assert host.status()["underlay"]["mtu"] == mtu
            eventually(lambda host=host, overlay=overlay: f"FLANNEL_MTU={overlay}\n" in host.subnet_file.read_text())
            for device in DEVICES[mode]:
                (link,) = json.loads(host.run("ip", "-j", "link", "show", device).stdout)
                assert link["mtu"] == overlay
        for family in FAMILIES:
            assert tcp_carries(1 << 20, a.container(0), b.container(0), b.container(0).address(family))
            assert tcp_carries(1 << 20, b.container(0), a.container(0), a.container(0).address(family))
    assert a.status()["overlay"]["mtu"] == wide
    assert {host: picture(host, mode) for host in (a, b)} == before
    assert "data path rebuilt" not in a.log()[mark:], "the sockets stay"


@pytest.mark.parametrize("mode", MODES)
def test_an_address_that_is_not_sent_from_changes_nothing(pairs: dict[str, Pair], mode: str) -> None:
    a, b = pairs[mode]
    before, mark = picture(a, mode), len(a.log())
    a.ip("address add 198.51.100.1/24 dev eth0")
    eventually(lambda: "applied the changed underlay" in a.log()[mark:])
    assert talks(a, b)
    mark = len(a.log())
    a.ip("address delete 198.51.100.1/24 dev eth0")
    eventually(lambda: "applied the changed underlay" in a.log()[mark:])
    assert talks(a, b)
    assert "data path rebuilt" not in a.log()[mark:]
    assert picture(a, mode) == before


@pytest.mark.parametrize("mode", MODES)
def test_another_address_with_a_static_table(pairs: dict[str, Pair], mode: str) -> None:
    """The table has to say so on every host; until it does, the host with the new address says what is wrong."""
    a, b = pairs[mode]
    leases = b.lab.leases()
    b.ip("address delete 192.0.2.2/24 dev eth0", "address add 192.0.2.22/24 dev eth0")
    problem = eventually(lambda: next((one for one in b.status()["problems"] if "the row of this host" in one), None))
    assert "has public_ip 192.0.2.2, and this host has 192.0.2.22 (eth0): correct the row" in problem
    a.lab.write_leases([leases[0], {**leases[1], "public_ip": "192.0.2.22"}])
    eventually(lambda: b.status()["underlay"]["public_ip"] == "192.0.2.22")
    eventually(lambda: talks(a, b, 0.3), what="containers talk again")
    eventually(lambda: b.status()["problems"] == [])
    b.ip("address delete 192.0.2.22/24 dev eth0", "address add 192.0.2.2/24 dev eth0")
    a.lab.write_leases(leases)
    eventually(lambda: b.status()["underlay"]["public_ip"] == "192.0.2.2")
    eventually(lambda: talks(a, b, 0.3), what="containers talk again")
    eventually(lambda: b.status()["problems"] == [])


@pytest.mark.parametrize("mode", MODES)
def test_the_interface_is_made_anew(pairs: dict[str, Pair], mode: str) -> None:
    """A cable is pulled out with its interfaces, and another one put in: other interface indexes."""
    a, b = pairs[mode]
    before = picture(a, mode)
    a.ip("link delete eth0")
    for host in (a, b):
        eventually(lambda host=host: any("interface eth0 is gone" in one for one in host.status()["problems"]))
    a.ip(f"link add eth0 index 77 type veth peer name eth0 index 78 netns {b.namespace}")
    for host in (a, b):
        addresses(host, "link set eth0 up")
        addresses(host)
    eventually(lambda: talks(a, b, 0.3), what="containers talk again")
    for host in (a, b):
        eventually(lambda host=host: host.status()["problems"] == [])
    eventually(lambda: picture(a, mode) == before)


@pytest.mark.parametrize("mode", ["udp", "vxlan"])
def test_another_address_in_a_cluster(mode: str) -> None:
    """The node keeps its subnet, its lease gets the new address, and the peers follow."""
    with hosts(2, mode=mode, registry="etcd") as (a, b):
        subnet = b.status()["lease"]["subnet"]
        b.ip("address delete 192.0.2.2/24 dev eth0", "address add 192.0.2.22/24 dev eth0")
        eventually(lambda: b.status()["lease"]["public_ip"] == "192.0.2.22")
        assert b.status()["lease"]["subnet"] == subnet
        eventually(lambda: [peer["public_ip"] for peer in a.status()["peers"]] == ["192.0.2.22"])
        eventually(lambda: a.container(0).ping(b.container(0).address(), timeout=0.3), what="containers talk again")
        assert b.container(0).ping(a.container(0).address())
        assert b.status()["problems"] == []
        etcd_of(b).put(key_of("10.1.77.0/24"), flannel_value("192.0.2.77", backend=mode))
        for host in (a, b):
            eventually(lambda host=host: len(host.status()["peers"]) == 2, what=f"{host.name} follows etcd")
