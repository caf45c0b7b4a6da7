"""A netlink socket for requests: messages out, an acknowledgement for each of them in."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable

from overlayd.wire.netlink.message import acknowledgements
from overlayd.wire.netlink.uapi import NETLINK_CAP_ACK, SOL_NETLINK

_RECEIVE_BUFFER = 4 * 1024 * 1024  # bytes
_TIMEOUT = 10  # seconds; the kernel answers while `send` runs
_MOST = 1 << 16  # bytes in one delivery


class RequestSocket:
    """Its messages are numbered by `next_sequence`. Close it."""

    def __init__(self, protocol: int = socket.NETLINK_ROUTE, *, existing: socket.socket | None = None) -> None:
        """A socket of its own, or an `existing` one, which is closed with it. Raises OSError."""
        self._sequence = 0
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        self._socket = existing or socket.socket(socket.AF_NETLINK, kind, protocol)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        self._socket.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)  # an error does not quote the request
        self._socket.settimeout(_TIMEOUT)
        if existing is None:  # which may be bound
            self._socket.bind((0, 0))
        self.port: int = self._socket.getsockname()[0]
        """By which notifications name who made a change."""

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def next_sequence(self) -> int:
        """The number of the next message; never 0, which is that of notifications."""
        self._sequence = self._sequence + 1 & 0xFFFFFFFF or 1
        return self._sequence

    def exchange(self, packed: bytes, waiting: Iterable[int], transaction: int | None = None) -> dict[int, int]:
        """Send messages; the errno of each that is refused, by its sequence number. Raises OSError.

        Waits for an acknowledgement of each, or of the `transaction` as a whole, which leaves the others without one.
        """
        left = set(waiting)
        refused: dict[int, int] = {}
        self._socket.send(packed)
        while left:
            for sequence, number in acknowledgements(self._socket.recv(_MOST)):
                if sequence in left and number:
                    refused[sequence] = number
                left.discard(sequence)
                if sequence == transaction and number:
                    return {sequence: number}
        return refused

    def request(self, message: bytes, sequence: int) -> None:
        """Send one message. Raises OSError when the kernel refuses it."""
        number = self.exchange(message, (sequence,)).get(sequence)
        if number:
            raise OSError(number, errno.errorcode.get(number, "unknown error"))
