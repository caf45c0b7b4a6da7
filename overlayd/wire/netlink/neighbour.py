"""Neighbours and FDB entries: requests, dumps and notifications (NDMSG in linux/neighbour.h).

They are of one message type. A neighbour's family is its address's, and NDA_DST is its key; an FDB entry's family is
AF_BRIDGE, its key NDA_LLADDR, and NDA_DST its VTEP.
"""

from __future__ import annotations

from typing import NamedTuple

from overlayd.wire.address import Address
from overlayd.wire.netlink.message import PUT, SET, attribute, attributes, family_of, message, octets, read_ip, read_mac
from overlayd.wire.netlink.uapi import (
    AF_BRIDGE,
    NDA_DST,
    NDA_LLADDR,
    NDMSG,
    NTF_SELF,
    NUD_NOARP,
    NUD_PERMANENT,
    RTM_DELNEIGH,
    RTM_NEWNEIGH,
)


class NeighbourEntry(NamedTuple):
    """A permanent neighbour or FDB entry."""

    link: int
    """Interface index."""
    address: Address | None
    """The neighbour, or the VTEP of an FDB entry; None where the entry has none."""
    mac: str | None


class NeighbourEvent(NamedTuple):
    """A neighbour or, with `fdb`, an FDB entry came, changed or went."""

    fdb: bool
    about: NeighbourEntry
    """Which one; of one that went, only what identifies it counts."""
    entry: NeighbourEntry | None
    """None where it is gone, or not permanent."""


# --- requests ---------------------------------------------------------------------------------------------------------


def put_neighbour(link: int, ip: Address, mac: str, sequence: int) -> bytes:
    """A permanent neighbour entry, replacing whatever stands there."""
    header = NDMSG.pack(family_of(ip), 0, 0, link, NUD_PERMANENT, 0, 0)
    fields = attribute(NDA_DST, ip.packed) + attribute(NDA_LLADDR, octets(mac))
    return message(RTM_NEWNEIGH, PUT, sequence, header + fields)


def delete_neighbour(link: int, ip: Address, sequence: int) -> bytes:
    """Delete a neighbour entry."""
    header = NDMSG.pack(family_of(ip), 0, 0, link, 0, 0, 0)
    return message(RTM_DELNEIGH, SET, sequence, header + attribute(NDA_DST, ip.packed))


def put_fdb(link: int, mac: str, vtep: Address, sequence: int) -> bytes:
    """A permanent entry in a VXLAN device's own FDB, replacing the one of the same MAC."""
    return message(RTM_NEWNEIGH, PUT, sequence, _fdb(link, mac, vtep))


def delete_fdb(link: int, mac: str, vtep: Address, sequence: int) -> bytes:
    """Delete an entry from a VXLAN device's own FDB."""
    return message(RTM_DELNEIGH, SET, sequence, _fdb(link, mac, vtep))


def _fdb(link: int, mac: str, vtep: Address) -> bytes:
    header = NDMSG.pack(AF_BRIDGE, 0, 0, link, NUD_PERMANENT | NUD_NOARP, NTF_SELF, 0)
    return header + attribute(NDA_LLADDR, octets(mac)) + attribute(NDA_DST, vtep.packed)


# --- what the kernel says ---------------------------------------------------------------------------------------------


def read_neighbour(data: bytes, begin: int, end: int) -> NeighbourEntry | None:
    """The entry in a body of RTM_NEWNEIGH; None for one that is not permanent, or cut off."""
    if end - begin < NDMSG.size:
        return None
    _, _, _, _, state, _, _ = NDMSG.unpack_from(data, begin)
    return _entry(data, begin, end) if state & NUD_PERMANENT else None


def neighbour_index(data: bytes, begin: int, end: int) -> int | None:
    """The index of the interface that a body of RTM_NEWNEIGH or RTM_DELNEIGH is about."""
    return int(NDMSG.unpack_from(data, begin)[3]) if end - begin >= NDMSG.size else None


def read_neighbour_event(kind: int, data: bytes, begin: int, end: int) -> NeighbourEvent | None:
    """The event in a body of RTM_NEWNEIGH or RTM_DELNEIGH; None for one cut off, or of an FDB entry without a VTEP.

    The latter follows each change of a VXLAN device's FDB on older kernels (6.1), where rtnetlink reports it after the
    device has, with nothing new.
    """
    if end - begin < NDMSG.size:
        return None
    entry = read_neighbour(data, begin, end) if kind == RTM_NEWNEIGH else None
    family, *_ = NDMSG.unpack_from(data, begin)
    fdb, about = family == AF_BRIDGE, entry or _entry(data, begin, end)
    return None if fdb and about.address is None else NeighbourEvent(fdb, about, entry)


def _entry(data: bytes, begin: int, end: int) -> NeighbourEntry:
    """The entry in a body that is long enough, whatever its state."""
    _, _, _, link, _, _, _ = NDMSG.unpack_from(data, begin)
    address: Address | None = None
    mac: str | None = None
    for kind, value in attributes(data, begin + NDMSG.size, end):
        if kind == NDA_DST:
            address = read_ip(value)
        elif kind == NDA_LLADDR:
            mac = read_mac(value)
    return NeighbourEntry(link, address, mac)
