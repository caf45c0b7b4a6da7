"""The packet engine of wireguard mode, in Python: the python engine with a tunnel between it and each socket.

outbound: read the TUN -> decide -> tunnel -> send           inbound: receive -> tunnel -> decide -> write to the TUN

Who sent a packet is what the tunnel says: the peer whose key it was sealed with, wherever it came from. So `decide`
compares the packet's source with that peer's lease (cryptokey routing).
"""

from __future__ import annotations

import base64
import errno
import socket
import time
from collections.abc import Callable, Mapping

from overlayd.core.address import Family
from overlayd.core.forward import (
    Change,
    Deliver,
    DropReason,
    ForwardingTable,
    Peer,
    Reply,
    Send,
    decide_inbound,
    too_big_for,
)
from overlayd.core.mtu import UDP_OVERHEAD
from overlayd.datapath.contract import path_mtu
from overlayd.datapath.python import PythonEngine
from overlayd.datapath.wireguard.common import Endpoint, Outgoing, TunnelDrop
from overlayd.datapath.wireguard.tunnel import Tunnel
from overlayd.wire.wireguard import DATA_OVERHEAD

TICK = 0.25
"""Seconds between calls of `tick`."""


class WireguardEngine(PythonEngine):
    """See `datapath.contract.Engine`."""

    def __init__(
        self,
        tun: int,
        sockets: Mapping[Family, socket.socket],
        table: ForwardingTable,
        tunnels: Mapping[Family, Tunnel],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`tunnels`: one for each socket, as flannel has a device for each underlay family."""
        super().__init__(tun, sockets, table, now=now)
        self._tunnels = dict(tunnels)
        self._peer_of: dict[Family, dict[bytes, Peer]] = {}
        self._use_table(table)
        for underlay_family, tunnel in self._tunnels.items():
            tunnel.initiate_all(now())  # sessions of an earlier run are lost: peers need not find out by themselves
            self._flush(underlay_family)

    def replace_table(self, table: ForwardingTable, change: Change | None = None) -> None:
        super().replace_table(table, change)
        self._use_table(table)

    def _use_table(self, table: ForwardingTable) -> None:
        for underlay_family, tunnel in self._tunnels.items():
            peers = {
                base64.b64decode(owner.peer.public_key): owner.peer
                for owner in table.owners
                if isinstance(owner, Send) and owner.peer.underlay_family == underlay_family
            }
            self._peer_of[underlay_family] = peers
            endpoints = {public: Endpoint(peer.host, peer.port) for public, peer in peers.items()}
            tunnel.replace_peers(endpoints, table.mtu)

    def tick(self) -> None:
        """Do what is due; called every TICK seconds."""
        for underlay_family, tunnel in self._tunnels.items():
            for _ in range(tunnel.tick(self._now())):
                self._count(self._counters.tx_drops, TunnelDrop.NO_SESSION)
            self._flush(underlay_family)

    # --- outbound --------------------------------------------------------------------------------------------------

    def _send(self, packet: bytes, peer: Peer) -> None:
        if not self._tunnels[peer.underlay_family].send(base64.b64decode(peer.public_key), packet, self._now()):
            self._count(self._counters.tx_drops, TunnelDrop.NO_SESSION)
        self._flush(peer.underlay_family)

    def _flush(self, underlay_family: Family) -> None:
        """Send what the tunnel has for the underlay."""
        tunnel, sock = self._tunnels[underlay_family], self._sockets[underlay_family]
        while outgoing := tunnel.datagrams():
            for one in outgoing:
                try:
                    sock.sendto(one.datagram, one.endpoint)
                except OSError as error:
                    self._not_taken(one, underlay_family, error)
                else:
                    if one.packet is not None and (peer := self._owner(one, underlay_family)) is not None:
                        self._sent(len(one.packet), peer)

    def _owner(self, outgoing: Outgoing, underlay_family: Family) -> Peer | None:
        assert outgoing.peer is not None  # containers' packets go to peers
        return self._peer_of[underlay_family].get(outgoing.peer.remote.public)

    def _not_taken(self, outgoing: Outgoing, underlay_family: Family, error: OSError) -> None:
        """The socket refused a datagram. A handshake is repeated in any case; a packet is tried without its padding if
        that is what made it too large for the path."""
        packet = outgoing.packet
        if packet is None or outgoing.peer is None:
            return
        if isinstance(error, BlockingIOError):
            self._count(self._counters.tx_drops, DropReason.SEND_BUFFER_FULL)
            return
        peer = self._owner(outgoing, underlay_family)
        if error.errno != errno.EMSGSIZE or peer is None:
            self._count(self._counters.tx_drops, DropReason.SEND_ERROR)
            return
        mtu = path_mtu(peer) - UDP_OVERHEAD[underlay_family] - DATA_OVERHEAD
        padded = len(outgoing.datagram) > DATA_OVERHEAD + len(packet)
        if not (padded and len(packet) <= mtu and outgoing.peer.send_unpadded(packet, self._now())):
            self._not_sent(packet, too_big_for(packet, mtu, self._table))

    # --- inbound ---------------------------------------------------------------------------------------------------

    def _received(self, packet: bytes, underlay_family: Family, sender: tuple[str, int], outer_ecn: int) -> None:
        tunnel = self._tunnels[underlay_family]
        outcome = tunnel.receive(packet, Endpoint(sender[0], sender[1]), self._now())
        self._flush(underlay_family)
        if isinstance(outcome, TunnelDrop):
            self._count(self._counters.rx_drops, outcome)
        if outcome is None or isinstance(outcome, TunnelDrop):
            return
        peer = self._peer_of[underlay_family][outcome.peer]
        verdict = decide_inbound(outcome.packet, peer.sender, self._table)
        if isinstance(verdict, Deliver):
            self._deliver(outcome.packet, peer.sender, outer_ecn)
            return
        self._count(self._counters.rx_drops, verdict.reason)
        if isinstance(verdict, Reply) and self._may_answer():
            tunnel.send(outcome.peer, verdict.packet, self._now())
            self._flush(underlay_family)
