"""Routes, neighbours and FDB entries: thousands of them, packed many to a send."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence

from overlayd.core.kernel.diff import Operation
from overlayd.core.kernel.kinds import FdbEntry, Neighbour, Route
from overlayd.wire.netlink import rtnetlink

BATCH = 150
"""Messages in one send: their acknowledgements fit the receive buffer."""

_RECEIVE_BUFFER = 4 * 1024 * 1024  # bytes
_TIMEOUT = 10  # seconds; the kernel answers while `send` runs
_SOL_NETLINK, _NETLINK_CAP_ACK = 270, 10  # linux/netlink.h


class BatchWriter:
    """A netlink socket of its own, written to in raw messages (wire.rtnetlink)."""

    def __init__(self, size: int = BATCH) -> None:
        self._size = size
        self._sequence = 0
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)  # an error does not quote the request
        self._socket.settimeout(_TIMEOUT)
        self._socket.bind((0, 0))

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def apply(self, operations: Sequence[Operation]) -> list[tuple[Operation, str]]:
        """Do operations on routes, neighbours and FDB entries; those refused, each with the reason."""
        refused: list[tuple[Operation, str]] = []
        indexes = {name: index for index, name in socket.if_nameindex()}
        for start in range(0, len(operations), self._size):
            chunk = operations[start : start + self._size]
            messages: list[bytes] = []
            waiting: dict[int, Operation] = {}
            for step in chunk:
                self._sequence = self._sequence + 1 & 0xFFFFFFFF or 1
                message = _encode(step, indexes, self._sequence)
                if message is None:
                    if step.verb != "delete":  # what hung on a device that is gone is gone too
                        refused.append((step, "its device is gone; it is made again soon"))
                    continue
                messages.append(message)
                waiting[self._sequence] = step
            if messages:
                for step, number in self._exchange(b"".join(messages), waiting):
                    if not (step.verb == "delete" and number in (errno.ESRCH, errno.ENOENT, errno.ENODEV)):
                        refused.append((step, _explain(step, number)))
        return refused

    def _exchange(self, packed: bytes, waiting: dict[int, Operation]) -> list[tuple[Operation, int]]:
        """Send messages and read an acknowledgement for each; the kernel works while `send` runs."""
        try:
            self._socket.send(packed)
            failed = []
            while waiting:
                for sequence, number in rtnetlink.read_acks(self._socket.recv(1 << 16)):
                    step = waiting.pop(sequence, None)
                    if step is not None and number:
                        failed.append((step, number))
        except OSError as error:
            return [(step, error.errno or errno.EIO) for step in waiting.values()]
        return failed


def _encode(step: Operation, indexes: dict[str, int], sequence: int) -> bytes | None:
    """The message for one step; None when the device that it names is not there."""
    thing = step.object
    assert isinstance(thing, Route | Neighbour | FdbEntry)
    index = indexes.get(thing.link) if thing.link is not None else None
    if index is None and thing.link is not None:
        return None
    if isinstance(thing, Route):
        if step.verb == "delete":
            return rtnetlink.delete_route(thing.destination, index, sequence)
        replace = step.verb == "change"
        return rtnetlink.add_route(
            thing.destination, index, thing.gateway, thing.onlink, sequence, replace=replace, mtu=thing.mtu
        )
    assert index is not None
    if isinstance(thing, Neighbour):
        if step.verb == "delete":
            return rtnetlink.delete_neighbour(index, thing.ip, sequence)
        return rtnetlink.put_neighbour(index, thing.ip, thing.mac, sequence)
    if step.verb == "delete":
        return rtnetlink.delete_fdb(index, thing.mac, thing.vtep, sequence)
    return rtnetlink.put_fdb(index, thing.mac, thing.vtep, sequence)


def _explain(step: Operation, number: int) -> str:
    text = os.strerror(number)
    if number == errno.EEXIST:
        return f"{text}: a route to {step.object.destination} that overlayd did not make is there; remove it"  # type: ignore[union-attr]
    if number == errno.EPERM:
        return f"{text}: overlayd needs CAP_NET_ADMIN"
    if number == errno.ENETUNREACH:
        return f"{text}: the gateway is not on the link"
    return text
