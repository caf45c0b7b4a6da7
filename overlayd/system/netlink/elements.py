"""Elements of a set of our nftables table: one transaction, one message for each set and verb."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

from overlayd.core.address import Address
from overlayd.core.kernel.diff import Operation
from overlayd.core.kernel.kinds import SetElement
from overlayd.wire.netlink import nfnetlink
from overlayd.wire.netlink.rtnetlink import read_acks

_NETLINK_NETFILTER = 12  # linux/netlink.h
_TIMEOUT = 10  # seconds; the kernel answers while `send` runs


class ElementWriter:
    """A netlink socket of its own, written to in raw messages (wire.nfnetlink)."""

    def __init__(self) -> None:
        self._sequence = 0
        flags = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, flags, _NETLINK_NETFILTER)
        self._socket.settimeout(_TIMEOUT)
        self._socket.bind((0, 0))
        self.port: int = self._socket.getsockname()[0]
        """By which notifications name who made a change."""

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def apply(self, operations: Sequence[Operation]) -> str | None:
        """Do operations on set elements, at most nfnetlink.ELEMENTS_MAX; why they were refused, all of them."""
        groups: dict[tuple[str, str, bool], list[Address]] = {}
        for step in operations:
            thing = step.object
            assert isinstance(thing, SetElement)
            groups.setdefault((thing.table, thing.set, step.verb == "delete"), []).append(thing.address)
        whole = self._next()
        waiting: dict[int, str] = {}
        messages = []
        for (table, name, delete), addresses in groups.items():
            sequence = self._next()
            waiting[sequence] = name
            messages.append(nfnetlink.change_elements(table, name, addresses, sequence, delete=delete))
        self._socket.send(nfnetlink.batch(messages, whole))
        reason = None
        while waiting:
            for sequence, number in read_acks(self._socket.recv(1 << 16)):
                if sequence == whole:  # then no message is answered
                    return f"nftables: {os.strerror(number)}"
                name = waiting.pop(sequence, "")
                if name and number:
                    reason = f"nftables set {name}: {os.strerror(number)}"
        return reason

    def _next(self) -> int:
        self._sequence = self._sequence + 1 & 0xFFFFFFFF or 1
        return self._sequence
