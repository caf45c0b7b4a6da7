"""Clusters of overlayd and flannel nodes: what each can make of the other's leases, and says of those it cannot use.

flannel's nodes are here as what they write to etcd (flannel.md, formats); h3 stands in for one on the wire: a host
without overlayd, set up by hand as flannel sets itself up.

h1c1 10.1.1.2 -- br0 [h1] eth0 .1 ===+=== eth0 .3 [h3] flannel.1 10.1.3.0/32, br0 -- h3c1 10.1.3.2
                                     +=== eth0 .251 [etcd]                        underlay 192.0.2.0/24
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from overlayd.backend.modes import SETTINGS
from overlayd.core.address import Network
from overlayd.core.node import Underlay
from overlayd.core.settings.model import Settings
from overlayd.core.settings.validation import validate
from overlayd.lab import Host, hosts
from overlayd.lab.etcd import Etcd
from overlayd.registry.base import RegistryError
from overlayd.registry.etcd.registry import EtcdRegistry
from overlayd.wire.mac import derive_mac
from support.commands import overlayctl
from support.etcd_cluster import (
    SUBNETS,
    await_agreement,
    etcd_of,
    flannel_value,
    key_of,
    lines,
    put_as_flannel,
    routes,
    take_away,
)
from support.waiting import eventually

Three = tuple[Host, Host, Host]


@pytest.fixture(scope="module")
def three() -> Iterator[Three]:
    """Three hosts, of which only the first runs overlayd, in vxlan mode."""
    with hosts(3, mode="vxlan", registry="etcd", start=False) as (a, b, c):
        a.start()
        yield a, b, c


def test_a_flannel_node_on_the_wire(three: Three) -> None:
    """What flannel does on its host is done by hand: the overlay works between the two, both ways."""
    a, _, c = three
    etcd, value = etcd_of(a), flannel_value("192.0.2.3")
    mac = value["BackendData"]["VtepMAC"]
    put_as_flannel(etcd, "10.1.3.0/24", value)
    c.sysctl({"net/ipv4/ip_forward": 1})
    ours = etcd.get(key_of(a.subnet))
    assert ours is not None
    its_mac = derive_mac(f"overlayd vtep {a.plan.lease.key}")
    assert its_mac in ours
    c.ip(
        f"link add flannel.1 address {mac} mtu 1450 type vxlan id 1 dev eth0 local 192.0.2.3 dstport 8472 nolearning",
        "addr add 10.1.3.0/32 dev flannel.1",
        "link set flannel.1 up",
        f"neigh replace 10.1.1.0 lladdr {its_mac} dev flannel.1 nud permanent",
        "route add 10.1.1.0/24 via 10.1.1.0 dev flannel.1 onlink",
    )
    c.run("bridge", "fdb", "add", its_mac, "dev", "flannel.1", "dst", "192.0.2.1", "self", "permanent")
    eventually(lambda: a.container(0).ping(c.container(0).address(), timeout=0.5), "overlayd's container to flannel's")
    assert c.container(0).ping(a.container(0).address(), size=1450, dont_fragment=True)
    take_away(etcd, "10.1.3.0/24")
    eventually(lambda: not a.container(0).ping(c.container(0).address(), timeout=0.3), "its lease ends, and its way in")


IN_ANOTHER_MODE = {"PublicIP": "192.0.2.77", "PublicIPv6": None}


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (flannel_value("192.0.2.77", backend="udp"), "udp"),
        (flannel_value("192.0.2.77", backend="host-gw"), "host-gw"),
        (flannel_value("192.0.2.77", vni=7), "VNI 7"),
        ({**IN_ANOTHER_MODE, "BackendType": "wireguard", "BackendData": {"PublicKey": "A" * 43 + "="}}, "wireguard"),
        ({**IN_ANOTHER_MODE, "BackendType": "ipip", "BackendData": {}}, "ipip"),
    ],
)
def test_a_peer_that_speaks_otherwise_is_told_of(three: Three, value: dict[str, object], why: str) -> None:
    """flannel.md 18: a vxlan node ignores such leases with a log line, a udp node takes any; nobody is told."""
    a, _, _ = three
    a.log_path.write_text("")
    put_as_flannel(etcd_of(a), "10.1.52.0/24", value)
    eventually(lambda: any(why in one for one in a.status()["problems"]), "status says which peer, and why")
    (told,) = lines(a, "level=error", "10.1.52.0/24")
    assert why in told
    assert "10.1.52.0/24" not in routes(a)
    shown = overlayctl(a, "lease", "list").stdout
    assert any("10.1.52.0/24" in line and why in line for line in shown.splitlines()), shown
    take_away(etcd_of(a), "10.1.52.0/24")
    eventually(lambda: a.status()["problems"] == [], "nothing is wrong when it is gone")


def test_a_udp_node_tells_of_vxlan_peers() -> None:
    """flannel.md 18: a udp node adds any lease."""
    with hosts(1, mode="udp", containers=0, registry="etcd") as (a,):
        put_as_flannel(etcd_of(a), "10.1.52.0/24", flannel_value("192.0.2.77"))
        put_as_flannel(etcd_of(a), "10.1.53.0/24", flannel_value("192.0.2.78", backend="udp"))
        eventually(lambda: routes(a) == {"10.1.53.0/24"}, "only the peer that speaks udp has a route")
        eventually(lambda: any("vxlan" in one for one in a.status()["problems"]), "and the other is told of")


def test_dual_stack_keys() -> None:
    """A key and value that flannel wrote in dual stack are read, and ours have that form."""
    with hosts(2, mode="vxlan", family="dual", underlay="dual", registry="etcd") as (a, b):
        await_agreement([a, b])
        etcd = etcd_of(a)
        assert set(etcd.below(SUBNETS)) == {
            f"{SUBNETS}10.1.1.0-24&fd00:10:1:1::-64",
            f"{SUBNETS}10.1.2.0-24&fd00:10:1:2::-64",
        }
        for family in (4, 6):
            assert a.container(0).ping(b.container(0).address(family))
        macs = derive_mac("one"), derive_mac("two")
        lease = etcd.grant(60)
        etcd.put(
            f"{SUBNETS}10.1.9.0-24&fd00:10:1:9::-64",
            {
                "PublicIP": "192.0.2.77",
                "PublicIPv6": "fd00:192:0:2::77",
                "BackendType": "vxlan",
                "BackendData": {"VNI": 1, "VtepMAC": macs[0]},
                "BackendV6Data": {"VNI": 1, "VtepMAC": macs[1]},
            },
            lease,
        )
        eventually(lambda: "10.1.9.0/24" in routes(a), "its IPv4 route is there")
        six = a.run("ip", "-6", "route", "show", "proto", "178").stdout
        assert "fd00:10:1:9::/64 via fd00:10:1:9:: dev" in six


@pytest.mark.parametrize("mode", ["udp", "vxlan"])
def test_ipv6_alone(mode: str) -> None:
    """Containers, underlay and etcd's own addresses; flannel writes 0.0.0.0-0 where there is no IPv4 subnet."""
    with hosts(2, mode=mode, family="ipv6", underlay="ipv6", registry="etcd", etcd_secure=True) as (a, b):
        etcd = etcd_of(a)
        assert etcd.endpoints == ["https://[fd00:192:0:2::fb]:2379"]
        eventually(lambda: a.container(0).ping(b.container(0).address()), "the containers reach each other")
        found = {key: json.loads(text)["PublicIPv6"] for key, text in etcd.below(SUBNETS).items()}
        assert found == {
            f"{SUBNETS}0.0.0.0-0&fd00:10:1:1::-64": "fd00:192:0:2::1",
            f"{SUBNETS}0.0.0.0-0&fd00:10:1:2::-64": "fd00:192:0:2::2",
        }
        b.stop()
        key = f"{SUBNETS}0.0.0.0-0&fd00:10:1:2::-64"
        etcd.revoke(etcd.lease_of(key))
        eventually(
            lambda: "fd00:10:1:2::" not in a.run("ip", "-6", "route").stdout, "a lease that ends takes its route"
        )


