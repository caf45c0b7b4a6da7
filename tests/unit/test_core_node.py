from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_interface

import pytest

from overlayd.backend.modes import SETTINGS
from overlayd.backend.vxlan import VxlanSettings
from overlayd.core.leases.lease import Lease
from overlayd.core.leases.subnets import SubnetRange
from overlayd.core.node import Node, Underlay

PUBLIC_V4, PUBLIC_V6 = IPv4Address("192.168.77.1"), IPv6Address("fd77::1")
SUBNET_V4, SUBNET_V6 = IPv4Network("10.5.1.0/24"), IPv6Network("fd05:0:0:1::/64")
PEER = Lease(
    subnet=IPv4Network("10.5.2.0/24"),
    ipv6_subnet=IPv6Network("fd05:0:0:2::/64"),
    public_ip=IPv4Address("192.168.77.2"),
    public_ipv6=IPv6Address("fd77::2"),
)


def node(inner: str = "4", underlay_families: str = "4", mode: str = "udp", mtu: int | None = None) -> Node:
    """A host with a subnet of each family in `inner` and an underlay address of each in `underlay_families`."""
    v4, v6 = "4" in underlay_families, "6" in underlay_families
    addresses = [ip_interface("192.168.77.1/24")] * v4 + [ip_interface("fd77::1/64")] * v6
    return Node(
        spec=SETTINGS.modes[mode],
        section=SETTINGS(mode=mode).section,
        lease=Lease(subnet=SUBNET_V4 if "4" in inner else None, ipv6_subnet=SUBNET_V6 if "6" in inner else None),
        underlay=Underlay(
            name="eth0",
            index=2,
            mtu=1500,
            addresses=tuple(addresses),
            public_ip=PUBLIC_V4 if v4 else None,
            public_ipv6=PUBLIC_V6 if v6 else None,
        ),
        ranges=(SubnetRange.of(IPv4Network("10.5.0.0/16")),),
        mtu_override=mtu,
    )


@pytest.mark.parametrize(
    ("inner", "underlay", "families", "underlay_families"),
    [
        ("4", "4", (4,), (4,)),
        ("6", "6", (6,), (6,)),
        ("46", "46", (4, 6), (4, 6)),
        ("4", "46", (4,), (4,)),
        ("6", "46", (6,), (6,)),
        ("4", "6", (4,), (6,)),  # IPv4 carried by IPv6
        ("6", "4", (6,), (4,)),
        ("46", "4", (4, 6), (4,)),
        ("46", "6", (4, 6), (6,)),
    ],
)
def test_carriers(inner: str, underlay: str, families: tuple[int, ...], underlay_families: tuple[int, ...]) -> None:
    host = node(inner, underlay)
    assert (host.families, host.underlay_families) == (families, underlay_families)


def test_each_family_is_carried_by_itself_where_it_can_be() -> None:
    dual = node("46", "46")
    assert (dual.underlay_family(4), dual.underlay_family(6)) == (4, 6)
    assert list(dual.reachable(PEER)) == [(PEER.subnet, PEER.public_ip), (PEER.ipv6_subnet, PEER.public_ipv6)]
    only_v6 = node("46", "6")
    assert (only_v6.underlay_family(4), only_v6.underlay_family(6)) == (6, 6)
    assert list(only_v6.reachable(PEER)) == [(PEER.subnet, PEER.public_ipv6), (PEER.ipv6_subnet, PEER.public_ipv6)]


@pytest.mark.parametrize(
    ("mode", "inner", "underlay", "expected"),
    [
        ("udp", "4", "4", 1472),
        ("udp", "4", "6", 1452),
        ("udp", "46", "46", 1452),  # the narrower of two underlay families
        ("udp", "4", "46", 1472),  # the IPv6 address carries nothing
        ("vxlan", "4", "4", 1450),
        ("vxlan", "6", "6", 1430),
        ("vxlan", "46", "46", 1430),
        ("host-gw", "46", "46", 1500),
    ],
)
def test_overlay_mtu(mode: str, inner: str, underlay: str, expected: int) -> None:
    assert node(inner, underlay, mode).overlay_mtu == expected


@pytest.mark.parametrize(("configured", "effective"), [(1300, 1300), (1472, 1472), (1473, 1472), (9000, 1472)])
def test_configured_mtu_goes_before_the_computed_one_as_far_as_the_underlay_carries_it(
    configured: int, effective: int
) -> None:
    assert (node(mtu=configured).overlay_mtu, node(mtu=configured).largest_mtu) == (effective, 1472)


def test_on_link() -> None:
    underlay = node(underlay_families="46").underlay
    assert underlay.on_link(ip_address("192.168.77.200"))
    assert underlay.on_link(ip_address("fd77::dead"))
    assert not underlay.on_link(ip_address("192.168.78.1"))
    assert not underlay.on_link(ip_address("fd78::1"))
    assert not node(underlay_families="4").underlay.on_link(ip_address("fd77::2"))


