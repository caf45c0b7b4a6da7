"""ICMP errors that the native engine's punted packets deserve: sent within a rate limit, and counted."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping

from overlayd.core.address import Family
from overlayd.core.forward import Peer
from overlayd.core.rate_limit import TokenBucket
from overlayd.datapath.contract import ICMP_BURST, ICMP_RATE, NO_TUN

_VNET_PLAIN = bytes(10)  # a virtio-net header that says nothing


class Replies:
    """Replies to containers go into the TUN, replies to peers through the sockets."""

    def __init__(self, sockets: Mapping[Family, socket.socket], now: Callable[[], float]) -> None:
        """`now` is in seconds, from any steady clock."""
        self._sockets, self._now = sockets, now
        self._tun, self._vnet_header = NO_TUN, False
        self._bucket = TokenBucket(ICMP_RATE, ICMP_BURST, now())
        self.sent = self.limited = 0
        """Replies, and those that the rate limit withheld."""
        self.tun_errors = self.send_errors = 0
        """Replies that the kernel refused, on the TUN and on a socket."""

    def use_tun(self, tun: int, *, vnet_header: bool) -> None:
        """Write to this TUN from now on."""
        self._tun, self._vnet_header = tun, vnet_header

    def reply(self, packet: bytes, peer: Peer | None) -> None:
        """Send an ICMP error to the peer, or to a container here if there is none."""
        if not self._bucket.take(self._now()):
            self.limited += 1
            return
        self.sent += 1
        if peer is not None:
            self.send(packet, peer)
            return
        try:
            os.write(self._tun, _VNET_PLAIN + packet if self._vnet_header else packet)
        except OSError:
            self.tun_errors += 1

    def send(self, payload: bytes, peer: Peer) -> None:
        """Send one datagram to the peer."""
        try:
            self._sockets[peer.underlay_family].sendto(payload, (peer.host, peer.port))
        except OSError:
            self.send_errors += 1
