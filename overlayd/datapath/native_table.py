"""A ForwardingTable as the native engine holds it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from ipaddress import ip_address

from overlayd.core.decide import DELIVER, ForwardingTable, Peer
from overlayd.datapath import native

_OWN = -1


def peers_of(table: ForwardingTable) -> list[Peer]:
    """Every peer once, by identity, as decisions hold them; those that stand for their address come last."""
    listed = {owner.peer: None for owner in table.owners if owner is not DELIVER}  # type: ignore[union-attr]
    for peer in table.peers.values():
        listed.pop(peer, None)
    return [*listed, *table.peers.values()]


Parts = tuple[int, tuple[tuple[bytes, int, int, bool], ...], tuple[tuple[int, int, tuple[tuple[bytes, int], ...]], ...]]
"""What native.Table is made of: plain values, that can be kept."""


def compile_table(table: ForwardingTable, index: Mapping[Peer, int], slot: Callable[[str], int]) -> native.Table:
    """As `parts_of`."""
    return native.Table(*parts_of(table, index, slot))


def parts_of(table: ForwardingTable, index: Mapping[Peer, int], slot: Callable[[str], int]) -> Parts:
    """`index`: of each of `peers_of` in its order; `slot`: where the counters of a peer's name are kept."""
    rows = tuple([(_packed(peer.host), peer.port, slot(peer.name), peer.announced) for peer in index])
    levels = []
    for version, length, entries in table.owners.levels():
        width = 4 if version == 4 else 16
        found = [
            (prefix.to_bytes(width, "big"), _OWN if owner is DELIVER else index[owner.peer])  # type: ignore[union-attr]
            for prefix, owner in entries
        ]
        levels.append((width, length, tuple(found)))
    return table.mtu, rows, tuple(levels)


@lru_cache(1 << 16)
def _packed(host: str) -> bytes:
    return ip_address(host).packed
