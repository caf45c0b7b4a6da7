"""Kinds of which there can be thousands: their messages, packed many to a send."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping, Sequence
from typing import cast

from overlayd.core.kernel.diff import Operation
from overlayd.core.kernel.kinds import RtnetlinkObject
from overlayd.system.netlink.request_socket import RequestSocket

BATCH = 150
"""Messages in one send: their acknowledgements fit the receive buffer."""

_ABSENT = (errno.ESRCH, errno.ENOENT, errno.ENODEV, errno.EADDRNOTAVAIL)

Refusal = tuple[Operation, str]
"""An operation, and why the kernel refused it."""


class BatchWriter:
    """A netlink socket of its own."""

    def __init__(self, size: int = BATCH) -> None:
        """Raises OSError."""
        self._size = size
        self._socket = RequestSocket()
        self.close = self._socket.close

    def apply(self, operations: Sequence[Operation]) -> list[Refusal]:
        """Do operations on objects of rtnetlink kinds, in order; those refused. What is gone already is no refusal."""
        refused: list[Refusal] = []
        indexes = {name: index for index, name in socket.if_nameindex()}
        for start in range(0, len(operations), self._size):
            refused += self._send(operations[start : start + self._size], indexes)
        return refused

    def _send(self, operations: Sequence[Operation], indexes: Mapping[str, int]) -> list[Refusal]:
        messages: list[bytes] = []
        waiting: dict[int, Operation] = {}
        refused: list[Refusal] = []
        for step in operations:
            thing, sequence = cast(RtnetlinkObject, step.object), self._socket.next_sequence()
            try:
                messages.append(thing.encode(step.verb, indexes, sequence))
            except KeyError:
                if step.verb != "delete":  # what hung on a device that is gone is gone too
                    refused.append((step, "its device is gone; it is made again soon"))
            else:
                waiting[sequence] = step
        for sequence, number in self._exchange(b"".join(messages), waiting).items():
            step = waiting[sequence]
            if not (step.verb == "delete" and number in _ABSENT):
                refused.append((step, cast(RtnetlinkObject, step.object).explain(number, os.strerror(number))))
        return refused

    def _exchange(self, packed: bytes, waiting: Mapping[int, Operation]) -> dict[int, int]:
        try:
            return self._socket.exchange(packed, waiting) if waiting else {}
        except OSError as error:
            return dict.fromkeys(waiting, error.errno or errno.EIO)