# --- problems ---------------------------------------------------------------------------------------------------------

V4_ONLY = Lease(subnet=PEER.subnet, public_ip=PEER.public_ip)
V6_CARRIED = Lease(subnet=PEER.subnet, public_ipv6=PEER.public_ipv6)
FAR = Lease(subnet=PEER.subnet, public_ip=IPv4Address("172.16.0.2"))


@pytest.mark.parametrize(
    ("host", "peer"),
    [
        (node("46", "46"), PEER),
        (node("46", "46"), V4_ONLY),  # no IPv6 subnet to reach
        (node("4", "6"), V6_CARRIED),
        (node("4", "4"), Lease(ipv6_subnet=PEER.ipv6_subnet, public_ipv6=PEER.public_ipv6)),  # nothing in common
        (node("4", "4", "udp"), FAR),
        (node("4", "4", "vxlan"), FAR),
        (node("46", "46", "host-gw"), PEER),
        (node("4", "6", "host-gw"), V6_CARRIED),
    ],
)
def test_no_problem(host: Node, peer: Lease) -> None:
    assert host.problem(peer) is None


@pytest.mark.parametrize(
    ("host", "peer", "text"),
    [
        (
            node("4", "4"),
            V6_CARRIED,
            "10.5.2.0/24 is carried over IPv4 from this host, and the lease has no public_ip; add it",
        ),
        (
            node("4", "6"),
            V4_ONLY,
            "10.5.2.0/24 is carried over IPv6 from this host, and the lease has no public_ipv6; add it",
        ),
        (
            node("46", "46"),
            Lease(subnet=PEER.subnet, ipv6_subnet=PEER.ipv6_subnet, public_ip=PEER.public_ip),
            "fd05:0:0:2::/64 is carried over IPv6 from this host, and the lease has no public_ipv6; add it",
        ),
        (
            node("4", "46", "host-gw"),
            FAR,
            "172.16.0.2 is not on the link of eth0 (192.168.77.0/24, fd77::/64):"
            " host-gw needs every peer on one link; use udp or vxlan",
        ),
        (
            node("46", "4", "host-gw"),
            PEER,
            "fd05:0:0:2::/64 has no IPv6 next hop: host-gw needs public_ipv6 in every lease, or use udp or vxlan",
        ),
    ],
)
def test_problem(host: Node, peer: Lease, text: str) -> None:
    assert host.problem(peer) == text


def test_an_address_that_carries_nothing_need_not_be_on_the_link() -> None:
    peer = Lease(ipv6_subnet=PEER.ipv6_subnet, public_ipv6=PEER.public_ipv6, public_ip=FAR.public_ip)
    assert node("46", "46", "host-gw").problem(peer) is None


def test_what_can_be_reached_of_a_peer_in_part() -> None:
    """An obstacle to one of its subnets is none to the other."""
    no_v6 = Lease(subnet=PEER.subnet, ipv6_subnet=PEER.ipv6_subnet, public_ip=PEER.public_ip)
    host = node("46", "46")
    assert list(host.reachable(no_v6)) == [(PEER.subnet, PEER.public_ip)]
    assert (host.obstacle(no_v6, 4), host.obstacle(no_v6, 6)) == (None, host.problem(no_v6))
    assert list(node("46", "4", "host-gw").reachable(PEER)) == [(PEER.subnet, PEER.public_ip)]
    assert list(node("4", "4", "host-gw").reachable(FAR)) == []
    assert list(node("4", "46").reachable(PEER)) == [(PEER.subnet, PEER.public_ip)], "no IPv6 containers here"


# --- the address that this host sends from ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("addresses", "public", "local"),
    [
        (["192.168.77.1/24"], "192.168.77.1", "192.168.77.1"),
        (["192.168.77.8/24", "192.168.77.1/24"], "192.168.77.1", "192.168.77.1"),
        (["192.168.77.8/24", "192.168.77.9/24"], "203.0.113.5", "192.168.77.8"),  # behind a NAT
        (["169.254.3.3/16", "192.168.77.8/24"], None, "192.168.77.8"),
        (["fe80::1/64", "fd77::1/64"], "fd77::1", "fd77::1"),
        (["fe80::1/64"], "fd77::1", None),
        ([], "192.168.77.1", None),
    ],
)
def test_local_address(addresses: list[str], public: str | None, local: str | None) -> None:
    v6 = "fd77" in (public or "")
    parsed = None if public is None else ip_address(public)
    own = tuple(ip_interface(address) for address in addresses)
    underlay = Underlay("eth0", 2, 1500, own, None if v6 else parsed, parsed if v6 else None)
    assert underlay.local(6 if v6 else 4) == (None if local is None else ip_address(local))


