"""One probed address: its state, round-trip times, loss and path MTU, from its answers and from silence.

unknown -> reachable      an answer
        -> unreachable    MAX_UNANSWERED questions in a row, each repeated at once after TIMEOUT
"""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass

from overlayd.core.address import Family
from overlayd.core.mtu import IP_HEADER, MINIMUM, UDP_HEADER
from overlayd.core.probing.path_mtu import PathMtuSearch
from overlayd.core.rate_limit import TokenBucket
from overlayd.wire.probe import LENGTH, Probe, ProbeKind, Sender

TIMEOUT = 1.0
"""Seconds that an answer may take."""
MAX_UNANSWERED = 3
"""Questions in a row."""
WINDOW = 20
"""Questions over which loss and round-trip time are computed."""
ANSWER_RATE, ANSWER_BURST = 5.0, 10.0
"""Answers a second to one address: a path MTU search asks once a round trip for a moment."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address to probe."""

    host: str
    """In the text form in which the socket names senders."""
    port: int
    underlay_family: Family
    lease: str
    """The key of the peer's lease."""


@dataclass(frozen=True, slots=True)
class Question:
    """One to send now."""

    endpoint: Endpoint
    nonce: bytes
    length: int
    """Bytes of the datagram's payload."""


class ProbeTarget:
    """What is known of one address."""

    __slots__ = (
        "_answered",
        "_probes_path",
        "_rtts",
        "_size_suspected",
        "answer_budget",
        "endpoint",
        "error",
        "last_answer",
        "last_question",
        "nonce",
        "path",
        "sender",
        "sent",
        "since",
        "state",
        "ticket",
        "unanswered",
    )

    def __init__(self, endpoint: Endpoint, underlay_mtu: int, now: float) -> None:
        self.endpoint = endpoint
        self.state = "unknown"
        """unknown, reachable or unreachable."""
        self.since = now
        """When `state` changed last."""
        self.unanswered = 0
        """Questions in a row."""
        self.sender: Sender | None = None
        """What its last answer said of it."""
        self.last_answer: float | None = None
        """When it answered us last."""
        self.last_question: float | None = None
        """When it asked us last."""
        self.error: str | None = None
        """What the kernel reported of the path there, while there is no answer."""
        self.nonce, self.sent = b"", -math.inf
        self.path = PathMtuSearch(MINIMUM[endpoint.underlay_family], underlay_mtu, now)
        self.answer_budget = TokenBucket(ANSWER_RATE, ANSWER_BURST, now)
        self.ticket = -1
        """Its valid entry in the schedule."""
        self._probes_path = self._size_suspected = self._answered = False
        self._rtts = array("f")  # seconds; NaN for a question that was not answered

    @property
    def loss(self) -> float:
        """The part of the last questions that was not answered: 0 to 1."""
        return sum(map(math.isnan, self._rtts)) / len(self._rtts) if self._rtts else 0.0

    @property
    def rtts(self) -> list[float]:
        """Seconds, the latest last; lost questions are left out."""
        return [rtt for rtt in self._rtts if not math.isnan(rtt)]

    @property
    def asked(self) -> int:
        """Questions in the window."""
        return len(self._rtts)

    @property
    def timeout(self) -> float:
        """Seconds that the answer to the last question may take; that to a long one no more than known times allow."""
        known = max(self.rtts, default=TIMEOUT) if self._probes_path else TIMEOUT
        return min(TIMEOUT, 0.25 + 10 * known)

    @property
    def overhead(self) -> int:
        """Bytes of the headers around a probe."""
        return IP_HEADER[self.endpoint.underlay_family] + UDP_HEADER

    def next_question(self, nonce: bytes, now: float) -> Question:
        """A long one where the path MTU is to be probed and the peer is there."""
        self._probes_path = self._path_due(now) and not self._size_suspected
        self.nonce, self.sent, self._answered = nonce, now, False
        return Question(self.endpoint, nonce, self.path.probed_size - self.overhead if self._probes_path else LENGTH)

    def receive(self, answer: Probe, now: float) -> float | None:
        """The round-trip time of an answer; None for one that was not asked for, and for a second one."""
        if answer.kind is not ProbeKind.ANSWER or not self.nonce or answer.nonce != self.nonce or self._answered:
            return None
        self._answered, self.sender, self.error, self.last_answer = True, answer.sender, None, now
        self.unanswered = 0
        rtt = now - self.sent
        if self._probes_path:
            self.path.acknowledged(now)
            return rtt
        if self._size_suspected:  # the peer is there, so the last question was lost because of its size
            self._size_suspected = False
            self.path.lost(now)
        self._record(rtt)
        return rtt

    def expire(self, now: float) -> None:
        """The last question's time is up: silence counts."""
        if not self.nonce or self._answered:
            return
        self.nonce = b""
        self._size_suspected = self._probes_path
        if not self._probes_path:
            self.unanswered += 1
            self._record(math.nan)

    def not_sent(self) -> None:
        """The last question was not sent, for a reason of this host's: it does not count."""
        self.nonce = b""

    def refused(self, error: str, now: float, *, too_long: bool) -> None:
        """The kernel refused to send the last question."""
        self.nonce = b""
        if self._probes_path and too_long:
            self.path.lost(now, certain=True)
        elif not self._probes_path:
            self.unanswered += 1
            self.error = error
            self._record(math.nan)

    def seconds_to_next(self, interval: float, now: float) -> float:
        """Seconds until the next question."""
        if 0 < self.unanswered < MAX_UNANSWERED or self._path_due(now):
            return 0.0
        return max(0.0, self.sent + interval - now)

    def _path_due(self, now: float) -> bool:
        return self.state == "reachable" and self.unanswered == 0 and self.path.due <= now

    def update_state(self, now: float) -> bool:
        """Whether what has been received, or not, has changed the state."""
        new = "unreachable" if self.unanswered >= MAX_UNANSWERED else "reachable" if self._answered else self.state
        if new == self.state:
            return False
        self.state, self.since = new, now
        return True

    def _record(self, rtt: float) -> None:
        self._rtts.append(rtt)
        if len(self._rtts) > WINDOW:
            del self._rtts[0]
