"""What is dropped because two hosts are configured differently is a problem in words on the host that can see it, in
the log once, and gone when it ends.

h1c1 10.1.1.2 -- br0 10.1.1.1 [h1] eth0 192.0.2.1 ======== eth0 192.0.2.2 [h2] br0 10.1.2.1 -- h2c1 10.1.2.2
"""

from __future__ import annotations

import contextlib
import itertools
import re
import subprocess
from collections.abc import Iterator

import pytest

from overlayd.core.address import Address
from overlayd.lab import Host, Namespace, hosts, merged
from overlayd.wire.mac import derive_mac
from support.commands import reloaded
from support.etcd_cluster import etcd_of, flannel_value, put_as_flannel
from support.waiting import eventually
from support.wire import FAMILIES, MODES, UDP_PORT, VXLAN_PORT, tcp_carries

Pair = tuple[Host, Host]
PORTS = {"udp": UDP_PORT, "vxlan": VXLAN_PORT}
HEALED = 60  # seconds within which a sign has been forgotten
CONFIG = "/coreos.com/network/config"
LINE = 'msg="configuration mismatch"'


@pytest.fixture(scope="module", params=MODES)
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    with hosts(2, mode=request.param, family="dual", underlay="dual") as (a, b):
        yield a, b


@pytest.fixture(autouse=True)
def _clean(request: pytest.FixtureRequest) -> None:
    """Every test begins without problems, and ends so."""
    if "pair" in request.fixturenames:
        for host in request.getfixturevalue("pair"):
            eventually(lambda host=host: host.status()["problems"] == [], "no problem", timeout=HEALED)


@contextlib.contextmanager
def sending(*ways: tuple[Namespace, Address | str, str]) -> Iterator[None]:
    """Pings meanwhile, each from a node to an address with more options; whether they are answered does not matter."""
    processes = [
        node.popen("ping", "-n", "-i", "0.3", *options.split(), str(address), stdout=subprocess.DEVNULL)
        for node, address, options in ways
    ]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait(10)


def both_ways(a: Host, b: Host) -> list[tuple[Namespace, Address | str, str]]:
    pairs = itertools.product(((a, b), (b, a)), FAMILIES)
    return [(one.container(0), other.container(0).address(family), "") for (one, other), family in pairs]


def assert_told(host: Host, *words: str) -> None:
    """There is a problem with all these words; it is in the log once, and stays there alone."""

    def told() -> list[str]:
        return [text for text in host.status()["problems"] if all(word in text for word in words)]

    eventually(told, f"a problem that says {words}, of {host.status()['problems']}", timeout=30)
    logged = [line for line in host.log().splitlines() if LINE in line and all(word in line for word in words)]
    assert len(logged) == 1, logged


def in_modes(*modes: str) -> pytest.MarkDecorator:
    """The `pair` of these modes alone: the others have no such setting."""
    return pytest.mark.parametrize("pair", modes, indirect=True, scope="module")


@contextlib.contextmanager
def configured(host: Host, change: dict[str, object]) -> Iterator[None]:
    """The host alone has another configuration meanwhile; its log begins anew."""
    reloaded(host, lambda: host.write_config(merged(host.config, change)))
    try:
        yield
    finally:
        reloaded(host, lambda: host.write_config(host.config))


@pytest.mark.timeout(200)
@in_modes(*PORTS)
def test_another_port(pair: Pair) -> None:
    a, b = pair
    mode, mark = a.lab.spec.mode, len(a.log())
    with configured(b, {mode: {"port": 9999}}), sending(*both_ways(a, b)):
        for family in FAMILIES:
            peer = str(b.public(family))
            refused = f'{peer} answers datagrams to UDP port {PORTS[mode]} with "port unreachable"'
            eventually(lambda text=refused: any(text in one for one in a.status()["problems"]), refused, timeout=30)
            if mode == "vxlan":
                assert_told(a, f"10.1.2.0/24: {peer} sends VXLAN to UDP port 9999, this host uses {VXLAN_PORT}")
                assert_told(
                    b, f"10.1.1.0/24: {a.public(family)} sends VXLAN to UDP port {VXLAN_PORT}, this host uses 9999"
                )
    eventually(lambda: a.status()["problems"] == [], "it has ended", timeout=HEALED)
    assert 'msg="configuration mismatch ended"' in a.log()[mark:]


@pytest.mark.timeout(200)
@in_modes("vxlan")
def test_another_vni(pair: Pair) -> None:
    a, b = pair
    with configured(b, {"vxlan": {"vni": 7}}), sending(*both_ways(a, b)):
        for family in FAMILIES:
            assert_told(a, f"10.1.2.0/24: {b.public(family)} sends this host VXLAN with another VNI than 1")
            assert_told(b, f"10.1.1.0/24: {a.public(family)} sends this host VXLAN with another VNI than 7")


