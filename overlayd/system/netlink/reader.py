"""The kernel's state, from dumps."""

from __future__ import annotations

import socket
from contextlib import suppress
from functools import partial
from ipaddress import ip_address

from overlayd.core.address import Address, Interface
from overlayd.core.kernel.firewall import SETS, TABLE, Sighting, sighting
from overlayd.core.kernel.kinds import RTNETLINK_KINDS, Interfaces, KernelState, Route, VxlanLink, link_of
from overlayd.core.underlay import HostInterface
from overlayd.system.netlink.dumps import DumpReader
from overlayd.wire.netlink import nft
from overlayd.wire.netlink.link import AddressEntry, LinkEntry, read_address, read_link
from overlayd.wire.netlink.message import family_header
from overlayd.wire.netlink.route import path_header, read_path
from overlayd.wire.netlink.uapi import (
    AF_UNSPEC,
    IFADDRMSG,
    IFF_LOOPBACK,
    IFINFOMSG,
    NETLINK_NETFILTER,
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_GETROUTE,
)


class Reader:
    """Reads through a socket for each protocol."""

    def __init__(self) -> None:
        """Raises OSError."""
        self._dumps, self._nft_dumps = DumpReader(), DumpReader(NETLINK_NETFILTER)

    def close(self) -> None:
        """Close the sockets."""
        self._dumps.close()
        self._nft_dumps.close()

    def interfaces(self) -> list[HostInterface]:
        """Every interface of the host with its addresses, in the kernel's order. Raises OSError."""
        addresses: dict[int, list[Interface]] = {}
        for entry in self._addresses():
            addresses.setdefault(entry.link, []).append(entry.address)
        return [
            HostInterface(
                name=entry.name,
                index=entry.link,
                mtu=entry.mtu,
                up=entry.up,
                loopback=bool(entry.flags & IFF_LOOPBACK),
                ours=entry.ours,
                addresses=tuple(addresses.get(entry.link, ())),
            )
            for entry in self.links()
        ]

    def egress(self, destination: str) -> int | None:
        """The index of the interface that the kernel would send to this address through, if it would. Raises
        OSError."""
        return self._dumps.egress(ip_address(destination))

    def read(self, *, foreign: bool = False) -> KernelState:
        """Every object of overlayd's that is read by netlink; `foreign`: the VXLAN devices of others, what hangs on
        them, and others' routes. Raises OSError."""
        links = self.links()
        read = [entry for entry in links if entry.ours != foreign and (entry.ours or entry.driver == VxlanLink.driver)]
        names = {entry.link: entry.name for entry in links}
        interfaces = Interfaces(names, {entry.link: entry.name for entry in read}, foreign)
        state: KernelState = {link.key: link for link in map(link_of, read)}
        for kind in RTNETLINK_KINDS if read else (Route,):  # all but routes hang on these devices
            kind_of_request, headers = kind.dump
            for header in headers:
                found = self._dumps.dump(kind_of_request, header, partial(kind.decode, interfaces=interfaces))
                state.update((thing.key, thing) for thing in found)
        return state

    def paths(self) -> dict[Address, int]:
        """What the kernel has learnt of paths: their MTU in bytes, by destination. Raises OSError."""
        found: dict[Address, int] = {}
        for family in (socket.AF_INET, socket.AF_INET6):
            found.update(self._dumps.strict_dump(RTM_GETROUTE, path_header(family), read_path))
        return found

    def sightings(self) -> list[Sighting]:
        """What the rules of our table have noted of senders. Raises OSError."""
        found: list[Sighting | None] = []
        for name in SETS:
            kind, header = nft.elements_request(TABLE, name)
            with suppress(FileNotFoundError):  # the table has those that its rules need
                for keys in self._nft_dumps.dump(kind, header, nft.read_keys):
                    found += [sighting(name, key) for key in keys]
        return [one for one in found if one is not None]

    def own_addresses(self) -> set[Address]:
        """Every address of the host. Raises OSError."""
        return {entry.address.ip for entry in self._addresses()}

    def links(self) -> list[LinkEntry]:
        """Every device. Raises OSError."""
        return self._dumps.dump(RTM_GETLINK, family_header(AF_UNSPEC, IFINFOMSG), read_link)

    def _addresses(self) -> list[AddressEntry]:
        return self._dumps.dump(RTM_GETADDR, family_header(AF_UNSPEC, IFADDRMSG), read_address)
