"""A ForwardingTable as the native engine holds it."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

from overlayd.core.decide import DELIVER, ForwardingTable, Peer, Send
from overlayd.datapath import native

_OWN = -1


def compile_table(
    table: ForwardingTable, slot: Callable[[str], int]
) -> tuple[native.Table, list[Peer], dict[int, int]]:
    """The table, its peers in the order of their indices, and the index of a peer by its id().

    `slot`: where the counters of a peer's name are kept.
    """
    # By identity, as decisions hold them: peers[host] is the one that stands for an address, and comes last.
    listed = [owner.peer for owner in table.owners if isinstance(owner, Send)]
    peers = list({id(peer): peer for peer in (*listed, *table.peers.values())}.values())
    standing = {id(peer) for peer in table.peers.values()}
    peers.sort(key=lambda peer: id(peer) in standing)
    index = {id(peer): number for number, peer in enumerate(peers)}
    rows = tuple((ip_address(peer.host).packed, peer.port, slot(peer.name), peer.announced) for peer in peers)
    levels = []
    for version, length, entries in table.owners.levels():
        width = 4 if version == 4 else 16
        owned = tuple(
            (prefix.to_bytes(width, "big"), _OWN if owner is DELIVER else index[id(owner.peer)])  # type: ignore[union-attr]
            for prefix, owner in entries
        )
        levels.append((width, length, owned))
    return native.Table(table.mtu, rows, tuple(levels)), peers, index
