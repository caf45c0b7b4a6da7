"""Devices of overlayd's, and their addresses."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import ClassVar, Self

from overlayd.core.kernel.kinds.base import Channel, Interfaces, KernelObject, Key, RtnetlinkObject, Verb
from overlayd.wire.address import Address, Interface
from overlayd.wire.netlink import link as wire
from overlayd.wire.netlink.message import attribute, family_header, octets, read_ip, read_number, text, u8, u32
from overlayd.wire.netlink.uapi import (
    AF_UNSPEC,
    IFADDRMSG,
    IFLA_ADDRESS,
    IFLA_GROUP,
    IFLA_IFNAME,
    IFLA_MTU,
    IFLA_TXQLEN,
    IFLA_VXLAN_COLLECT_METADATA,
    IFLA_VXLAN_GBP,
    IFLA_VXLAN_ID,
    IFLA_VXLAN_LEARNING,
    IFLA_VXLAN_LINK,
    IFLA_VXLAN_LOCAL,
    IFLA_VXLAN_LOCAL6,
    IFLA_VXLAN_PORT,
    RTM_GETADDR,
)


@dataclass(frozen=True, slots=True)
class Link(KernelObject):
    """A device. Each driver has a class of its own; this one stands for devices of ours of any other driver."""

    channel = Channel.LINK
    rank = 10
    driver: ClassVar[str] = ""
    """The kernel's name of it."""

    name: str
    mtu: int
    up: bool = True
    ours: bool = True
    """Whether it is in overlayd's group of devices; another's is read only to be taken over."""

    @property
    def key(self) -> Key:
        return ("link", self.name)

    @property
    def device(self) -> str:
        return self.name

    @property
    def essential(self) -> bool:
        return True

    @property
    def rps(self) -> str:
        """The mask of the CPUs to steer received packets to, where it is made so; empty: none."""
        return ""

    @property
    def fixed(self) -> tuple[object, ...]:
        """What the kernel cannot change in place."""
        return (self.driver,)

    def needs_rebuild(self, actual: Self) -> bool:
        return self.fixed != actual.fixed

    @classmethod
    def of(cls, entry: wire.LinkEntry) -> Link:
        """The device in a dump or a notification."""
        return Link(entry.name, entry.mtu, entry.up, entry.ours)

    def creation(self) -> bytes | None:
        """The driver's attributes to make it with; None where the driver takes none from netlink."""
        return None

    def attributes(self, old: Link | None = None) -> bytes:
        """What differs from `old`, and nothing else: a device forgets its neighbours when its MAC is set, even to the
        one that it has."""
        found = u32(IFLA_MTU, self.mtu) if old is None or self.mtu != old.mtu else b""
        if old is not None and self.name != old.name:
            found += text(IFLA_IFNAME, self.name)
        if old is not None and self.ours != old.ours:
            found += u32(IFLA_GROUP, wire.LINK_GROUP if self.ours else 0)
        return found

    def explain_name(self) -> str:
        """That another's device has its name, and what to do."""
        return f"device {self.name} exists and is not overlayd's: remove it (ip link del {self.name})"

    def explain(self, number: int, reason: str) -> str:
        """Why the kernel refused it, from the errno and its text, and what to do."""
        if number == errno.EPERM:
            return f"device {self.name}: {reason}; overlayd needs CAP_NET_ADMIN (run it as root or from its unit)"
        if number == errno.EEXIST:
            return f"device {self.name}: {reason}; it is not overlayd's: remove it"
        return f"device {self.name}: {reason} ({self})"

    def __str__(self) -> str:
        return f"link {self.name} mtu {self.mtu} {'up' if self.up else 'down'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TunLink(Link):
    """A TUN, persistent, so that it outlives the daemon; made through /dev/net/tun."""

    driver = "tun"

    txqueuelen: int | None = None

    @classmethod
    def of(cls, entry: wire.LinkEntry) -> Link:
        return TunLink(entry.name, entry.mtu, entry.up, entry.ours, txqueuelen=entry.txqueuelen)

    def attributes(self, old: Link | None = None) -> bytes:
        found = Link.attributes(self, old)  # super() does not find its way in a dataclass with slots
        if self.txqueuelen is not None and (not isinstance(old, TunLink) or self.txqueuelen != old.txqueuelen):
            found += u32(IFLA_TXQLEN, self.txqueuelen)
        return found

    def __str__(self) -> str:
        queue = f" txqueuelen {self.txqueuelen}" if self.txqueuelen is not None else ""
        return f"{Link.__str__(self)}{queue} type tun"


