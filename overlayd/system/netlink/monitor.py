"""Hears what anybody changes in the kernel: devices, addresses, neighbours, FDB entries, routes, rules.

The kernel queues a notification before it acknowledges the change to whoever made it. So when the queue has been read
to its end, what was heard is what is there.
"""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress

from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from overlayd.core.address import Interface
from overlayd.core.kernel.changes import Changes
from overlayd.core.kernel.firewall import TABLE
from overlayd.core.kernel.kinds import Address, FdbEntry, Key, Neighbour
from overlayd.system.netlink.links import LINK_GROUP
from overlayd.system.netlink.reader import link_of, route_of
from overlayd.wire.netlink import events as wire
from overlayd.wire.netlink import nft_events as nftables_events
from overlayd.wire.netlink.rtnetlink import HEADER

# linux/netlink.h, linux/rtnetlink.h, linux/netfilter/nfnetlink.h
_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, _NETLINK_NETFILTER = 270, 1, 12
_LINK, _NEIGHBOUR, _ADDRESS4, _ROUTE4, _ADDRESS6, _ROUTE6 = 1, 3, 5, 7, 9, 11
_NFTABLES = 7

# linux/sockios.h, linux/if.h
_SIOCGIFFLAGS, _SIOCGIFMTU = 0x8913, 0x8921
_IFF_UP = 0x1

_SO_RCVBUFFORCE = 33
_BUFFER = 16 * 1024 * 1024  # bytes; what ten thousand leases make, and twice that
_BURST = 500  # messages; a few milliseconds' work
_MOST = 1 << 16  # bytes in one delivery

Hear = Callable[[int, int, int, bytes, int, int, Changes], None]
"""Takes a message's type, flags and port, the data with where its body begins and ends, and where to note it."""


