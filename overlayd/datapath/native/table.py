"""A ForwardingTable as the native engine holds it: made whole, or changed as that one was."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from ipaddress import ip_address

from overlayd.core.forward import DELIVER, Change, ForwardingTable, Peer
from overlayd.datapath.native import _native as native

Row = tuple[bytes, int, int]
Values = tuple[int, tuple[tuple[int, bytes, int, int, bool], ...], tuple[tuple[bytes, int], ...], tuple[Row, ...]]
"""What native.Table.changed takes."""


class NativeTable:
    """The native table, and the numbers by which it knows peers."""

    def __init__(self, slot: Callable[[str], int]) -> None:
        """`slot`: where the counters of a peer's name are kept."""
        self._slot = slot
        self._free: list[int] = []
        self.numbers: dict[Peer, int] = {}
        self.peers: dict[int, Peer] = {}
        self.made = native.Table(0)

    def replace(self, table: ForwardingTable) -> None:
        """Be as `table` is."""
        self._free.clear()
        self.numbers.clear()
        self.peers.clear()
        # Every peer once, by identity, as decisions hold them, and those that stand for their address.
        peers = {owner.peer: None for owner in table.owners if owner is not DELIVER}  # type: ignore[union-attr]
        peers.update(dict.fromkeys(table.peers.values()))
        self._number(peers)
        self.made = native.Table(table.mtu).changed(*self.values(table))

    def values(self, table: ForwardingTable) -> Values:
        """What makes an empty table the whole of `table`, which is the one that this is as: plain, and can be kept."""
        rows: list[Row] = []
        for version, length, entries in table.owners.levels():
            width = 4 if version == 4 else 16
            rows += [
                (
                    prefix.to_bytes(width, "big"),
                    length,
                    native.OWN if owner is DELIVER else self.numbers[owner.peer],  # type: ignore[union-attr]
                )
                for prefix, owner in entries
            ]
        return self._values(self.numbers, table.peers, table, rows)

    def change(self, table: ForwardingTable, change: Change) -> None:
        """Be as `table` is, which differs by `change` from the one before."""
        gone = {peer for _, peer in change.gone}
        come = dict.fromkeys(peer for _, peer in change.come)
        for peer in gone:
            self._free.append(number := self.numbers.pop(peer))
            del self.peers[number]
        self._number(come)
        rows = [(one.network_address.packed, one.prefixlen, native.NOBODY) for one, _ in change.gone]
        rows += [(one.network_address.packed, one.prefixlen, self.numbers[peer]) for one, peer in change.come]
        self.made = self.made.changed(*self._values(come, {peer.host for peer in (*gone, *come)}, table, rows))

    def _number(self, peers: Iterable[Peer]) -> None:
        for peer in peers:
            number = self._free.pop() if self._free else len(self.numbers)
            self.numbers[peer], self.peers[number] = number, peer

    def _values(
        self, peers: Iterable[Peer], hosts: Iterable[str], table: ForwardingTable, rows: Iterable[Row]
    ) -> Values:
        return (
            len(self.numbers) + len(self._free),
            tuple([self._row(peer) for peer in peers]),
            tuple([(_packed(one), self._standing(table, one)) for one in hosts]),
            tuple(rows),
        )

    def _row(self, peer: Peer) -> tuple[int, bytes, int, int, bool]:
        return self.numbers[peer], _packed(peer.host), peer.port, self._slot(peer.name), peer.announced

    def _standing(self, table: ForwardingTable, host: str) -> int:
        peer = table.peers.get(host)
        return native.NOBODY if peer is None else self.numbers[peer]


@lru_cache(1 << 16)
def _packed(host: str) -> bytes:
    return ip_address(host).packed
