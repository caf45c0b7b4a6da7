"""Where a VXLAN device sends a packet: neighbours (IP to MAC) and FDB entries (MAC to VTEP)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from overlayd.core.kernel.kinds.base import Interfaces, Key, RtnetlinkObject, Verb
from overlayd.wire.address import Address
from overlayd.wire.netlink import neighbour as wire
from overlayd.wire.netlink.message import family_header
from overlayd.wire.netlink.uapi import AF_BRIDGE, AF_INET, AF_INET6, NDMSG, RTM_GETNEIGH


@dataclass(frozen=True, slots=True)
class Neighbour(RtnetlinkObject):
    """A permanent neighbour entry: IP to MAC."""

    rank = 50
    lost_when = frozenset({"mac"})  # permanent ones too (neigh_changeaddr)
    dump = (RTM_GETNEIGH, (family_header(AF_INET, NDMSG), family_header(AF_INET6, NDMSG)))

    link: str
    ip: Address
    mac: str

    @property
    def key(self) -> Key:
        return ("neighbour", self.link, self.ip)

    @property
    def parent(self) -> Key:
        return ("link", self.link)

    def encode(self, verb: Verb, indexes: Mapping[str, int], sequence: int) -> bytes:
        index = indexes[self.link]
        if verb == "delete":
            return wire.delete_neighbour(index, self.ip, sequence)
        return wire.put_neighbour(index, self.ip, self.mac, sequence)

    @classmethod
    def decode(cls, data: bytes, begin: int, end: int, interfaces: Interfaces) -> Neighbour | None:
        entry = wire.read_neighbour(data, begin, end)
        return cls.of(entry, interfaces) if entry is not None else None

    @classmethod
    def of(cls, entry: wire.NeighbourEntry, interfaces: Interfaces) -> Neighbour | None:
        """The entry in a dump or a notification; None where it is not overlayd's."""
        device, ip, mac = interfaces.ours.get(entry.link), entry.address, entry.mac
        return Neighbour(device, ip, mac) if device is not None and ip is not None and mac is not None else None

    def __str__(self) -> str:
        return f"neigh {self.ip} dev {self.link} lladdr {self.mac} nud permanent"


@dataclass(frozen=True, slots=True)
class FdbEntry(RtnetlinkObject):
    """A permanent forwarding entry of a VXLAN device: MAC to VTEP."""

    rank = 60
    dump = (RTM_GETNEIGH, (family_header(AF_BRIDGE, NDMSG),))

    link: str
    mac: str
    vtep: Address

    @property
    def key(self) -> Key:
        return ("fdb", self.link, self.mac)

    @property
    def parent(self) -> Key:
        return ("link", self.link)

    def encode(self, verb: Verb, indexes: Mapping[str, int], sequence: int) -> bytes:
        request = wire.delete_fdb if verb == "delete" else wire.put_fdb
        return request(indexes[self.link], self.mac, self.vtep, sequence)

    @classmethod
    def decode(cls, data: bytes, begin: int, end: int, interfaces: Interfaces) -> FdbEntry | None:
        entry = wire.read_neighbour(data, begin, end)
        return cls.of(entry, interfaces) if entry is not None else None

    @classmethod
    def of(cls, entry: wire.NeighbourEntry, interfaces: Interfaces) -> FdbEntry | None:
        """The entry in a dump or a notification; None where it is not overlayd's."""
        device, vtep, mac = interfaces.ours.get(entry.link), entry.address, entry.mac
        return FdbEntry(device, mac, vtep) if device is not None and vtep is not None and mac is not None else None

    def __str__(self) -> str:
        return f"fdb {self.mac} dev {self.link} dst {self.vtep} self permanent"