class Monitor:
    """Two sockets that only listen. Close it."""

    def __init__(self) -> None:
        """Raises OSError."""
        self._devices: frozenset[str] = frozenset()
        self._ours: dict[int, str] = {}
        """Names of those of our devices that are there, by index."""
        self._underlay = ""
        self._underlay_was: wire.LinkEvent | None = None
        self._underlay_addresses: dict[Interface, int | None] = {}
        """Flags of those that were heard of; None for one that is gone."""
        groups = (_LINK, _NEIGHBOUR, _ADDRESS4, _ROUTE4, _ADDRESS6, _ROUTE6)
        self._sockets: dict[socket.socket, Hear] = {_subscribed(socket.NETLINK_ROUTE, groups): self._hear_route}
        with suppress(OSError):  # a kernel without nftables: there are no rules either
            self._sockets[_subscribed(_NETLINK_NETFILTER, (_NFTABLES,))] = self._hear_rules
        self._names = dict(socket.if_nameindex())

    def filenos(self) -> list[int]:
        """What to wait on: readable means that something changed."""
        return [sock.fileno() for sock in self._sockets]

    def close(self) -> None:
        """Close the sockets."""
        for sock in self._sockets:
            sock.close()

    def watch(self, devices: Iterable[str], underlay: str) -> None:
        """Heed these devices of overlayd's, and this underlay interface."""
        self._devices = frozenset(devices)
        self._ours = {index: name for index, name in self._names.items() if name in self._devices}
        if underlay != self._underlay:
            self._underlay, self._underlay_was = underlay, _as_it_is(underlay)
            self._underlay_addresses.clear()

    def read(self, into: Changes) -> bool:
        """Note what was heard; False when there is more."""
        return all(self._read(sock, hear, into) for sock, hear in self._sockets.items())

    def skim(self, into: Changes) -> bool:
        """Note what was heard of devices, addresses and rules, and of all else only that there may have been something:
        much cheaper. False when there is more."""
        into.lost = True
        skimming = {sock: self._skim if hear == self._hear_route else hear for sock, hear in self._sockets.items()}
        return all(self._read(sock, hear, into) for sock, hear in skimming.items())

    def _skim(self, kind: int, flags: int, port: int, data: bytes, begin: int, end: int, into: Changes) -> None:
        if kind in (wire.RTM_NEWADDR, wire.RTM_DELADDR, wire.RTM_NEWLINK, wire.RTM_DELLINK):
            self._hear_route(kind, flags, port, data, begin, end, into)

    def _read(self, sock: socket.socket, hear: Hear, into: Changes) -> bool:
        for _ in range(_BURST):
            try:
                data = sock.recv(_MOST)
            except BlockingIOError:
                return True
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                into.lost = True
                self._names = dict(socket.if_nameindex())
                continue
            offset = 0
            while offset + HEADER.size <= len(data):
                length, kind, flags, _, port = HEADER.unpack_from(data, offset)
                if length < HEADER.size or offset + length > len(data):
                    break
                hear(kind, flags, port, data, offset + HEADER.size, offset + length, into)
                offset += length + 3 & ~3
        return False

    def _hear_route(self, kind: int, flags: int, _: int, data: bytes, begin: int, end: int, into: Changes) -> None:
        if kind in (wire.RTM_NEWROUTE, wire.RTM_DELROUTE):
            self._hear_a_route(kind, flags, data, begin, end, into)
        elif kind in (wire.RTM_NEWNEIGH, wire.RTM_DELNEIGH):
            if wire.neighbour_index(data, begin, end) in self._ours:
                self._hear_a_neighbour(kind, data, begin, end, into)
        elif kind in (wire.RTM_NEWADDR, wire.RTM_DELADDR):
            self._hear_an_address(kind, data, begin, end, into)
        elif kind in (wire.RTM_NEWLINK, wire.RTM_DELLINK):
            self._hear_a_link(kind, data, begin, end, into)

    def _hear_a_route(self, kind: int, flags: int, data: bytes, begin: int, end: int, into: Changes) -> None:
        event = wire.read_route_event(kind, flags, data, begin, end)
        if event is None:
            return
        key: Key = ("route", event.destination)
        if event.ours:
            into.objects[key] = route_of(event.entry, self._names, self._ours) if event.entry is not None else None
        else:
            into.others.add(key)

    def _hear_a_neighbour(self, kind: int, data: bytes, begin: int, end: int, into: Changes) -> None:
        event = wire.read_neighbour_event(kind, data, begin, end)
        if event is None:
            return
        _, ip, mac = event.about
        device, there = self._ours[event.about.link], event.entry is not None
        if event.fdb:
            key: Key = ("fdb", device, mac)
            into.objects[key] = FdbEntry(device, mac, ip) if there and mac is not None and ip is not None else None
        elif ip is not None:
            key = ("neighbour", device, ip)
            into.objects[key] = Neighbour(device, ip, mac) if there and mac is not None else None

    def _hear_an_address(self, kind: int, data: bytes, begin: int, end: int, into: Changes) -> None:
        index = wire.address_index(data, begin, end)
        underlay = index is not None and self._names.get(index) == self._underlay
        event = wire.read_address(kind, data, begin, end) if underlay or index in self._ours else None
        if event is None:
            return
        if underlay:
            known = None if event.gone else event.flags  # of an address whose lifetime is renewed nothing else is new
            into.underlay = into.underlay or known != self._underlay_addresses.get(event.address)
            self._underlay_addresses[event.address] = known
        elif not event.address.is_link_local:  # those are the kernel's own
            address = Address(self._ours[event.link], event.address)
            into.foundations.append((address.key, None if event.gone else address))

    def _hear_a_link(self, kind: int, data: bytes, begin: int, end: int, into: Changes) -> None:
        event = wire.read_link(kind, data, begin, end)
        if event is None:
            return
        former = self._names.get(event.link)
        if event.gone:
            self._names.pop(event.link, None)
        else:
            self._names[event.link] = event.name
        if self._underlay in (event.name, former):
            into.underlay = into.underlay or event != self._underlay_was
            self._underlay_was = event
        if former in self._devices and (event.gone or former != event.name):
            self._ours.pop(event.link, None)
            into.foundations.append((("link", former), None))
        if event.name in self._devices and not event.gone:
            self._ours[event.link] = event.name
            message = ifinfmsg(data[begin - HEADER.size : end])
            message.decode()
            attributes = dict(message["attrs"])
            link = link_of(message, attributes) if attributes.get("IFLA_GROUP") == LINK_GROUP else None
            into.foundations.append((("link", event.name), link))

    def _hear_rules(self, kind: int, _: int, port: int, data: bytes, begin: int, end: int, into: Changes) -> None:
        if port not in into.rules and nftables_events.concerns(kind, data, begin, end, TABLE.encode()):
            into.rules.add(port)


def _as_it_is(name: str) -> wire.LinkEvent | None:
    """What the kernel would say of this interface now."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            request = name.encode().ljust(40, b"\0")
            (flags,) = struct.unpack_from("=H", fcntl.ioctl(sock, _SIOCGIFFLAGS, request), 16)
            (mtu,) = struct.unpack_from("=i", fcntl.ioctl(sock, _SIOCGIFMTU, request), 16)
            return wire.LinkEvent(socket.if_nametoindex(name), name, bool(flags & _IFF_UP), mtu, False)
    except OSError:
        return None


def _subscribed(protocol: int, groups: Iterable[int]) -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol)
    try:
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        sock.bind((0, 0))
        for group in groups:
            sock.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)
    except OSError:
        sock.close()
        raise
    return sock
