"""Devices and their addresses: requests, dumps and notifications.

IFINFOMSG (linux/if_link.h)   what all devices have in common; in IFLA_LINKINFO the driver's name and attributes
IFADDRMSG (linux/if_addr.h)   an address of a device
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Interface, IPv6Interface
from typing import NamedTuple

from overlayd.wire.address import Interface
from overlayd.wire.netlink.message import (
    ADD,
    PUT,
    SET,
    attribute,
    attributes,
    family_of,
    message,
    nested,
    read_mac,
    read_number,
    read_text,
    text,
    u8,
    u32,
)
from overlayd.wire.netlink.uapi import (
    AF_INET6,
    AF_UNSPEC,
    IFA_ADDRESS,
    IFA_F_NODAD,
    IFA_LOCAL,
    IFADDRMSG,
    IFF_LOWER_UP,
    IFF_UP,
    IFINFOMSG,
    IFLA_ADDRESS,
    IFLA_AF_SPEC,
    IFLA_BRPORT_MODE,
    IFLA_GROUP,
    IFLA_IFNAME,
    IFLA_INET6_ADDR_GEN_MODE,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_INFO_SLAVE_DATA,
    IFLA_INFO_SLAVE_KIND,
    IFLA_LINKINFO,
    IFLA_MASTER,
    IFLA_MTU,
    IFLA_NET_NS_FD,
    IFLA_TXQLEN,
    IN6_ADDR_GEN_MODE_NONE,
    NLM_F_REQUEST,
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_NEWADDR,
    RTM_NEWLINK,
    VETH_INFO_PEER,
)

LINK_GROUP = 0x6F766C
"""IFLA_GROUP of our devices ("ovl" in ASCII): how overlayd knows them again."""


CONDEMNED_GROUP = LINK_GROUP + 1
"""IFLA_GROUP of those of our devices that are being deleted together."""


class LinkEntry(NamedTuple):
    """A device."""

    link: int
    """Interface index."""
    name: str
    flags: int
    """IFF_UP and others."""
    mtu: int = 0
    group: int = 0
    mac: str | None = None
    txqueuelen: int = 0
    driver: str = ""
    """The kernel's name of its driver, such as vxlan; empty for a device without one."""
    data: Mapping[int, bytes] = {}
    """The driver's own attributes."""
    master: int = 0
    """Interface index of the bridge that it is a port of; 0 for none."""
    hairpin: bool = False
    """Whether, as such a port, it may send a frame back to where it came from."""

    @property
    def up(self) -> bool:
        """Whether it is set up."""
        return bool(self.flags & IFF_UP)

    @property
    def carrier(self) -> bool:
        """Whether it is up and has a carrier; a TUN has one while somebody reads it."""
        return bool(self.flags & IFF_LOWER_UP)

    @property
    def ours(self) -> bool:
        """Whether overlayd made it."""
        return self.group in (LINK_GROUP, CONDEMNED_GROUP)


class AddressEntry(NamedTuple):
    """An address of a device."""

    link: int
    """Interface index."""
    address: Interface
    flags: int
    """IFA_F_TENTATIVE and others, those of the header."""


# --- requests ---------------------------------------------------------------------------------------------------------


def add_link(name: str, driver: str, data: bytes, fields: bytes, sequence: int) -> bytes:
    """Make a device of ours, down. `data` are its driver's attributes, `fields` those that all devices have."""
    fields += text(IFLA_IFNAME, name) + u32(IFLA_GROUP, LINK_GROUP) + link_info(driver, data)
    return message(RTM_NEWLINK, ADD, sequence, IFINFOMSG.pack(AF_UNSPEC, 0, 0, 0, 0, 0) + fields)


def veth_peer(name: str, netns: int, mtu: int, mac: bytes) -> bytes:
    """The driver's attributes of a veth whose other end is made in the namespace of the descriptor `netns`."""
    fields = text(IFLA_IFNAME, name) + u32(IFLA_NET_NS_FD, netns) + u32(IFLA_MTU, mtu) + attribute(IFLA_ADDRESS, mac)
    return nested(VETH_INFO_PEER, IFINFOMSG.pack(AF_UNSPEC, 0, 0, 0, 0, 0), fields)


def set_port(index: int, bridge: int, sequence: int, *, hairpin: bool | None = None) -> bytes:
    """Make a device a port of a bridge, or of none where `bridge` is 0; two messages that are acknowledged as one."""
    header = IFINFOMSG.pack(AF_UNSPEC, 0, 0, index, 0, 0)
    join = header + u32(IFLA_MASTER, bridge)
    if hairpin is None:
        return message(RTM_NEWLINK, SET, sequence, join)
    data = nested(IFLA_INFO_SLAVE_DATA, u8(IFLA_BRPORT_MODE, hairpin))
    mode = header + nested(IFLA_LINKINFO, text(IFLA_INFO_SLAVE_KIND, "bridge"), data)
    return message(RTM_NEWLINK, NLM_F_REQUEST, sequence, join) + message(RTM_NEWLINK, SET, sequence, mode)


