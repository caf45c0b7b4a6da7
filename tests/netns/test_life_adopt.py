"""What an earlier daemon left behind: taken over, said to differ, put right, or removed (flannel does none of it).

h1c1 10.1.1.2 -- br0 10.1.1.1 [h1] eth0 192.0.2.1 ======== eth0 192.0.2.2 [h2] br0 10.1.2.1 -- h2c1 10.1.2.2
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from overlayd.lab import Host, hosts, merged
from support.dump import assert_same, devices, dump, index_of
from support.pings import pinging
from support.waiting import eventually
from support.wire import MODES

Pair = tuple[Host, Host]
MTU = {"udp": 1472, "vxlan": 1450, "host-gw": 1500}


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with hosts(2, mode="vxlan") as (a, b):
        yield a, b


def left_by_another(a: Host, settings: dict[str, object]) -> int:
    """Have a daemon with these settings run before, then stop; the length of the log after that."""
    a.stop()
    a.write_config(merged(a.config, settings))
    a.start()
    assert a.stop() == 0
    a.write_config(a.config)
    return len(a.log())


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"mtu": 1400}, "mtu is 1400, want 1450"),
        ({"vxlan": {"learning": True}}, "learning is True, want False"),
    ],
)
def test_what_can_change_in_place_is_changed_under_the_traffic(
    pair: Pair, settings: dict[str, object], line: str
) -> None:
    a, b = pair
    before = dump(a)
    index = index_of(a, "ovl.1")
    with pinging(a.container(0), b.container(0).address()):
        mark = left_by_another(a, settings)
        with pytest.raises(AssertionError, match="state differs"):
            assert_same(before, dump(a))
        a.start()
    said = [text for text in a.log()[mark:].splitlines() if "device differs" in text]
    assert len(said) == 1
    assert f'device=ovl.1 differs="{line}"' in said[0]
    assert index_of(a, "ovl.1") == index
    assert_same(before, dump(a))


def test_a_device_changed_by_hand_is_put_right_at_the_start(pair: Pair) -> None:
    a, b = pair
    before = dump(a)
    a.stop()
    a.ip("link set ovl.1 mtu 1300 down", "addr add 10.1.77.0/32 dev ovl.1")
    mark = len(a.log())
    a.start()
    assert 'differs="mtu is 1300, want 1450; up is False, want True"' in a.log()[mark:]
    assert_same(before, dump(a))
    assert a.container(0).ping(b.container(0).address())


def test_another_mac_is_put_right_with_all_that_the_kernel_forgets_by_it(pair: Pair) -> None:
    a, b = pair
    before, leases = dump(a), a.lab.leases()
    a.stop()
    a.lab.write_leases([{**leases[0], "vtep_mac": "02:00:00:00:00:42"}, leases[1]])
    a.start()
    a.stop()
    a.lab.write_leases(leases)
    mark = len(a.log())
    a.start()
    assert f'differs="mac is 02:00:00:00:00:42, want {a.plan.lease.vtep_mac}"' in a.log()[mark:]
    assert_same(before, dump(a))
    eventually(lambda: a.container(0).ping(b.container(0).address(), timeout=0.5), "b has the right MAC again too")


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"vxlan": {"port": 9999}}, "port is 9999, want 8472"),
        ({"vxlan": {"gbp": True}}, "gbp is True, want False"),
    ],
)
def test_what_cannot_change_in_place_is_made_anew(pair: Pair, settings: dict[str, object], line: str) -> None:
    a, b = pair
    before = dump(a, ifindex=False)
    index = index_of(a, "ovl.1")
    mark = left_by_another(a, settings)
    a.start()
    assert index_of(a, "ovl.1") != index
    assert_same(before, dump(a, ifindex=False))
    assert a.container(0).ping(b.container(0).address())
    assert line in a.log()[mark:]


def test_another_vni_leaves_no_device_of_the_former_one(pair: Pair) -> None:
    a, b = pair
    before = dump(a, ifindex=False)
    a.stop()
    a.write_config(merged(a.config, {"vxlan": {"vni": 7}}))
    a.start()
    assert devices(a) == {"ovl.7"}
    a.stop()
    a.write_config(a.config)
    a.start()
    assert_same(before, dump(a, ifindex=False))
    assert a.container(0).ping(b.container(0).address())


@pytest.mark.parametrize("mode", MODES)
def test_peers_that_went_while_no_daemon_ran(mode: str) -> None:
    with hosts(3, mode=mode, start=False) as (a, b, c):
        two = [host.plan.lease_entry() for host in (a, b)]
        a.lab.write_leases(two)
        a.start()
        b.start()
        with_two = dump(a)
        a.lab.write_leases([*two, c.plan.lease_entry()])
        eventually(lambda: str(c.subnet) in a.run("ip", "route").stdout, "the third lease has come")
        a.stop()
        a.lab.write_leases(two)
        a.start()
        assert_same(with_two, dump(a))
        assert a.container(0).ping(b.container(0).address())


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(MODES, 2)))
def test_another_mode_after_a_stop_leaves_nothing_of_the_former_one(first: str, second: str) -> None:
    with hosts(2, mode=first, start=False, settings={"ip_masq": True}) as (a, b):

        def start(mode: str) -> None:
            for host in (a, b):
                if host.pid is not None:
                    host.stop()
                host.write_config({**host.config, "mode": mode})
            a.lab.start()
            assert a.container(0).ping(b.container(0).address())
            assert f"FLANNEL_MTU={MTU[mode]}\n" in a.subnet_file.read_text()

        start(first)
        before = dump(a, ifindex=False)
        start(second)
        assert devices(a) == {"udp": {"ovl0"}, "vxlan": {"ovl.1"}, "host-gw": set()}[second]
        assert ("VXLAN from a host" in a.run("nft", "list", "ruleset").stdout) == (second == "vxlan")
        start(first)
        assert_same(before, dump(a, ifindex=False))
