"""Clusters on a real etcd: who gets which subnet, what stands in etcd, and what follows in the kernels.

h1c1 10.1.1.2 -- br0 [h1] eth0 .1 ===+=== eth0 .2 [h2] br0 -- h2c1 10.1.2.2
                                     |
                                     +=== eth0 .251 [etcd]                        underlay 192.0.2.0/24
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator

import pytest

from overlayd.lab import Host, LabError, hosts, merged, wait_ready
from overlayd.lab.etcdctl import PREFIX
from support.commands import one_line, overlayctl, overlayd
from support.etcd_cluster import (
    DAY,
    SUBNETS,
    await_agreement,
    delete_many,
    etcd_of,
    flannel_value,
    forget,
    key_of,
    lines,
    own_subnet,
    put_as_flannel,
    put_many,
    routes,
    take_away,
    written,
)
from support.pings import pinging
from support.waiting import eventually

Two = tuple[Host, Host]


@pytest.fixture(scope="module", params=["udp", "vxlan"])
def two(request: pytest.FixtureRequest) -> Iterator[Two]:
    """Two hosts that are ready."""
    with hosts(2, mode=request.param, registry="etcd") as (a, b):
        await_agreement([a, b])
        yield a, b


# --- what stands in etcd ----------------------------------------------------------------------------------------------


def test_containers_talk_and_etcd_holds_what_flannel_would_write(two: Two) -> None:
    a, b = two
    etcd = etcd_of(a)
    eventually(lambda: a.container(0).ping(b.container(0).address()), "the containers reach each other")
    texts = etcd.below(SUBNETS)
    assert texts.keys() == {f"{SUBNETS}10.1.1.0-24", f"{SUBNETS}10.1.2.0-24"}
    if a.lab.spec.mode == "udp":
        assert texts[key_of(a.subnet)] == '{"PublicIP":"192.0.2.1","PublicIPv6":null}'
    else:
        (link,) = json.loads(a.run("ip", "-j", "link", "show", "ovl.1").stdout)
        mac = link["address"]
        assert texts[key_of(a.subnet)] == (
            '{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan",'
            f'"BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}}}'
        )
    for host in two:
        lease = etcd.lease_of(key_of(host.subnet))
        assert DAY - 600 < etcd.time_left(lease) <= DAY
    assert len(etcd.leases()) == 2, "one etcd lease for each node, and none besides"


def test_a_peers_lease_comes_moves_and_goes(two: Two) -> None:
    """Values that flannel wrote are read (flannel.md, formats)."""
    a, _ = two
    etcd, mode = etcd_of(a), a.lab.spec.mode
    value = flannel_value("192.0.2.77", backend=mode)
    put_as_flannel(etcd, "10.1.52.0/24", value)
    for host in two:
        eventually(lambda host=host: "10.1.52.0/24" in routes(host), f"{host.name} has the new lease's route")
    if mode == "vxlan":
        mac = value["BackendData"]["VtepMAC"]
        assert f"10.1.52.0 dev ovl.1 lladdr {mac} PERMANENT" in a.run("ip", "neigh").stdout
        assert f"{mac} dst 192.0.2.77 self permanent" in fdb(a)
        moved = flannel_value("192.0.2.78")
        put_as_flannel(etcd, "10.1.52.0/24", moved)
        new = moved["BackendData"]["VtepMAC"]
        eventually(lambda: f"{new} dst 192.0.2.78 self permanent" in fdb(a), "the FDB follows the new MAC")
        assert mac not in fdb(a), "flannel.md 10: the old FDB entry stays"
    take_away(etcd, "10.1.52.0/24")
    await_agreement(two)


def fdb(host: Host) -> str:
    return host.run("bridge", "fdb", "show", "dev", "ovl.1").stdout


def test_a_lease_that_expires_goes(two: Two) -> None:
    a, _ = two
    etcd = etcd_of(a)
    put_as_flannel(etcd, "10.1.53.0/24", flannel_value("192.0.2.79", backend=a.lab.spec.mode), ttl=2)
    eventually(lambda: "10.1.53.0/24" in routes(a), "it is there first")
    eventually(lambda: "10.1.53.0/24" not in routes(a), "etcd has let it expire and its route is gone")


def test_a_burst_of_500_events(two: Two) -> None:
    """flannel.md 15: several events in one response."""
    a, b = two
    etcd = etcd_of(a)
    with pinging(a.container(0), b.container(0).address()):
        many = [f"10.1.{number // 4 + 128}.{number % 4 * 64}/26" for number in range(500)]
        put_many(etcd, many, mode=a.lab.spec.mode)
        for host in two:
            eventually(lambda host=host: len(routes(host)) == 501, f"{host.name} has 501 routes")
        delete_many(etcd, many)
        await_agreement(two)


def test_rubbish_in_etcd_harms_nobody(two: Two) -> None:
    a, b = two
    etcd = etcd_of(a)
    rubbish = {
        "10.1.60.0-24": "{",
        "10.1.61.0-24": '{"PublicIP":"nowhere"}',
        "10.1.62.0-33": '{"PublicIP":"192.0.2.9"}',
        "hello": "[]",
        "10.1.63.0-24": '{"PublicIP":"192.0.2.9","BackendType":"vxlan","BackendData":{"VtepMAC":"xx"}}',
    }
    with pinging(a.container(0), b.container(0).address()):
        for key, text in rubbish.items():
            etcd.put(SUBNETS + key, text)
        put_as_flannel(etcd, "10.1.64.0/24", flannel_value("192.0.2.9", backend=a.lab.spec.mode))
        eventually(lambda: "10.1.64.0/24" in routes(a), "what came after the rubbish is read")
    assert routes(a) == {str(b.subnet), "10.1.64.0/24"}
    assert lines(a, "10.1.61.0-24"), "nobody is told"
    for key in rubbish:
        etcd.delete(SUBNETS + key)
    take_away(etcd, "10.1.64.0/24")
    await_agreement(two)


# --- who gets which subnet --------------------------------------------------------------------------------------------


def test_five_hosts_at_the_same_instant() -> None:
    with hosts(5, mode="vxlan", containers=0, registry="etcd", start=False) as nodes:
        for host in nodes:
            forget(host)
            host.start(wait=False)
        wait_ready(nodes)
        await_agreement(nodes)
        assert len(etcd_of(nodes[0]).leases()) == 5


@pytest.fixture(scope="module")
def pair() -> Iterator[Two]:
    """Two hosts in a network of three subnets, 10.1.1.0/24 to 10.1.3.0/24; each test starts the daemons."""
    settings = {"network": "10.1.0.0/22"}
    with hosts(2, mode="vxlan", registry="etcd", start=False, settings=settings) as (a, b):
        yield a, b


def with_its_containers(host: Host) -> None:
    """The host has had the subnet that the lab has planned, and containers in it."""
    host.subnet_file.write_text(host.plan.subnet_env)
    host.ip(*(f"addr replace {address} dev br0" for address in host.plan.bridge))


@pytest.fixture
def fresh(pair: Two) -> Iterator[Two]:
    """The two, which have never run, on an etcd that holds nothing but the network's configuration."""
    etcd = etcd_of(pair[0])
    for host in pair:
        host.stop()
        overlayd(host, "--cleanup")
        forget(host)
        host.write_config(host.config)
        host.log_path.unlink(missing_ok=True)
    etcd.ctl("del", "--prefix", "--", f"{PREFIX}/subnets/")
    etcd.ctl("del", "--prefix", "--", f"{PREFIX}/overlayd/")
    for lease in etcd.leases():
        etcd.revoke(lease)
    yield pair
    for host in pair:
        host.stop()