def set_link(index: int, fields: bytes, sequence: int, *, up: bool | None = None) -> bytes:
    """Change a device; `up` None leaves it as it is."""
    flags, change = IFF_UP if up else 0, 0 if up is None else IFF_UP
    return message(RTM_NEWLINK, SET, sequence, IFINFOMSG.pack(AF_UNSPEC, 0, 0, index, flags, change) + fields)


def delete_link(index: int, sequence: int) -> bytes:
    """Delete a device."""
    return message(RTM_DELLINK, SET, sequence, IFINFOMSG.pack(AF_UNSPEC, 0, 0, index, 0, 0))


def delete_group(group: int, sequence: int) -> bytes:
    """Delete every device of a group."""
    return message(RTM_DELLINK, SET, sequence, IFINFOMSG.pack(AF_UNSPEC, 0, 0, 0, 0, 0) + u32(IFLA_GROUP, group))


def link_info(driver: str, data: bytes) -> bytes:
    """The attribute with what is the driver's own."""
    return nested(IFLA_LINKINFO, text(IFLA_INFO_KIND, driver), nested(IFLA_INFO_DATA, data))


def no_link_local() -> bytes:
    """The attribute that keeps the kernel from giving a device an IPv6 link-local address."""
    mode = u8(IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE)
    return nested(IFLA_AF_SPEC, nested(AF_INET6, mode))


def put_address(index: int, address: Interface, sequence: int) -> bytes:
    """An address of a device, replacing what stands there; of IPv6 without duplicate address detection."""
    flags = IFA_F_NODAD if address.version == 6 else 0
    return message(RTM_NEWADDR, PUT, sequence, _ifaddrmsg(index, address, flags))


def delete_address(index: int, address: Interface, sequence: int) -> bytes:
    """Delete an address from a device."""
    return message(RTM_DELADDR, SET, sequence, _ifaddrmsg(index, address, 0))


def _ifaddrmsg(index: int, address: Interface, flags: int) -> bytes:
    packed = address.ip.packed
    header = IFADDRMSG.pack(family_of(address.ip), address.network.prefixlen, flags, 0, index)
    return header + attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed)


# --- what the kernel says ---------------------------------------------------------------------------------------------


def read_link(data: bytes, begin: int, end: int) -> LinkEntry | None:
    """The device in a body of RTM_NEWLINK or RTM_DELLINK; None for a bridge's word about its port, and one cut off."""
    if end - begin < IFINFOMSG.size:
        return None
    family, _, _, index, flags, _ = IFINFOMSG.unpack_from(data, begin)
    found = dict(attributes(data, begin + IFINFOMSG.size, end))
    name = read_text(found.get(IFLA_IFNAME, b""))
    if family != AF_UNSPEC or not name:
        return None
    info = _nested(found.get(IFLA_LINKINFO, b""))
    port = _nested(info.get(IFLA_INFO_SLAVE_DATA, b""))
    return LinkEntry(
        index,
        name,
        flags,
        mtu=read_number(found.get(IFLA_MTU, b"")),
        group=read_number(found.get(IFLA_GROUP, b"")),
        mac=read_mac(found.get(IFLA_ADDRESS, b"")),
        txqueuelen=read_number(found.get(IFLA_TXQLEN, b"")),
        driver=read_text(info.get(IFLA_INFO_KIND, b"")),
        data=_nested(info.get(IFLA_INFO_DATA, b"")),
        master=read_number(found.get(IFLA_MASTER, b"")),
        hairpin=any(port.get(IFLA_BRPORT_MODE, b"")),
    )


def address_index(data: bytes, begin: int, end: int) -> int | None:
    """The index of the interface that a body of RTM_NEWADDR or RTM_DELADDR is about."""
    return int(IFADDRMSG.unpack_from(data, begin)[4]) if end - begin >= IFADDRMSG.size else None


def read_address(data: bytes, begin: int, end: int) -> AddressEntry | None:
    """The address in a body of RTM_NEWADDR or RTM_DELADDR; None for one cut off."""
    if end - begin < IFADDRMSG.size:
        return None
    _, prefix, flags, _, index = IFADDRMSG.unpack_from(data, begin)
    found = dict(attributes(data, begin + IFADDRMSG.size, end))
    packed = found.get(IFA_LOCAL, found.get(IFA_ADDRESS, b""))  # of a point-to-point link, our own end
    try:
        own = IPv4Interface((packed, prefix)) if len(packed) == 4 else IPv6Interface((packed, prefix))
    except ValueError:
        return None
    return AddressEntry(index, own, flags)


def _nested(value: bytes) -> dict[int, bytes]:
    return dict(attributes(value, 0, len(value)))