NAT = """
table inet nat_on_the_way {
    chain out {
        type filter hook postrouting priority 0
        ip daddr 192.0.2.1 udp dport %(port)d ip saddr set 192.0.2.99
        ip6 daddr fd00:192:0:2::1 udp dport %(port)d ip6 saddr set fd00:192:0:2::99
    }
}
"""
"""Without the kernel's connection tracking, which would leave a connection that it knows as it is."""


@pytest.mark.timeout(200)
@in_modes(*PORTS)
def test_a_peer_that_sends_from_another_address_than_its_public_ip(pair: Pair) -> None:
    a, b = pair
    b.run("nft", "-f", "-", input=NAT % {"port": PORTS[a.lab.spec.mode]})
    b.ip("addr add 192.0.2.99/24 dev eth0", "addr add fd00:192:0:2::99/64 dev eth0 nodad")
    try:
        for family, address in ((4, "192.0.2.99"), (6, "fd00:192:0:2::99")):  # the engine names the last sender alone
            said = f"packets from .*{address}.* are dropped: no lease has that public IP"
            with sending((b.container(0), a.container(0).address(family), "")):
                eventually(
                    lambda said=said: any(re.match(said, text) for text in a.status()["problems"]), said, timeout=30
                )
                if family == 4:
                    assert_told(a, f"packets from {address} are dropped: no lease has that public IP")
    finally:
        b.run("nft", "delete table inet nat_on_the_way")
        b.ip("addr del 192.0.2.99/24 dev eth0", "addr del fd00:192:0:2::99/64 dev eth0")


@pytest.mark.timeout(200)
def test_another_table(pair: Pair) -> None:
    """The second host takes the first for the owner of other subnets."""
    a, b = pair
    entry = {**a.plan.lease_entry(), "subnet": "10.1.9.0/24", "ipv6_subnet": "fd00:10:1:9::/64"}
    said = {
        "udp": ["packets were dropped in 5 s: from a peer, but not for this host's subnet"],
        "vxlan": [f"{b.public(family)} sends this host VXLAN for another MAC than its VTEP's" for family in FAMILIES],
        "host-gw": [
            f"packets from {b.container(0).address(4)} to 10.1.9.9",
            "destination is outside this host's subnet",
        ],
    }[a.lab.spec.mode]
    with (
        configured(b, {"leases_file": None, "leases": [entry, b.plan.lease_entry()]}),
        sending((b.container(0), "10.1.9.9", ""), (b.container(0), "fd00:10:1:9::9", "")),
    ):
        for words in said:
            assert_told(a, words)


@pytest.mark.timeout(200)
@in_modes("vxlan", "host-gw")
def test_a_host_that_uses_this_hosts_subnet_too(pair: Pair) -> None:
    a, b = pair
    b.ip("addr add 10.1.1.77/32 dev lo", "addr add fd00:10:1:1::77/128 dev lo nodad")
    try:
        target, target6 = a.container(0).address(4), a.container(0).address(6)
        with sending((b, target, "-I 10.1.1.77"), (b, target6, "-I fd00:10:1:1::77")):
            assert_told(a, f"10.1.1.77 to {target}", "in this host's own subnet 10.1.1.0/24", "two hosts use it")
            eventually(lambda: any("fd00:10:1:1::77" in text for text in a.status()["problems"]), timeout=30)
    finally:
        b.ip("addr del 10.1.1.77/32 dev lo", "addr del fd00:10:1:1::77/128 dev lo")


@pytest.mark.timeout(200)
@in_modes("vxlan")
def test_a_peer_that_changes_containers_addresses(pair: Pair) -> None:
    """In host-gw mode they arrive as any other host's."""
    a, b = pair
    b.run("nft", "add table ip nat; add chain ip nat post { type filter hook postrouting priority 0; }")
    b.run("nft", "add rule ip nat post oifname ovl.1 ip saddr set 192.0.2.2")
    try:
        with sending((b.container(0), a.container(0).address(4), "")):
            assert_told(a, "packets from 192.0.2.2 to 10.1.1.2 are dropped", "outside the network", "(NAT;")
    finally:
        b.run("nft", "delete table ip nat")


# --- beside flannel ---------------------------------------------------------------------------------------------------