def test_an_exhausted_network_says_so_with_numbers(fresh: Two) -> None:
    """flannel.md 12: reservations are honoured and stay reservations."""
    a, b = fresh
    etcd = etcd_of(a)
    for number in (1, 2):
        etcd.put(key_of(f"10.1.{number}.0/24"), flannel_value(f"192.0.2.{90 + number}"))
    a.start()
    assert own_subnet(a) == "10.1.3.0/24", "the one that is left"
    b.start(wait=False)
    eventually(lambda: lines(b, "10.1.0.0/22", "3"), "the second one says what there is none of")
    assert not b.check_ready()
    waiting = json.loads(overlayctl(b, "status", "--json").stdout)
    assert waiting["state"] == "waiting"
    assert "the network 10.1.0.0/22 is exhausted" in waiting["problems"][0]
    etcd.delete(key_of("10.1.2.0/24"))
    wait_ready([b])
    assert own_subnet(b) == "10.1.2.0/24", "the one that an operator has released"
    assert etcd.lease_of(key_of("10.1.1.0/24")) == 0, "a reservation has become a lease"


def test_a_configuration_that_makes_no_sense_is_waited_for(fresh: Two) -> None:
    a, _ = fresh
    etcd, key = etcd_of(a), f"{PREFIX}/config"
    valid = etcd.get(key) or ""
    etcd.put(key, valid.replace("vxlan", "vxlam"))
    a.start(wait=False)
    eventually(lambda: lines(a, "waiting for etcd", "vxlam"), "the log names it")
    assert "vxlam" in json.loads(overlayctl(a, "status", "--json").stdout)["problems"][0]
    etcd.put(key, valid)
    wait_ready([a])


def test_a_reservation_for_this_host_is_taken_and_stays_one(fresh: Two) -> None:
    """flannel.md 12."""
    a, _ = fresh
    etcd = etcd_of(a)
    etcd.put(key_of("10.1.2.0/24"), {"PublicIP": "192.0.2.1"})
    a.start()
    assert own_subnet(a) == "10.1.2.0/24"
    assert etcd.lease_of(key_of("10.1.2.0/24")) == 0
    assert written(etcd)["10.1.2.0/24"]["BackendType"] == "vxlan", "peers need the VTEP's MAC"


