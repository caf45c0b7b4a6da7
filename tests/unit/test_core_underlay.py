"""The host of these tests: lo, eth0 (the default route), eth1, and flannel.1, which overlayd made."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_interface

import pytest

from overlayd.backend.modes import SETTINGS
from overlayd.core.leases.lease import Lease
from overlayd.core.node import Underlay
from overlayd.core.settings.model import Settings
from overlayd.core.settings.validation import validate
from overlayd.core.underlay import HostInterface, UnderlayError, find_underlay


def interface(name: str, index: int, *addresses: str) -> HostInterface:
    return HostInterface(
        name=name,
        index=index,
        mtu=1400 + index,
        up=True,
        loopback=name == "lo",
        ours=name.startswith("flannel"),
        addresses=tuple(ip_interface(address) for address in addresses),
    )


LO = interface("lo", 1, "127.0.0.1/8", "::1/128")
ETH0 = interface("eth0", 2, "192.168.77.1/24", "192.168.77.10/24", "fe80::1/64", "fd77::1/64")
ETH1 = interface("eth1", 3, "172.16.0.1/24")
OURS = interface("flannel.1", 4, "10.5.1.0/32")
HOST = (LO, OURS, ETH0, ETH1)
DEFAULT_ROUTE = (ETH0.index,)
NO_ROUTE = "there is no default route to choose the underlay interface by; set iface (iface: eth0)"
THERE_ARE = "there are lo (127.0.0.1, ::1), eth0 (192.168.77.1, 192.168.77.10, fe80::1, fd77::1), eth1 (172.16.0.1)"


def lease(public_ip: str) -> Lease:
    return Lease(subnet=IPv4Network("10.5.1.0/24"), public_ip=IPv4Address(public_ip))


def find(
    *leases: Lease,
    interfaces: tuple[HostInterface, ...] = HOST,
    egress: tuple[int, ...] = DEFAULT_ROUTE,
    **given: str,
) -> Underlay:
    settings = validate({"network": "10.5.0.0/16", **given}, SETTINGS)
    assert isinstance(settings, Settings), settings
    return find_underlay(settings, interfaces, egress, leases)


def test_the_underlay_is_the_interface_as_it_is() -> None:
    assert find(iface="eth0") == Underlay(
        name="eth0",
        index=2,
        mtu=1402,
        addresses=ETH0.addresses,
        public_ip=IPv4Address("192.168.77.1"),
        public_ipv6=IPv6Address("fd77::1"),
    )


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"iface": "eth1"}, "eth1"),
        ({"iface": "172.16.0.1"}, "eth1"),
        ({"iface": "fd77::1"}, "eth0"),
        ({"iface_regex": "eth[1-9]"}, "eth1"),
        ({"iface_regex": r"^172\.16\."}, "eth1"),
        ({"iface_regex": "eth"}, "eth0"),  # the first of two
        ({"iface_regex": "."}, "eth0"),  # neither lo nor one of ours
        ({"iface_can_reach": "172.16.0.9"}, "eth0"),  # what the kernel said, not what we think
        ({"public_ip": "172.16.0.1"}, "eth1"),
        ({"public_ip": "203.0.113.5"}, "eth0"),  # a NAT's: by the default route
        ({"public_ipv6": "fd77::1"}, "eth0"),
        ({}, "eth0"),
        ({"iface": "eth1", "iface_regex": "eth0", "public_ip": "192.168.77.1"}, "eth1"),  # iface goes first
    ],
)
def test_choice(given: dict[str, str], name: str) -> None:
    assert find(**given).name == name


def test_the_lease_table_names_the_interface_before_the_default_route_does() -> None:
    assert find(lease("192.168.99.9"), lease("172.16.0.1")).name == "eth1"
    assert find(lease("192.168.99.9")).name == "eth0"


def test_a_configured_public_ip_goes_before_the_lease_tables() -> None:
    assert find(lease("172.16.0.1"), public_ip="192.168.77.1").name == "eth0"


def test_public_addresses() -> None:
    assert find().public_ip == IPv4Address("192.168.77.1")
    assert find(lease("192.168.77.10")).public_ip == IPv4Address("192.168.77.10"), "that of the table"
    assert find(lease("192.168.77.10"), public_ip="203.0.113.5").public_ip == IPv4Address("203.0.113.5")
    assert find().public_ipv6 == IPv6Address("fd77::1"), "not the link-local one"
    assert find(iface="eth1").public_ipv6 is None


@pytest.mark.parametrize(
    ("given", "egress", "text"),
    [
        ({"iface": "eth9"}, DEFAULT_ROUTE, f"iface: no interface has the name or address eth9; {THERE_ARE}"),
        ({"iface": "flannel.1"}, DEFAULT_ROUTE, f"iface: no interface has the name or address flannel.1; {THERE_ARE}"),
        (
            {"iface_regex": "^wlan"},
            DEFAULT_ROUTE,
            f"iface_regex: no interface's name or address matches ^wlan; {THERE_ARE}",
        ),
        (
            {"iface_can_reach": "8.8.8.8"},
            (),
            f"iface_can_reach: the kernel has no route to 8.8.8.8; {THERE_ARE}",
        ),
        ({}, (), f"{NO_ROUTE}; {THERE_ARE}"),
        ({}, (1,), f"{NO_ROUTE}; {THERE_ARE}"),  # lo: where the kernel has unreachable routes lead
    ],
)
def test_no_interface_fits(given: dict[str, str], egress: tuple[int, ...], text: str) -> None:
    with pytest.raises(UnderlayError) as caught:
        find(egress=egress, **given)
    assert str(caught.value) == text


def test_no_interface_fits_the_table() -> None:
    with pytest.raises(
        UnderlayError, match=f"no interface holds a public IP of the lease table, and {re.escape(NO_ROUTE)}"
    ):
        find(lease("203.0.113.9"), egress=())


def test_no_interfaces() -> None:
    with pytest.raises(UnderlayError, match=r"; there are no interfaces$"):
        find(interfaces=())


def test_an_interface_without_an_address() -> None:
    bare = interface("eth2", 5, "fe80::2/64")
    with pytest.raises(UnderlayError) as caught:
        find(interfaces=(bare,), iface="eth2")
    assert str(caught.value) == ("interface eth2 has no address that peers can send to; add one, or set public_ip")
    assert find(interfaces=(bare,), iface="eth2", public_ip="203.0.113.5").name == "eth2"
