"""Notifications of what anybody changes in the kernel: devices, addresses, neighbours, FDB entries, routes, rules.

The kernel queues a notification before it acknowledges the change to whoever made it. So when the queue has been read
to its end, the state that follows from it is the kernel's.
"""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import NamedTuple

from overlayd.core.address import Interface
from overlayd.core.kernel.changes import KernelChanges
from overlayd.core.kernel.firewall import TABLE
from overlayd.core.kernel.kinds import BridgePort, FdbEntry, Interfaces, Key, LinkAddress, Neighbour, Route, link_of
from overlayd.wire.netlink import nft as nft_wire
from overlayd.wire.netlink.link import address_index, read_address, read_link
from overlayd.wire.netlink.message import messages
from overlayd.wire.netlink.neighbour import neighbour_index, read_neighbour_event
from overlayd.wire.netlink.route import read_route_event
from overlayd.wire.netlink.uapi import (
    IFF_UP,
    NETLINK_ADD_MEMBERSHIP,
    NETLINK_NETFILTER,
    NFNLGRP_NFTABLES,
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_DELNEIGH,
    RTM_DELROUTE,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWNEIGH,
    RTM_NEWROUTE,
    RTNLGRP_IPV4_IFADDR,
    RTNLGRP_IPV4_ROUTE,
    RTNLGRP_IPV6_IFADDR,
    RTNLGRP_IPV6_ROUTE,
    RTNLGRP_LINK,
    RTNLGRP_NEIGH,
    SOL_NETLINK,
)

_GROUPS = (
    RTNLGRP_LINK,
    RTNLGRP_NEIGH,
    RTNLGRP_IPV4_IFADDR,
    RTNLGRP_IPV4_ROUTE,
    RTNLGRP_IPV6_IFADDR,
    RTNLGRP_IPV6_ROUTE,
)

# linux/sockios.h, linux/if.h, asm-generic/socket.h
_SIOCGIFFLAGS, _SIOCGIFMTU = 0x8913, 0x8921
_IFREQ_SIZE, _IFREQ_VALUE = 40, 16  # bytes; its second field begins behind the name
_SO_RCVBUFFORCE = 33

_BUFFER = 16 * 1024 * 1024  # bytes; twice what ten thousand leases make
_BURST = 500  # deliveries; a few milliseconds' work
_MOST = 1 << 16  # bytes in one delivery

Handler = Callable[[int, int, int, bytes, int, int, KernelChanges], None]
"""Takes a message's type, flags and port, the data with where its body begins and ends, and where to note it."""
HandlerOf = Callable[[int], Handler | None]
"""By a message's type."""


class _UnderlayState(NamedTuple):
    """What of the underlay interface overlayd depends on."""

    link: int
    name: str
    up: bool
    mtu: int