# --- mixed clusters ---------------------------------------------------------------------------------------------------


def vxlan_node(vni: int = 1, port: int = 8472) -> Node:
    return replace(node("4", "4", "vxlan"), section=VxlanSettings(vni=vni, port=port))


@pytest.mark.parametrize(
    ("host", "peer", "text"),
    [
        (node(), replace(PEER, backend="vxlan"), "10.5.2.0/24 uses backend vxlan, this host udp"),
        (vxlan_node(), replace(PEER, backend="udp"), "10.5.2.0/24 uses backend udp, this host vxlan"),
        (vxlan_node(), replace(PEER, backend="wireguard"), "10.5.2.0/24 uses backend wireguard, this host"),
        (vxlan_node(), replace(PEER, backend="vxlan", vni=2), "10.5.2.0/24 uses VNI 2, this host VNI 1"),
        (
            vxlan_node(),
            replace(PEER, backend="vxlan", vni=1, port=4789),
            "10.5.2.0/24 uses port 4789, this host port 8472; use one on all hosts",
        ),
        (
            vxlan_node(),
            replace(PEER, subnet=IPv4Network("10.5.1.128/25")),
            "10.5.1.128/25 overlaps this host's own subnet; remove one of the two leases",
        ),
    ],
)
def test_a_peer_that_this_host_cannot_speak_to(host: Node, peer: Lease, text: str) -> None:
    assert (host.problem(peer) or "").startswith(text)
    assert list(host.reachable(peer)) == []


def test_what_a_registry_does_not_say_is_no_mismatch() -> None:
    assert vxlan_node().problem(replace(PEER, backend="vxlan", vni=None, port=None)) is None


def test_its_own_lease_is_no_problem() -> None:
    assert node().problem(node().lease) is None


@pytest.mark.parametrize(
    ("host", "peer"),
    [
        (node(), Lease(subnet=PEER.subnet, backend="udp", reserved=True)),
        (vxlan_node(), replace(PEER, backend="udp", reserved=True)),
    ],
)
def test_a_reservation_that_nobody_has_taken_up_is_no_problem_and_no_way(host: Node, peer: Lease) -> None:
    assert host.problem(peer) is None
    assert list(host.reachable(peer)) == []


def test_a_reservation_that_is_taken_up_is_a_peer() -> None:
    taken = replace(PEER, backend="vxlan", vni=1, port=8472, reserved=True)
    assert len(list(vxlan_node().reachable(taken))) == 1


def test_what_sends_and_receives_serves_a_node_with_another_mtu_and_further_addresses() -> None:
    one = node("46", "46")
    wider = replace(one.underlay, mtu=9000, addresses=(*one.underlay.addresses, ip_interface("198.51.100.1/24")))
    assert one.serves(one)
    assert one.serves(replace(one, underlay=wider))


def test_it_serves_no_node_that_is_another_in_anything_else() -> None:
    one = node("46", "46")
    moved = replace(one.underlay, addresses=(ip_interface("192.168.77.9/24"), one.underlay.addresses[1]))
    for other in (
        replace(one, underlay=moved),
        replace(one, underlay=replace(one.underlay, index=3)),
        replace(one, underlay=replace(one.underlay, public_ip=IPv4Address("192.168.77.9"))),
        replace(one, mtu_override=1400),
        replace(one, spec=SETTINGS.modes["vxlan"]),
        replace(one, lease=replace(one.lease, subnet=IPv4Network("10.5.9.0/24"))),
    ):
        assert not one.serves(other)


@pytest.mark.parametrize(
    ("mode", "public", "subnet", "path", "mtu"),
    [
        ("udp", PUBLIC_V4, SUBNET_V4, 1400, 1372),
        ("vxlan", PUBLIC_V6, SUBNET_V4, 1400, 1330),
        ("host-gw", PUBLIC_V4, SUBNET_V4, 1400, 1400),
        ("vxlan", PUBLIC_V4, SUBNET_V4, 600, 576),
        ("vxlan", PUBLIC_V6, SUBNET_V6, 1300, 1280),
        ("udp", PUBLIC_V4, SUBNET_V4, 1500, None),
        ("udp", PUBLIC_V4, SUBNET_V4, 9000, None),
        ("udp", PUBLIC_V4, SUBNET_V4, None, None),
    ],
)
def test_the_mtu_of_a_route_whose_path_is_narrow(
    mode: str, public: IPv4Address, subnet: IPv4Network, path: int | None, mtu: int | None
) -> None:
    paths = {} if path is None else {public: path}
    assert node("46", "46", mode).route_mtu(subnet, public, paths) == mtu
