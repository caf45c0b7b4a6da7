"""A WireGuard tunnel: one key pair, its peers, no I/O. What comes in are packets, datagrams and the time.

    send(peer, packet)                  -> datagrams()        sealed, or a handshake while the packet waits
    receive(datagram, endpoint)         -> Opened | reason    and datagrams(): responses, cookies, what had waited
    tick()                              -> datagrams()        retries, keepalives; keys that have aged are dropped

Inbound, in this order: type and length; for data the index, the age, the window, the tag, and only then is anything of
the message acted upon (window, endpoint, timers); the packet's own length ends its padding. For a handshake mac1, under
load mac2 and a rate for each address, then the sealed static key, which has to be a peer's, and its time stamp.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from overlayd.core.rate_limit import TokenBucket
from overlayd.datapath.wireguard.common import Endpoint, Outgoing, Surroundings, TunnelDrop
from overlayd.datapath.wireguard.cookies import CookieGuard
from overlayd.datapath.wireguard.noise import NO_PSK, RemoteStatic, read_initiation
from overlayd.datapath.wireguard.peer import TunnelPeer
from overlayd.datapath.wireguard.primitives import PrivateKey
from overlayd.datapath.wireguard.session import REJECT_AFTER_MESSAGES, Timing
from overlayd.datapath.wireguard.tai64n import Stamps
from overlayd.wire.wireguard import (
    Kind,
    decode_cookie_reply,
    decode_initiation,
    decode_response,
    kind_of,
    read_data_header,
)

_CALM_RATE, _CALM_BURST = 500, 1024
"""Handshake messages a second that are handled without a proof of the sender's address."""
_LOAD_LASTS = 1.0  # seconds
_ADDRESS_RATE, _ADDRESS_BURST = 20, 5
"""Handshake messages a second from one address, under load."""
_ADDRESSES_MOST = 4096  # addresses whose rates are kept


@dataclass(frozen=True, slots=True)
class Opened:
    """An authentic packet from a peer; where it claims to come from is still to be checked."""

    peer: bytes
    """Its public key."""
    packet: bytes


Outcome = Opened | TunnelDrop | None
"""None: the message was the protocol's own, and is dealt with."""


