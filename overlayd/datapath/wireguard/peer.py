"""One peer of a tunnel: its handshake, its sessions, its timers (paper, section 6).

    send -> usable session?  seal, post         else the packet waits, in a short queue, for a handshake
    initiate -> [retries] -> finish             a handshake of ours: session, the queue
    respond -> received                         one of the peer's: session with its first message, the queue

What is to be sent goes to `post`.
"""

from __future__ import annotations

from collections import deque

from overlayd.datapath.wireguard.common import Endpoint, Outgoing, Surroundings
from overlayd.datapath.wireguard.cookies import CookieJar
from overlayd.datapath.wireguard.noise import Initiated, Initiating, RemoteStatic
from overlayd.datapath.wireguard.primitives import PrivateKey
from overlayd.datapath.wireguard.session import REKEY_AFTER_MESSAGES, Session
from overlayd.datapath.wireguard.sessions import Sessions
from overlayd.wire.wireguard import Response

WAITING_MOST = 128
"""Packets that wait for a session; for one more the oldest is dropped."""
_JITTER = 0.334  # seconds at most that are added to a retry, so that two hosts do not go on in step
_INITIATION_EVERY = 0.02  # seconds between initiations of a peer that are answered
_NEVER = float("-inf")


class TunnelPeer:
    """`now` is in seconds, from any steady clock."""

    def __init__(
        self, remote: RemoteStatic, endpoint: Endpoint, mtu: int, keepalive: int, around: Surroundings
    ) -> None:
        """`mtu`: of the packets that it takes; `keepalive`: seconds between packets that keep a NAT's state alive; 0:
        none are sent."""
        self.remote, self.configured, self.endpoint, self.mtu, self._keepalive = (
            remote,
            endpoint,
            endpoint,
            mtu,
            keepalive,
        )
        self.latest_handshake: float | None = None
        self.jar = CookieJar(remote.public)
        self.sessions = Sessions(around.indices.__delitem__)
        self._around, self._timing = around, around.timing
        self._handshake: Initiating | None = None
        self._begun: float | None = None
        """When the first of the initiations was sent that have no answer."""
        self._initiated = _NEVER
        self._retry_at: float | None = None
        self._latest_stamp = b""
        self._responded = _NEVER
        self._waiting: deque[bytes] = deque()
        self._lost_at: float | None = None
        """When to take the session for lost, unless something comes in before."""
        self._receipt_at: float | None = None
        """When to show that data came in, unless something goes out before."""
        self._last_sent = _NEVER
        self._last_chance_taken = False

    def close(self) -> None:
        """Forget keys and what waits."""
        self._abandon()
        self.sessions.clear()
        self._waiting.clear()

    # --- outbound --------------------------------------------------------------------------------------------------

    def send(self, packet: bytes, now: float) -> bool:
        """Send a packet, or have it wait for a session; False where another had to be dropped for it."""
        session = self._usable(now)
        if session is not None:
            self._transmit(session, packet, now)
            return True
        dropped = len(self._waiting) == WAITING_MOST
        if dropped:
            self._waiting.popleft()
        self._waiting.append(packet)
        self.initiate(now)
        return not dropped

    def send_unpadded(self, packet: bytes, now: float) -> bool:
        """Send a packet again, whose padding made it too large for its path; False where there is no session."""
        session = self._usable(now)
        if session is not None:
            self._post(session.seal(packet, len(packet)), packet)
        return session is not None

    def _usable(self, now: float) -> Session | None:
        session = self.sessions.current
        return session if session is not None and session.usable(now, self._timing) else None

    def _transmit(self, session: Session, packet: bytes, now: float) -> None:
        """An empty packet is a keepalive."""
        self._post(session.seal(packet, self.mtu), packet or None)
        self._receipt_at, self._last_sent = None, now
        if packet and self._lost_at is None:
            self._lost_at = now + self._timing.lost_after + self._jitter()
        aged = session.initiator and now - session.born >= self._timing.rekey_after
        if aged or session.counter > REKEY_AFTER_MESSAGES:
            self.initiate(now)

    def _flush(self, now: float) -> bool:
        """Send what waits; False where nothing did."""
        session, waiting = self.sessions.current, self._waiting
        assert session is not None  # it has just become the current one
        self._waiting = deque()
        for packet in waiting:
            self._transmit(session, packet, now)
        return bool(waiting)

    def _post(self, datagram: bytes, packet: bytes | None = None) -> None:
        self._around.post(Outgoing(datagram, self.endpoint, self, packet))

    # --- handshakes ------------------------------------------------------------------------------------------------

    def initiate(self, now: float) -> None:
        """Begin a handshake, unless one was begun a moment ago."""
        if now - self._initiated < self._timing.retry_after:
            return
        self._abandon()
        around = self._around
        self._handshake = Initiating(around.own, self.remote, PrivateKey(around.random(32)), self._index())
        self._initiated = now
        self._begun = now if self._begun is None else self._begun
        self._retry_at = now + self._timing.retry_after + self._jitter()
        self._post(self.jar.sign(self._handshake.message(around.stamps.next()), now))

    def finish(self, response: Response, endpoint: Endpoint, now: float) -> bool:
        """The peer's answer to our handshake; False where it is none."""
        handshake = self._handshake
        if handshake is None or handshake.index != response.receiver or (keys := handshake.finish(response)) is None:
            return False
        self._handshake = None  # its index is the session's now
        session = Session(keys, handshake.index, response.sender, True, now)
        self.sessions.begin(session)
        self._is_there(endpoint)
        self._established(now)
        if not self._flush(now):
            self._transmit(session, b"", now)  # only then may the peer send
        return True

    def respond(self, initiated: Initiated, endpoint: Endpoint, now: float) -> bool:
        """Answer the peer's handshake; False where it is replayed, not the peer's, or one too many.

        Nothing else follows from it yet: after a restart we cannot tell an old one from a new one.
        """
        stamp = initiated.stamp(self.remote)
        if stamp is None or stamp <= self._latest_stamp or now - self._responded < _INITIATION_EVERY:
            return False
        self._latest_stamp, self._responded = stamp, now
        index = self._index()
        response, keys = initiated.respond(self.remote, PrivateKey(self._around.random(32)), index)
        self.sessions.prepare(Session(keys, index, initiated.sender, False, now))
        self._around.post(Outgoing(self.jar.sign(response, now), endpoint, self))
        return True

    def _established(self, now: float) -> None:
        """The peer has shown that it has the keys of what is the current session now."""
        self.latest_handshake = now
        self._begun = self._retry_at = None
        self._last_chance_taken = False

    def _abandon(self) -> None:
        """Forget our handshake."""
        if self._handshake is not None:
            del self._around.indices[self._handshake.index]
            self._handshake = None

    def _index(self) -> int:
        """A number that nobody can guess, and that no other session or handshake of this host has."""
        while (index := int.from_bytes(self._around.random(4), "little")) in self._around.indices:
            pass
        self._around.indices[index] = self
        return index

    # --- inbound ---------------------------------------------------------------------------------------------------

    def received(self, session: Session, counter: int, data: bool, endpoint: Endpoint, now: float) -> None:
        """An authentic message has come in; `data`: it is more than a keepalive."""
        session.window.mark(counter)
        self._is_there(endpoint)
        if self.sessions.confirm(session):
            self._established(now)
            self._flush(now)
        if data and self._receipt_at is None:
            self._receipt_at = now + self._timing.keepalive_after
        aged = session.initiator and now - session.born >= self._timing.last_chance
        if aged and session is self.sessions.current and not self._last_chance_taken:
            self._last_chance_taken = True
            self.initiate(now)

    def _is_there(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._lost_at = None

    # --- time ------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> int:
        """Do what is due; the packets that were dropped, as no session came about."""
        dropped = self._retry(now) if self._retry_at is not None and now >= self._retry_at else 0
        if self._lost_at is not None and now >= self._lost_at:
            self._lost_at = None
            self.initiate(now)
        if self._receipt_at is not None and now >= self._receipt_at:
            self._receipt_at = None
            self._send_keepalive(now)
        if self._keepalive and now - self._last_sent >= self._keepalive:
            self._last_sent = now
            if not self._send_keepalive(now):
                self.initiate(now)
        self.sessions.expire(now - self._timing.reject_after)
        return dropped

    def _retry(self, now: float) -> int:
        assert self._begun is not None  # as a retry is due
        if now - self._begun < self._timing.give_up_after:
            self.initiate(now)
            return 0
        dropped = len(self._waiting)
        self._waiting.clear()
        self._abandon()
        self._begun = self._retry_at = None
        return dropped

    def _send_keepalive(self, now: float) -> bool:
        session = self._usable(now)
        if session is not None:
            self._transmit(session, b"", now)
        return session is not None

    def _jitter(self) -> float:
        return self._around.random(1)[0] / 256 * _JITTER