class Monitor:
    """Two sockets that only receive. Close it."""

    def __init__(self) -> None:
        """Raises OSError."""
        self._devices: frozenset[str] = frozenset()
        self._ours: dict[int, str] = {}
        """Names of those of our devices that are there, by index."""
        self._underlay = ""
        self._underlay_state: _UnderlayState | None = None
        self._underlay_addresses: dict[Interface, int | None] = {}
        """Flags of those that were reported; None for one that is gone."""
        on_interface: dict[int, Handler] = {
            RTM_NEWLINK: self._on_link,
            RTM_DELLINK: self._on_link,
            RTM_NEWADDR: self._on_address,
            RTM_DELADDR: self._on_address,
        }
        on_entry: dict[int, Handler] = {
            RTM_NEWROUTE: self._on_route,
            RTM_DELROUTE: self._on_route,
            RTM_NEWNEIGH: self._on_neighbour,
            RTM_DELNEIGH: self._on_neighbour,
        }
        self._handlers, self._interface_handlers = {**on_interface, **on_entry}, on_interface
        self._route_socket = _subscribed(socket.NETLINK_ROUTE, _GROUPS)
        self._rules_socket: socket.socket | None = None
        with suppress(OSError):  # a kernel without nftables: there are no rules either
            self._rules_socket = _subscribed(NETLINK_NETFILTER, (NFNLGRP_NFTABLES,))
        self._sockets = [sock for sock in (self._route_socket, self._rules_socket) if sock is not None]
        self._names = dict(socket.if_nameindex())

    def filenos(self) -> list[int]:
        """What to wait on: readable means that something changed."""
        return [sock.fileno() for sock in self._sockets]

    def close(self) -> None:
        """Close the sockets."""
        for sock in self._sockets:
            sock.close()

    def watch(self, devices: Iterable[str], underlay: str) -> None:
        """Report these devices of overlayd's, and this underlay interface."""
        self._devices = frozenset(devices)
        self._ours = {index: name for index, name in self._names.items() if name in self._devices}
        if underlay != self._underlay:
            self._underlay, self._underlay_state = underlay, _underlay_state(underlay)
            self._underlay_addresses.clear()

    def watch_also(self, added: Iterable[str], removed: Iterable[str]) -> None:
        """Report these devices, too, and those no longer."""
        self.watch((self._devices | {*added}) - {*removed}, self._underlay)

    def read(self, into: KernelChanges) -> bool:
        """Note what has been reported; False when there is more."""
        return self._read(self._handlers, into)

    def drain(self, into: KernelChanges) -> bool:
        """Note what has been reported of devices, addresses and rules, and of routes, neighbours and FDB entries only
        that something may have been: much cheaper. False when there is more."""
        into.overrun = True
        return self._read(self._interface_handlers, into)

    def _read(self, handlers: Mapping[int, Handler], into: KernelChanges) -> bool:
        read = self._receive(self._route_socket, handlers.get, into)
        if self._rules_socket is not None:
            read = self._receive(self._rules_socket, lambda _: self._on_rules, into) and read
        return read

    def _receive(self, sock: socket.socket, handler_of: HandlerOf, into: KernelChanges) -> bool:
        for _ in range(_BURST):
            try:
                data = sock.recv(_MOST)
            except BlockingIOError:
                return True
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                into.overrun = True
                self._names = dict(socket.if_nameindex())
                continue
            for kind, flags, _, port, begin, end in messages(data):
                handle = handler_of(kind)
                if handle is not None:
                    handle(kind, flags, port, data, begin, end, into)
        return False

    @property
    def _interfaces(self) -> Interfaces:
        return Interfaces(self._names, self._ours)

    def _on_route(self, kind: int, flags: int, _: int, data: bytes, begin: int, end: int, into: KernelChanges) -> None:
        event = read_route_event(kind, flags, data, begin, end)
        if event is None:
            return
        key: Key = ("route", event.destination)
        if event.ours:
            into.objects[key] = Route.of(event.entry, self._interfaces) if event.entry is not None else None
        else:
            into.foreign_routes.add(key)

    def _on_neighbour(
        self, kind: int, _: int, _port: int, data: bytes, begin: int, end: int, into: KernelChanges
    ) -> None:
        if neighbour_index(data, begin, end) not in self._ours:
            return
        event = read_neighbour_event(kind, data, begin, end)
        if event is None:
            return
        (link, ip, mac), entry = event.about, event.entry
        key: Key = ("fdb", self._ours[link], mac) if event.fdb else ("neighbour", self._ours[link], ip)
        read = FdbEntry.of if event.fdb else Neighbour.of
        into.objects[key] = read(entry, self._interfaces) if entry is not None else None

    def _on_address(
        self, kind: int, _: int, _port: int, data: bytes, begin: int, end: int, into: KernelChanges
    ) -> None:
        index = address_index(data, begin, end)
        underlay = index is not None and self._names.get(index) == self._underlay
        entry = read_address(data, begin, end) if underlay or index in self._ours else None
        if entry is None:
            return
        if underlay:
            flags = entry.flags if kind == RTM_NEWADDR else None
            # Only a change of flags is news: of an address whose lifetime is renewed there is nothing else. One from
            # before `watch` is not known yet: its deletion is a change, too.
            known = entry.address in self._underlay_addresses
            into.underlay = into.underlay or not known or flags != self._underlay_addresses[entry.address]
            self._underlay_addresses[entry.address] = flags
        elif (address := LinkAddress.of(entry, self._interfaces)) is not None:
            into.interfaces.append((address.key, address if kind == RTM_NEWADDR else None))

    def _on_link(self, kind: int, _: int, _port: int, data: bytes, begin: int, end: int, into: KernelChanges) -> None:
        entry = read_link(data, begin, end)
        if entry is None:
            return
        gone = kind == RTM_DELLINK
        former = self._names.get(entry.link)
        if gone:
            self._names.pop(entry.link, None)
        else:
            self._names[entry.link] = entry.name
        if self._underlay in (entry.name, former):
            state = None if gone else _UnderlayState(entry.link, entry.name, entry.up, entry.mtu)
            into.underlay = into.underlay or state != self._underlay_state
            self._underlay_state = state
        if former in self._devices and (gone or former != entry.name):
            self._ours.pop(entry.link, None)
            into.interfaces.append((("link", former), None))
        if entry.name in self._devices and not gone:
            self._ours[entry.link] = entry.name
            into.interfaces.append((("link", entry.name), link_of(entry) if entry.ours else None))
            into.objects["port", entry.name] = BridgePort.of(entry, self._interfaces)

    def _on_rules(self, kind: int, _: int, port: int, data: bytes, begin: int, end: int, into: KernelChanges) -> None:
        if port not in into.rules and nft_wire.concerns(kind, data, begin, end, TABLE.encode()):
            into.rules.add(port)


def _underlay_state(name: str) -> _UnderlayState | None:
    """What the kernel would report of this interface now."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            request = name.encode().ljust(_IFREQ_SIZE, b"\0")
            (flags,) = struct.unpack_from("=H", fcntl.ioctl(sock, _SIOCGIFFLAGS, request), _IFREQ_VALUE)
            (mtu,) = struct.unpack_from("=i", fcntl.ioctl(sock, _SIOCGIFMTU, request), _IFREQ_VALUE)
            return _UnderlayState(socket.if_nametoindex(name), name, bool(flags & IFF_UP), mtu)
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
            sock.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
    except OSError:
        sock.close()
        raise
    return sock