class Tunnel:
    """`now` is in seconds, from any steady clock."""

    def __init__(
        self,
        own: PrivateKey,
        psk: bytes = NO_PSK,
        keepalive: int = 0,
        timing: Timing | None = None,
        random: Callable[[int], bytes] = os.urandom,
        wall: Callable[[], int] = time.time_ns,
    ) -> None:
        """`psk`: 32 bytes, one for all peers; `keepalive`: see TunnelPeer; `wall`: nanoseconds since 1970, for time
        stamps."""
        self._psk, self._keepalive = psk, keepalive
        self._out: list[Outgoing] = []
        self._around = Surroundings(
            own, timing or Timing(), random, Stamps(wall), {}, lambda outgoing: self._out.append(outgoing)
        )
        self._peers: dict[bytes, TunnelPeer] = {}
        self._at: dict[Endpoint, TunnelPeer] = {}
        self._guard = CookieGuard(own.public, random)
        self._calm: TokenBucket | None = None
        self._loaded_until = float("-inf")
        self._addresses: dict[bytes, TokenBucket] = {}

    @property
    def peers(self) -> Mapping[bytes, TunnelPeer]:
        """By public key."""
        return self._peers

    def datagrams(self) -> list[Outgoing]:
        """What is to be sent since the last call, in order."""
        out = self._out.copy()
        self._out.clear()
        return out

    # --- peers -----------------------------------------------------------------------------------------------------

    def replace_peers(self, peers: Mapping[bytes, Endpoint], mtu: int) -> None:
        """These are the peers from now on, by public key; `mtu`: of containers' packets. Sessions of those that stay
        are kept; an endpoint that changes is taken at once. Left out are keys that nobody can hold, and our own."""
        for public in self._peers.keys() - peers.keys():
            self._peers.pop(public).close()
        for public, endpoint in peers.items():
            known = self._peers.get(public)
            if known is None:
                remote = RemoteStatic.of(public, self._around.own, self._psk)
                if remote is not None and public != self._around.own.public:
                    self._peers[public] = TunnelPeer(remote, endpoint, mtu, self._keepalive, self._around)
                continue
            known.mtu = mtu
            if known.configured != endpoint:
                known.configured = known.endpoint = endpoint
        self._at = {peer.configured: peer for peer in self._peers.values()}

    def initiate_all(self, now: float) -> None:
        """Begin a session with each peer: theirs with us are lost where we had any."""
        for peer in self._peers.values():
            peer.initiate(now)

    # --- packets ---------------------------------------------------------------------------------------------------

    def send(self, public: bytes, packet: bytes, now: float) -> bool:
        """Send a packet to a peer; False where one was dropped: that is no peer, or too many wait for its session."""
        peer = self._peers.get(public)
        return peer is not None and peer.send(packet, now)

    def tick(self, now: float) -> int:
        """Do what is due, several times a second; the packets that were dropped, as a peer does not answer."""
        return sum(peer.tick(now) for peer in self._peers.values())

    def receive(self, message: bytes, endpoint: Endpoint, now: float) -> Outcome:
        """A datagram."""
        kind = kind_of(message)
        if kind is Kind.DATA:
            return self._data(message, endpoint, now)
        if kind is None:
            return TunnelDrop.NOT_WIREGUARD
        if kind is Kind.COOKIE_REPLY:
            return self._cookie_reply(message, now)
        if not self._guard.knows_us(message):
            return TunnelDrop.BAD_MAC
        if self._is_loaded(now):
            source = ip_address(endpoint.host).packed + endpoint.port.to_bytes(2, "big")
            if not self._guard.is_reachable(message, source, now):
                self._out.append(Outgoing(self._guard.reply(message, source, now), endpoint, None))
                return TunnelDrop.UNDER_LOAD
            if not self._may_ask(source, now):
                return TunnelDrop.UNDER_LOAD
        handled = self._initiation if kind is Kind.INITIATION else self._response
        return None if handled(message, endpoint, now) else TunnelDrop.BAD_HANDSHAKE

    def _data(self, message: bytes, endpoint: Endpoint, now: float) -> Outcome:
        index, counter = read_data_header(message)
        peer = self._around.indices.get(index)
        session = peer.sessions.of(index) if peer is not None else None
        if peer is None or session is None:
            self._renew(endpoint, now)
            return TunnelDrop.NO_SESSION
        if now - session.born >= self._around.timing.reject_after or counter >= REJECT_AFTER_MESSAGES:
            return TunnelDrop.NO_SESSION
        if not session.window.fresh(counter):
            return TunnelDrop.REPLAYED
        packet = session.open(message, counter)
        if packet is None:
            return TunnelDrop.NOT_AUTHENTIC
        peer.received(session, counter, bool(packet), endpoint, now)
        return Opened(peer.remote.public, without_padding(packet)) if packet else None

    def _renew(self, endpoint: Endpoint, now: float) -> None:
        """A peer seems to have a session that we do not have: after a restart of ours we need not wait until it sees
        that. Anybody can claim it, but no more comes of it than an initiation to the peer, every few seconds."""
        peer = self._at.get(endpoint)
        if peer is not None and next(iter(peer.sessions), None) is None:
            peer.initiate(now)

    def _initiation(self, message: bytes, endpoint: Endpoint, now: float) -> bool:
        initiated = read_initiation(self._around.own, decode_initiation(message))
        peer = self._peers.get(initiated.public) if initiated is not None else None
        return initiated is not None and peer is not None and peer.respond(initiated, endpoint, now)

    def _response(self, message: bytes, endpoint: Endpoint, now: float) -> bool:
        response = decode_response(message)
        peer = self._around.indices.get(response.receiver)
        return peer is not None and peer.finish(response, endpoint, now)

    def _cookie_reply(self, message: bytes, now: float) -> TunnelDrop | None:
        reply = decode_cookie_reply(message)
        peer = self._around.indices.get(reply.receiver)
        return None if peer is not None and peer.jar.take(reply, now) else TunnelDrop.BAD_HANDSHAKE

    # --- load ------------------------------------------------------------------------------------------------------

    def _is_loaded(self, now: float) -> bool:
        """Whether more handshake messages come than are handled for anybody."""
        self._calm = self._calm or TokenBucket(_CALM_RATE, _CALM_BURST, now)
        if not self._calm.take(now):
            self._loaded_until = now + _LOAD_LASTS
        return now < self._loaded_until

    def _may_ask(self, source: bytes, now: float) -> bool:
        """Whether an address, which is the sender's, may have another handshake message handled."""
        site = source[: 4 if len(source) == 6 else 8]  # who has an IPv6 address has the rest of its /64 as well
        bucket = self._addresses.pop(site, None) or TokenBucket(_ADDRESS_RATE, _ADDRESS_BURST, now)
        self._addresses[site] = bucket  # the last one now
        if len(self._addresses) > _ADDRESSES_MOST:
            del self._addresses[next(iter(self._addresses))]
        return bucket.take(now)


def without_padding(packet: bytes) -> bytes:
    """A packet cut to the length that its IP header gives; what is not IP, or claims more than there is, stays as it is
    and is refused by who parses it."""
    version = packet[0] >> 4
    if version == 4 and len(packet) >= 20:
        return packet[: max(int.from_bytes(packet[2:4], "big"), 20)]
    if version == 6 and len(packet) >= 40:
        return packet[: 40 + int.from_bytes(packet[4:6], "big")]
    return packet
