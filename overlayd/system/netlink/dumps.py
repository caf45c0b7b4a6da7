"""Dumps through a socket of their own: thousands of entries, decoded by `wire.rtnetlink_dump`."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable
from typing import TypeVar

from overlayd.wire.netlink import dump as wire
from overlayd.wire.netlink.rtnetlink import Address

T = TypeVar("T")

_RECEIVE_BUFFER = 4 * 1024 * 1024  # bytes
_MOST = 1 << 18  # bytes in one answer; the kernel fills 32 KiB
_TIMEOUT = 10  # seconds
_ATTEMPTS = 4  # the last one counts even if something changed while it was read

_SOL_NETLINK, _NETLINK_GET_STRICT_CHK = 270, 12  # linux/netlink.h

AF_BRIDGE = 7  # linux/socket.h


class DumpReader:
    """A netlink socket that only reads."""

    def __init__(self) -> None:
        self._sequence = 0
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        self._socket.settimeout(_TIMEOUT)
        self._socket.bind((0, 0))

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def routes(self, family: int) -> list[wire.RouteEntry]:
        """The routes of the main table that overlayd made. Raises OSError."""
        return self._dump("routes", family, wire.read_route)

    def neighbours(self, family: int) -> list[wire.NeighbourEntry]:
        """The permanent neighbour entries, or with AF_BRIDGE the FDB's. Raises OSError."""
        return self._dump("neighbours", family, wire.read_neighbour)

    def paths(self, family: int) -> list[tuple[Address, int]]:
        """The path MTUs that the kernel has learnt, by destination. Raises OSError."""
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
        try:
            return self._dump("paths", family, wire.read_path)
        finally:
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 0)

    def _dump(self, what: wire.Dump, family: int, read: Callable[[bytes, int, int], T | None]) -> list[T]:
        for _ in range(_ATTEMPTS):
            found, whole = self._once(what, family, read)
            if whole:
                break
        return found

    def _once(self, what: wire.Dump, family: int, read: Callable[[bytes, int, int], T | None]) -> tuple[list[T], bool]:
        """The entries, and whether they all are of one moment."""
        self._sequence += 1
        self._socket.send(wire.request(what, family, self._sequence))
        found: list[T] = []
        whole = True
        while True:
            data = self._socket.recv(_MOST)
            for kind, flags, sequence, begin, end in wire.messages(data):
                if sequence != self._sequence:  # left over from a dump that was given up
                    continue
                if kind == wire.NLMSG_DONE:
                    return found, whole
                if kind == wire.NLMSG_ERROR:
                    number = -struct.unpack_from("=i", data, begin)[0]
                    if number in (errno.EOPNOTSUPP, errno.EAFNOSUPPORT):  # a kernel without IPv6
                        return found, True
                    raise OSError(number, os.strerror(number))
                whole = whole and not flags & wire.NLM_F_DUMP_INTR
                entry = read(data, begin, end)
                if entry is not None:
                    found.append(entry)