def flannel_sets_up(host: Host, peer: Host, public: str) -> None:
    """flannel's lease in etcd under this public IP, and what it makes on the host."""
    value = flannel_value(public)
    put_as_flannel(etcd_of(peer), str(host.subnet), value)
    mac, its = value["BackendData"]["VtepMAC"], derive_mac(f"overlayd vtep {peer.plan.lease.key}")
    host.sysctl({"net/ipv4/ip_forward": 1})
    link = f"type vxlan id 1 dev eth0 local {host.public_ip} dstport {VXLAN_PORT} nolearning"
    host.ip(
        f"link add flannel.1 address {mac} mtu 1450 {link}",
        "addr add 10.1.2.0/32 dev flannel.1",
        "link set flannel.1 up",
        f"neigh replace 10.1.1.0 lladdr {its} dev flannel.1 nud permanent",
        "route add 10.1.1.0/24 via 10.1.1.0 dev flannel.1 onlink",
    )
    host.run("bridge", "fdb", "add", its, "dev", "flannel.1", "dst", str(peer.public_ip), "self", "permanent")


def has_port(host: Host, port: int) -> bool:
    return f"dstport {port} " in host.run("ip", "-d", "link", "show", "ovl.1", check=False).stdout


@pytest.fixture
def mixed() -> Iterator[Pair]:
    """Two hosts of a cluster, of which the second runs no overlayd."""
    with hosts(2, mode="vxlan", registry="etcd", start=False) as (a, b):
        a.start()
        yield a, b


@pytest.mark.timeout(200)
def test_the_port_is_changed_in_etcd_and_flannel_keeps_the_former(mixed: Pair) -> None:
    a, b = mixed
    flannel_sets_up(b, a, str(b.public_ip))
    eventually(lambda: a.container(0).ping(b.container(0).address(), timeout=0.5), "the two talk")
    backend = {"Type": "vxlan", "VNI": 1}
    network = {"Network": "10.1.0.0/16", "Backend": backend}
    etcd_of(a).put(CONFIG, {**network, "Backend": {**backend, "Port": 8473}})
    eventually(lambda: has_port(a, 8473), "overlayd has followed")
    with sending((a.container(0), b.container(0).address(), ""), (b.container(0), a.container(0).address(), "")):
        assert_told(a, "10.1.2.0/24: 192.0.2.2 sends VXLAN to UDP port 8472, this host uses 8473", "restart it after")
        assert_told(a, "10.1.2.0/24: 192.0.2.2 answers datagrams to UDP port 8473 with", "port unreachable")
    etcd_of(a).put(CONFIG, network)
    eventually(lambda: has_port(a, VXLAN_PORT), "overlayd has followed")
    eventually(lambda: a.container(0).ping(b.container(0).address(), timeout=0.5), "the two talk again")
    eventually(lambda: a.status()["problems"] == [], "it has ended", timeout=HEALED)


@pytest.mark.timeout(200)
def test_a_flannel_node_whose_public_ip_is_not_the_address_that_it_sends_from(mixed: Pair) -> None:
    a, b = mixed
    flannel_sets_up(b, a, "192.0.2.77")
    with sending((b.container(0), a.container(0).address(), "")):
        assert_told(a, "packets from 192.0.2.2 are dropped: no lease has that public IP", "flanneld's -public-ip")


def test_a_host_record_with_another_port(mixed: Pair) -> None:
    """What overlayd writes beside its lease, for flannel's value has no port."""
    a, _ = mixed
    etcd = etcd_of(a)
    put_as_flannel(etcd, "10.1.52.0/24", flannel_value("192.0.2.52"))
    record = {"id": "node-52", "session": "one", "subnet": "10.1.52.0-24", "port": 9999}
    etcd.put(
        "/coreos.com/network/overlayd/hosts/192.0.2.52",
        record,
        etcd.lease_of("/coreos.com/network/subnets/10.1.52.0-24"),
    )
    said = "10.1.52.0/24: 10.1.52.0/24 uses port 9999, this host port 8472; use one on all hosts"
    eventually(lambda: said in a.status()["problems"], said)
    assert a.log().count('msg="peer cannot be reached" lease=10.1.52.0-24') == 1
    etcd.delete("/coreos.com/network/overlayd/hosts/192.0.2.52")
    eventually(lambda: a.status()["problems"] == [], "it has ended")


# --- no false alarm ---------------------------------------------------------------------------------------------------


@pytest.mark.timeout(200)
def test_a_cluster_under_load_has_no_such_problem(pair: Pair) -> None:
    a, b = pair
    marks = {host: len(host.log()) for host in pair}
    polls = a.status()["uptime_seconds"] + 10
    with sending(*both_ways(a, b)):
        while a.status()["uptime_seconds"] < polls:
            for one, other in ((a, b), (b, a)):
                for family in FAMILIES:
                    far = other.container(0)
                    assert tcp_carries(1 << 22, one.container(0), far, far.address(family))
            assert [host.status()["problems"] for host in pair] == [[], []]
    assert not any("configuration mismatch" in host.log()[mark:] for host, mark in marks.items())