# --- the registry alone -----------------------------------------------------------------------------------------------


class Disk:
    """What a node keeps on disk."""

    def __init__(self, number: int) -> None:
        self._id = f"node-{number:032x}"
        self.text: str | None = None

    def node_id(self) -> str:
        return self._id

    def keep_id(self) -> None:
        """It is derived."""

    def load(self) -> str | None:
        return self.text

    def save(self, text: str) -> None:
        self.text = text

    def former_subnets(self) -> tuple[Network, ...]:
        return ()


def settings_for(etcd: Etcd, **more: object) -> Settings:
    raw = {"registry": "etcd", "etcd": {key: str(value) for key, value in etcd.settings().items()}, **more}
    settings = validate(raw, SETTINGS)
    assert isinstance(settings, Settings), settings
    return settings


def underlay(number: int) -> Underlay:
    return Underlay("eth0", 1, 1500, (), IPv4Address(f"192.0.2.{number}"), None)


@pytest.mark.parametrize("network", ["10.1.0.0/16", "10.1.0.0/19"])  # 255 subnets for 20 nodes; 31
async def test_twenty_nodes_at_the_same_instant(etcd: Etcd, network: str) -> None:
    """flannel.md 12: losing a race for a subnet is fatal there."""
    etcd.put("/coreos.com/network/config", {"Network": network, "Backend": {"Type": "vxlan"}})
    settings = settings_for(etcd)
    nodes = [EtcdRegistry(settings, Disk(number), f"n{number}") for number in range(1, 21)]
    together = asyncio.Barrier(len(nodes))

    async def begin(number: int, node: EtcdRegistry) -> str:
        configured = await node.configure(settings)
        await together.wait()  # all have read the same, empty table
        return str((await node.acquire(configured, underlay(number))).subnet)

    subnets = await asyncio.gather(*(begin(number, node) for number, node in enumerate(nodes, 1)))
    for node in nodes:
        await node.close()
    assert len(set(subnets)) == 20
    assert {key_of(subnet) for subnet in subnets} == set(etcd.below(SUBNETS))
    assert len(etcd.leases()) == 20, "a lost race has leaked an etcd lease"


async def test_as_many_nodes_as_subnets(etcd: Etcd) -> None:
    """flannel.md 12: every one gets one, whoever it has to give way to; the next one is told that there is none."""
    etcd.put("/coreos.com/network/config", {"Network": "10.1.0.0/20", "Backend": {"Type": "udp"}})
    settings = settings_for(etcd)
    nodes = [EtcdRegistry(settings, Disk(number), f"n{number}") for number in range(1, 16)]
    configured = [await node.configure(settings) for node in nodes]
    leases = await asyncio.gather(
        *(node.acquire(configured[at], underlay(at + 1)) for at, node in enumerate(nodes)),
    )
    assert {str(lease.subnet) for lease in leases} == {f"10.1.{number}.0/24" for number in range(1, 16)}
    late = EtcdRegistry(settings, Disk(99), "late")
    with pytest.raises(RegistryError, match=r"10\.1\.0\.0/20 is exhausted: all 15 subnets .* 15 by leases"):
        await late.acquire(await late.configure(settings), underlay(99))
    for node in (*nodes, late):
        await node.close()
