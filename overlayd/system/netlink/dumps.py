"""Dumps through a socket of their own: thousands of entries, decoded by their kinds or by `wire.netlink`."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from typing import TypeVar

from overlayd.wire.address import Address
from overlayd.wire.netlink.message import dump_request, messages, read_error
from overlayd.wire.netlink.route import egress_request, read_egress
from overlayd.wire.netlink.uapi import (
    NETLINK_GET_STRICT_CHK,
    NLM_F_DUMP_INTR,
    NLMSG_DONE,
    NLMSG_ERROR,
    SOL_NETLINK,
)

T = TypeVar("T")

_RECEIVE_BUFFER = 4 * 1024 * 1024  # bytes
_MOST = 1 << 18  # bytes in one answer; the kernel fills 32 KiB
_TIMEOUT = 10  # seconds
_ATTEMPTS = 4  # the last one counts even if something changed while it was read


class DumpReader:
    """A netlink socket that only reads."""

    def __init__(self, protocol: int = socket.NETLINK_ROUTE) -> None:
        """Raises OSError."""
        self._sequence = 0
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        self._socket.settimeout(_TIMEOUT)
        self._socket.bind((0, 0))

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def dump(self, kind: int, header: bytes, read: Callable[[bytes, int, int], T | None]) -> list[T]:
        """What `read` makes of each message in answer to a request of this type. Raises OSError."""
        for _ in range(_ATTEMPTS):
            found, whole = self._once(kind, header, read)
            if whole:
                break
        return found

    def strict_dump(self, kind: int, header: bytes, read: Callable[[bytes, int, int], T | None]) -> list[T]:
        """The same, for a header that selects by more than the address family."""
        self._socket.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
        try:
            return self.dump(kind, header, read)
        finally:
            self._socket.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 0)

    def egress(self, destination: Address) -> int | None:
        """The index of the interface through which the kernel would send to this address; None where it would not."""
        self._sequence += 1
        self._socket.send(egress_request(destination, self._sequence))
        while True:
            data = self._socket.recv(_MOST)
            for kind, _, sequence, _, begin, end in messages(data):
                if sequence == self._sequence:
                    return read_egress(data, begin, end) if kind != NLMSG_ERROR else None

    def _once(self, kind: int, header: bytes, read: Callable[[bytes, int, int], T | None]) -> tuple[list[T], bool]:
        """The entries, and whether they all are of one moment."""
        self._sequence += 1
        self._socket.send(dump_request(kind, header, self._sequence))
        found: list[T] = []
        whole = True
        while True:
            data = self._socket.recv(_MOST)
            for answer, flags, sequence, _, begin, end in messages(data):
                if sequence != self._sequence:  # left over from a dump that was given up
                    continue
                if answer == NLMSG_DONE:
                    return found, whole
                if answer == NLMSG_ERROR:
                    number = read_error(data, begin, end)
                    if number in (errno.EOPNOTSUPP, errno.EAFNOSUPPORT):  # a kernel without IPv6
                        return found, True
                    raise OSError(number, os.strerror(number))
                whole = whole and not flags & NLM_F_DUMP_INTR
                entry = read(data, begin, end)
                if entry is not None:
                    found.append(entry)