@dataclass(frozen=True, slots=True, kw_only=True)
class VxlanLink(Link):
    """A VXLAN device with its own FDB (RFC 7348)."""

    driver = "vxlan"

    vni: int
    port: int
    local: Address
    underlay: int
    """Interface index of the underlay."""
    mac: str | None = None
    learning: bool = False
    gbp: bool = False
    external: bool = False
    """Whether it has no VNI of its own, as those of other networks (`external`); none of overlayd's."""

    @property
    def fixed(self) -> tuple[object, ...]:
        return (self.driver, self.vni, self.port, self.local, self.underlay, self.gbp)

    @property
    def claim(self) -> Key:
        """There is one VXLAN device for a VNI, port and underlay family, whatever its name."""
        return ("vxlan", self.vni, self.port, self.local.version)

    @property
    def socket(self) -> tuple[object, ...]:
        """What devices must have alike to share a socket of the kernel's; it is there while one of them is up."""
        return (self.port, self.local.version, self.gbp, self.external)

    @classmethod
    def of(cls, entry: wire.LinkEntry) -> VxlanLink:
        data = entry.data
        return VxlanLink(
            entry.name,
            entry.mtu,
            entry.up,
            entry.ours,
            vni=read_number(data.get(IFLA_VXLAN_ID, b"")),
            port=int.from_bytes(data.get(IFLA_VXLAN_PORT, b""), "big"),
            local=read_ip(data.get(IFLA_VXLAN_LOCAL) or data.get(IFLA_VXLAN_LOCAL6, b"")) or IPv4Address(0),
            underlay=read_number(data.get(IFLA_VXLAN_LINK, b"")),
            mac=entry.mac,
            learning=any(data.get(IFLA_VXLAN_LEARNING, b"")),
            gbp=IFLA_VXLAN_GBP in data,
            external=any(data.get(IFLA_VXLAN_COLLECT_METADATA, b"")),
        )

    def creation(self) -> bytes:
        local = attribute(IFLA_VXLAN_LOCAL if self.local.version == 4 else IFLA_VXLAN_LOCAL6, self.local.packed)
        port = attribute(IFLA_VXLAN_PORT, self.port.to_bytes(2, "big"))
        group_policy = attribute(IFLA_VXLAN_GBP, b"") if self.gbp else b""
        return self._learning() + local + port + u32(IFLA_VXLAN_LINK, self.underlay) + group_policy

    def attributes(self, old: Link | None = None) -> bytes:
        found = Link.attributes(self, old)
        known = old if isinstance(old, VxlanLink) else None
        if self.mac is not None and (known is None or self.mac != known.mac):
            found += attribute(IFLA_ADDRESS, octets(self.mac))
        if known is not None and self.learning != known.learning:
            found += wire.link_info(self.driver, self._learning())
        return found

    def _learning(self) -> bytes:
        """The one attribute of the driver that can be changed in place, with the VNI that has to come with it."""
        return u32(IFLA_VXLAN_ID, self.vni) + u8(IFLA_VXLAN_LEARNING, self.learning)

    def explain_rival(self, other: str) -> str:
        """That another device has what this one claims, and what to do."""
        return (
            f"device {self.name}: File exists; another device has VNI {self.vni} on UDP port {self.port}: {other}"
            f" (remove it, ip link del {other}, or set vxlan.vni or vxlan.port)"
        )

    def explain(self, number: int, reason: str) -> str:
        if number == errno.EEXIST:
            return (
                f"device {self.name}: {reason}; either a device of that name is not overlayd's, or another device has"
                f" VNI {self.vni} on UDP port {self.port} (see ip -d link show type vxlan)"
            )
        if number == errno.EADDRINUSE:
            return (
                f"device {self.name}: {reason}; another program has UDP port {self.port} (see ss -lunp), or a VXLAN"
                " device of another kind (ip -d link show type vxlan)"
            )
        return Link.explain(self, number, reason)

    def __str__(self) -> str:
        address = f" address {self.mac}" if self.mac is not None else ""
        return (
            f"{Link.__str__(self)}{address} type vxlan id {self.vni} dstport {self.port} local {self.local}"
            f" dev #{self.underlay} {'' if self.learning else 'no'}learning{' gbp' if self.gbp else ''}"
        )


@dataclass(frozen=True, slots=True)
class LinkAddress(RtnetlinkObject):
    """An address on one of our devices. Link-local ones are the kernel's own.

    One that goes makes way before routes come: the kernel takes no gateway that is an address of its own, and a host
    that gives its subnet to a peer would have one. The address that replaces it is there by then, so that the device is
    never without any, which would cost it all its routes.
    """

    rank = 20
    deleted_early = True
    dump = (RTM_GETADDR, (family_header(AF_UNSPEC, IFADDRMSG),))

    link: str
    address: Interface

    @property
    def key(self) -> Key:
        return ("address", self.link, self.address)

    @property
    def parent(self) -> Key:
        return ("link", self.link)

    def encode(self, verb: Verb, indexes: Mapping[str, int], sequence: int) -> bytes:
        request = wire.delete_address if verb == "delete" else wire.put_address
        return request(indexes[self.link], self.address, sequence)

    @classmethod
    def decode(cls, data: bytes, begin: int, end: int, interfaces: Interfaces) -> LinkAddress | None:
        entry = wire.read_address(data, begin, end)
        return cls.of(entry, interfaces) if entry is not None else None

    @classmethod
    def of(cls, entry: wire.AddressEntry, interfaces: Interfaces) -> LinkAddress | None:
        """The address in a dump or a notification; None where it is not overlayd's."""
        device = interfaces.ours.get(entry.link)
        return LinkAddress(device, entry.address) if device is not None and not entry.address.is_link_local else None

    def __str__(self) -> str:
        return f"address {self.address} dev {self.link}"
