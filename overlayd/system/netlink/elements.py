"""Elements of sets and maps of our nftables tables: one transaction, one message for each of them and verb."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import cast

from overlayd.core.kernel.diff import Operation
from overlayd.core.kernel.kinds import NftElement
from overlayd.system.netlink.request_socket import RequestSocket
from overlayd.wire.netlink import nft as wire
from overlayd.wire.netlink.uapi import NETLINK_NETFILTER


class ElementWriter:
    """A netlink socket of its own."""

    def __init__(self) -> None:
        """Raises OSError."""
        self._socket = RequestSocket(NETLINK_NETFILTER)
        self.port, self.close = self._socket.port, self._socket.close

    def apply(self, operations: Sequence[Operation]) -> str | None:
        """Do operations on elements, at most ELEMENTS_MAX; why they were refused, all of them.

        Deletions come first: an element that gets another value is one that goes and one that comes.
        """
        groups: dict[tuple[str, str, bool], list[wire.Element]] = {}
        for step in sorted(operations, key=lambda step: step.verb != "delete"):
            element = cast(NftElement, step.object)
            fields = (element.encoded_key, element.encoded_value)
            groups.setdefault((element.table, element.set, step.verb == "delete"), []).append(fields)
        transaction = self._socket.next_sequence()
        names: dict[int, str] = {}
        messages = []
        for (table, name, delete), elements in groups.items():
            sequence = self._socket.next_sequence()
            names[sequence] = name
            messages.append(wire.change_elements(table, name, elements, sequence, delete=delete))
        refused = self._socket.exchange(wire.batch(messages, transaction), names, transaction)
        return next((_explain(names.get(sequence), number) for sequence, number in refused.items()), None)


def _explain(name: str | None, number: int) -> str:
    return f"nftables{f' set {name}' if name else ''}: {os.strerror(number)}"
