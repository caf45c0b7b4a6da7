"""Devices and addresses: requests held against pyroute2's decoder, and what the kernel says of them."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_interface
from typing import Any

import pytest
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from overlayd.core.kernel.kinds import Interfaces, Link, LinkAddress, TunLink, VxlanLink, link_of
from overlayd.wire.netlink import link as wire
from overlayd.wire.netlink.message import PUT, SET, messages, u32
from overlayd.wire.netlink.uapi import IFLA_MTU

MAC = "06:47:0f:9c:01:2a"
VXLAN = VxlanLink("ovl.1", 1450, vni=7, port=8472, local=ip_address("192.0.2.1"), underlay=2, mac=MAC)
TUN = TunLink("ovl0", 1472, txqueuelen=1000)
UP, DOWN = (1, 1), (0, 1)


def decoded(message: bytes, kind: type) -> dict[str, Any]:
    """Header, fields and attributes by name, nested ones too."""
    found = kind(message)
    found.decode()
    assert found["header"]["length"] == len(message)
    return {**found["header"], **{name: found[name] for name, *_ in kind.fields}, **named(found["attrs"])}


def named(attributes: Any) -> dict[str, Any]:
    nested = [
        (name, value["attrs"] if isinstance(value, dict) and "attrs" in value else None) for name, value in attributes
    ]
    plain = dict(attributes)
    return {name: plain[name] if deeper is None else named(deeper) for name, deeper in nested}


def body(message: bytes) -> tuple[bytes, int, int]:
    ((*_, begin, end),) = messages(message)
    return message, begin, end


def added(link: Link) -> bytes:
    data = link.creation()
    assert data is not None
    return wire.add_link(link.name, link.driver, data, link.attributes(), 9)


@pytest.mark.parametrize(
    ("link", "own"),
    [
        (VXLAN, {"IFLA_VXLAN_LOCAL": "192.0.2.1"}),
        (replace(VXLAN, local=ip_address("fd00::1"), learning=True), {"IFLA_VXLAN_LOCAL6": "fd00::1"}),
    ],
)
def test_a_vxlan_device_is_made_whole(link: VxlanLink, own: dict[str, Any]) -> None:
    found = decoded(added(link), ifinfmsg)
    assert (found["type"], found["flags"], found["sequence_number"]) == (16, 0, 9)  # flags: the device's, down
    assert (found["IFLA_IFNAME"], found["IFLA_MTU"], found["IFLA_ADDRESS"]) == ("ovl.1", 1450, MAC)
    assert found["IFLA_GROUP"] == 0x6F766C
    data = {"IFLA_VXLAN_ID": 7, "IFLA_VXLAN_LEARNING": int(link.learning), "IFLA_VXLAN_PORT": 8472}
    info = {"IFLA_INFO_KIND": "vxlan", "IFLA_INFO_DATA": {**data, "IFLA_VXLAN_LINK": 2, **own}}
    assert found["IFLA_LINKINFO"] == info


@pytest.mark.parametrize(
    "link",
    [
        VXLAN,
        replace(VXLAN, gbp=True, learning=True, local=ip_address("fd00::1")),
        replace(VXLAN, name="ovl6.1", port=4789, mtu=9000),
    ],
)
def test_the_kernel_gives_a_device_back_in_the_form_in_which_it_is_made(link: VxlanLink) -> None:
    entry = wire.read_link(*body(added(link)))
    assert entry is not None
    assert entry.ours
    assert link_of(entry) == replace(link, up=False)


def test_a_tun_is_not_made_by_netlink() -> None:
    assert TUN.creation() is None
    assert link_of(wire.LinkEntry(5, "ovl0", 1, 1472, wire.LINK_GROUP, txqueuelen=1000, driver="tun")) == TUN


def test_a_device_of_a_driver_that_we_do_not_use_has_to_go() -> None:
    found = link_of(wire.LinkEntry(5, "ovl0", 1, 1472, wire.LINK_GROUP, driver="dummy"))
    assert found == Link("ovl0", 1472)
    assert TUN.needs_rebuild(found)
    assert found.needs_rebuild(VXLAN)


def test_a_device_is_renamed_and_marked_in_place() -> None:
    flannels = replace(VXLAN, name="flannel.1", ours=False)
    assert not VXLAN.needs_rebuild(flannels)
    taken, given = VXLAN.attributes(flannels), flannels.attributes(VXLAN)
    assert dict(decoded_attributes(taken)) == {"IFLA_IFNAME": VXLAN.name, "IFLA_GROUP": wire.LINK_GROUP}
    assert dict(decoded_attributes(given)) == {"IFLA_IFNAME": "flannel.1", "IFLA_GROUP": 0}


def decoded_attributes(packed: bytes) -> Iterator[tuple[str, Any]]:
    message = decoded(wire.set_link(3, packed, 1), ifinfmsg)
    return ((name, value) for name, value in message.items() if name.startswith("IFLA"))


@pytest.mark.parametrize(
    ("old", "expected"),
    [
        (VXLAN, {}),
        (replace(VXLAN, mtu=1400, up=False), {"IFLA_MTU": 1450}),
        (replace(VXLAN, mac="06:00:00:00:00:01"), {"IFLA_ADDRESS": MAC}),
        (
            replace(VXLAN, learning=True),
            {
                "IFLA_LINKINFO": {
                    "IFLA_INFO_KIND": "vxlan",
                    "IFLA_INFO_DATA": {"IFLA_VXLAN_ID": 7, "IFLA_VXLAN_LEARNING": 0},
                }
            },
        ),
    ],
)
def test_only_what_differs_is_changed(old: VxlanLink, expected: dict[str, Any]) -> None:
    assert dict(decoded_attributes(VXLAN.attributes(old))) == expected


def test_a_queue_length_is_changed() -> None:
    assert dict(decoded_attributes(TUN.attributes(replace(TUN, txqueuelen=500)))) == {"IFLA_TXQLEN": 1000}
    assert dict(decoded_attributes(TUN.attributes(TUN))) == {}
    assert dict(decoded_attributes(TUN.attributes())) == {"IFLA_MTU": 1472, "IFLA_TXQLEN": 1000}


@pytest.mark.parametrize(("up", "flags"), [(None, (0, 0)), (True, UP), (False, DOWN)])
def test_up_and_down(up: bool | None, flags: tuple[int, int]) -> None:
    found = decoded(wire.set_link(3, u32(IFLA_MTU, 1400), 1, up=up), ifinfmsg)
    assert (found["type"], found["index"], found["change"]) == (16, 3, flags[1])
    assert found["IFLA_MTU"] == 1400


def test_deletion_and_addresses_of_the_kernels_own() -> None:
    assert decoded(wire.delete_link(3, 1), ifinfmsg)["index"] == 3
    found = decoded(wire.set_link(3, wire.no_link_local(), 1), ifinfmsg)
    assert found["IFLA_AF_SPEC"] == {"AF_INET6": {"IFLA_INET6_ADDR_GEN_MODE": 1}}


@pytest.mark.parametrize(("own", "family", "flags"), [("10.1.1.0/32", 2, 0), ("fd00:10:1:1::/128", 10, 2)])
def test_addresses(own: str, family: int, flags: int) -> None:
    address = LinkAddress("ovl.1", ip_interface(own))
    for verb, kind, request in (("add", 20, PUT), ("change", 20, PUT), ("delete", 21, SET)):
        message = address.encode(verb, {"ovl.1": 7}, 4)
        found = decoded(message, ifaddrmsg)
        assert int.from_bytes(message[4:6], "little") == kind
        assert int.from_bytes(message[6:8], "little") == request
        assert (found["family"], found["prefixlen"], found["index"]) == (family, address.address.network.prefixlen, 7)
        assert found["IFA_LOCAL"] == found["IFA_ADDRESS"] == str(address.address.ip)
        assert found["flags"] == (flags if verb != "delete" else 0), "nobody else can have it"
    assert LinkAddress.decode(*body(message), Interfaces({7: "ovl.1"}, {7: "ovl.1"})) == address
    assert LinkAddress.decode(*body(message), Interfaces({7: "eth0"}, {})) is None
    with pytest.raises(KeyError):
        address.encode("add", {}, 4)


def test_a_link_local_address_is_the_kernels_own() -> None:
    message = LinkAddress("ovl.1", ip_interface("fe80::1/64")).encode("add", {"ovl.1": 7}, 4)
    assert LinkAddress.decode(*body(message), Interfaces({7: "ovl.1"}, {7: "ovl.1"})) is None


@pytest.mark.parametrize(
    ("link", "number", "text"),
    [
        (VXLAN, errno.EEXIST, "device ovl.1: E; either a device of that name is not overlayd's, or another device has"),
        (
            VXLAN,
            errno.EADDRINUSE,
            "device ovl.1: E; another program has UDP port 8472 (see ss -lunp), or a VXLAN"
            " device of another kind (ip -d link show type vxlan)",
        ),
        (VXLAN, errno.EPERM, "device ovl.1: E; overlayd needs CAP_NET_ADMIN"),
        (TUN, errno.EEXIST, "device ovl0: E; it is not overlayd's: remove it"),
        (TUN, errno.ENOBUFS, f"device ovl0: E ({TUN})"),
    ],
)
def test_a_refusal_says_what_to_do(link: Link, number: int, text: str) -> None:
    assert link.explain(number, "E").startswith(text)