def test_the_subnet_of_an_old_subnet_env_is_taken_if_free(fresh: Two) -> None:
    a, b = fresh
    for host in fresh:
        host.subnet_file.write_text(a.plan.subnet_env.replace("10.1.1.1", "10.1.3.1"))
    a.start()
    assert own_subnet(a) == "10.1.3.0/24"
    b.start()
    assert own_subnet(b) in ("10.1.1.0/24", "10.1.2.0/24")
    await_agreement(fresh)


def test_a_node_keeps_its_subnet_and_a_clean_stop_its_lease(fresh: Two) -> None:
    a, b = fresh
    etcd = etcd_of(a)
    a.start()
    b.start()
    first, lease = own_subnet(a), etcd.lease_of(key_of(own_subnet(a)))
    assert a.stop() == 0
    assert written(etcd)[first]["PublicIP"] == "192.0.2.1", "the lease outlives a clean stop"
    assert first in routes(b)
    a.subnet_file.unlink()
    a.start()
    assert own_subnet(a) == first
    assert etcd.leases() == {etcd.lease_of(key_of(own_subnet(host))) for host in fresh}, "an etcd lease leaks"
    assert lease in etcd.leases()
    await_agreement(fresh)


def test_a_changed_public_ip_keeps_the_subnet_and_the_connected_route(fresh: Two) -> None:
    """flannel.md 13."""
    a, b = fresh
    for host in fresh:
        with_its_containers(host)
        host.start()
    await_agreement(fresh)
    inner, bridge = a.container(0), "10.1.1.0/24 dev br0 proto kernel scope link src 10.1.1.1"
    assert bridge in a.run("ip", "route").stdout
    with pinging(inner, "10.1.1.1"):
        a.stop()
        a.ip("addr del 192.0.2.1/24 dev eth0", "addr add 192.0.2.66/24 dev eth0")
        try:
            a.start()
            assert own_subnet(a) == "10.1.1.0/24"
            assert bridge in a.run("ip", "route").stdout
            eventually(lambda: written(etcd_of(a))["10.1.1.0/24"]["PublicIP"] == "192.0.2.66", "etcd has the address")
            eventually(lambda: b.container(0).ping(inner.address()), "the peer reaches it at its new address")
            assert written(etcd_of(a)).keys() == {"10.1.1.0/24", "10.1.2.0/24"}
            assert len(etcd_of(a).leases()) == 2
        finally:
            a.stop()
            a.ip("addr del 192.0.2.66/24 dev eth0", "addr add 192.0.2.1/24 dev eth0")


def test_a_second_node_with_the_same_public_ip_stops(fresh: Two) -> None:
    """flannel.md 14: two nodes behind one NAT silently share a lease."""
    a, b = fresh
    a.start()
    first = own_subnet(a)
    before = etcd_of(a).below(SUBNETS)
    b.write_config(merged(b.config, {"public_ip": "192.0.2.1"}))
    with pytest.raises(LabError, match=r"ended with status \d+ before it was ready"):
        b.start()
    assert "public IP 192.0.2.1 belongs to another node" in one_line(b.log())
    assert etcd_of(a).below(SUBNETS) == before
    assert own_subnet(a) == first


def test_a_clone_of_a_running_node_stops(fresh: Two) -> None:
    """flannel.md 14: a machine cloned with its disk, identity and all."""
    a, b = fresh
    a.start()
    before = etcd_of(a).below(SUBNETS)
    shutil.copytree(a.directory / "state", b.directory / "state", dirs_exist_ok=True)
    shutil.copy(a.subnet_file, b.subnet_file)
    b.write_config(merged(b.config, {"public_ip": "192.0.2.1"}))
    b.start(wait=False)  # to etcd it looks like a restart of the first one, until that one objects
    eventually(lambda: b.pid is None, "the clone has stopped")
    (told,) = lines(b, "its clone")
    assert "node-id" in told, "the remedy"
    assert len(lines(a, "a clone runs with this node's identity")) == 1
    eventually(lambda: etcd_of(a).below(SUBNETS) == before, "etcd is as before")
    assert a.check_ready()
    assert a.stop() == 0
    a.start()
    assert written(etcd_of(a)).keys() == {own_subnet(a)}


def test_leases_are_shown(fresh: Two) -> None:
    a, _ = fresh
    for host in fresh:
        host.start()
    await_agreement(fresh)
    done = overlayctl(a, "lease", "list")
    assert done.returncode == 0, done.stderr
    assert all(own_subnet(host) in done.stdout for host in fresh)
    assert json.loads(overlayctl(a, "lease", "list", "--json").stdout)
