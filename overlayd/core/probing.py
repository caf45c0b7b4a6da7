"""How peers are, as their answers to probes show it: whom to ask, when, and what to make of silence.

    Probing     all peers: who is due, at most RATE questions a second however many there are
    Patient     one underlay address of a peer: answered or not, round-trip times, loss, what it says of itself
    PathSize    the longest packet that gets there, by asking with packets of that size

Time comes in as `now`, in seconds from any steady clock; bytes and sockets are the caller's.

An address is asked every `interval` seconds, or less often where there are thousands. A question that is not answered
in TIMEOUT is asked again at once; after MISSES of them in a row the peer counts as unreachable. Every PATH_EVERY
seconds a question is as long as the underlay's MTU: a path too narrow, behind which no ICMP comes back, is found by
nothing else.
"""

from __future__ import annotations

import heapq
import math
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count

from overlayd.core.address import Family
from overlayd.core.forward import TokenBucket
from overlayd.core.mtu import IP_HEADER, MINIMUM, UDP_HEADER
from overlayd.wire.probe import LENGTH, NONCE, Kind, Probe, Sender

TIMEOUT = 1.0
"""Seconds that an answer may take."""
MISSES = 3
WINDOW = 20
"""Questions that loss and round-trip time are told of."""
PATH_EVERY = 60.0
RATE, BURST = 200.0, 20.0
"""Questions a second to all peers together, and likewise answers."""
PEER_RATE, PEER_BURST = 5.0, 10.0
"""Answers a second to one address: a search for the path's size asks once a round trip for a moment."""

_TRIES, _TRIES_LATER = 3, 2  # of a size, before it counts as too long: loss happens; the first is the one that matters
_LOSS = 0.1  # of the window, from which on it is worth a word
_HEARD = 30.0  # seconds since its own last question, for which a silent peer counts as one that reaches us


class PathSize:
    """A search for the longest IP packet that gets through, by halving what is left between known and refused."""

    __slots__ = ("_high", "_least", "_low", "_most", "_tries", "due", "found", "size")

    def __init__(self, least: int, most: int, now: float) -> None:
        """`least` gets through on any path; `most` is what the interface can send. Bytes of IP packet."""
        self._least, self._most, self._low, self._high = least, most, least, most + 1
        self._tries = 0
        self.size = most
        """What to try next."""
        self.found: int | None = None
        """What the last search that came to an end found."""
        self.due = now
        """When to try."""

    @property
    def narrow(self) -> bool:
        """Whether the path takes less than the interface."""
        return self.found is not None and self.found < self._most

    def answered(self, now: float) -> None:
        """A packet of `size` came through."""
        self._low, self._tries = self.size, 0
        self._go_on(now)

    def lost(self, now: float, *, certain: bool = False) -> None:
        """It did not, or nothing came back. `certain`: the kernel itself refused it."""
        self._tries += 1
        if certain or self._tries >= (_TRIES if self.size == self._most else _TRIES_LATER):
            self._high, self._tries = self.size, 0
            self._go_on(now)

    def _go_on(self, now: float) -> None:
        if self._high - self._low <= 1:
            self.found = self._low
            self._low, self._high, self.size, self.due = self._least, self._most + 1, self._most, now + PATH_EVERY
        elif self.found is not None and self._low < self.found < self._high:
            self.size = self.found  # a path that is still narrow is most likely as narrow as it was
        else:
            self.size = self._low + 1 if self._low == self.found else (self._low + self._high) // 2


@dataclass(frozen=True, slots=True)
class Target:
    """An address to ask."""

    host: str
    """In the text form in which the socket names senders."""
    port: int
    underlay_family: Family
    lease: str
    """The key of the peer's lease."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A question to send now."""

    target: Target
    nonce: bytes
    length: int
    """Bytes of the datagram's payload."""


class Patient:
    """One address, as its answers show it."""

    __slots__ = (
        "_answered",
        "_path_asked",
        "_path_doubt",
        "_rtts",
        "bucket",
        "error",
        "heard",
        "last",
        "misses",
        "nonce",
        "path",
        "sender",
        "sent",
        "since",
        "state",
        "target",
        "ticket",
    )

    def __init__(self, target: Target, underlay_mtu: int, now: float) -> None:
        self.target = target
        self.state = "unknown"
        """unknown, reachable or unreachable."""
        self.since = now
        """When it became what it is."""
        self.misses = 0
        """Questions in a row without an answer."""
        self.sender: Sender | None = None
        """What it said of itself last."""
        self.last: float | None = None
        """When it answered last."""
        self.heard: float | None = None
        """When it asked us last."""
        self.error: str | None = None
        """What the kernel said of the way there, while there is no answer."""
        self.nonce, self.sent = b"", -math.inf
        self.path = PathSize(MINIMUM[target.underlay_family], underlay_mtu, now)
        self.bucket = TokenBucket(PEER_RATE, PEER_BURST, now)
        self.ticket = -1
        """Its place in the order of those that are due."""
        self._path_asked = self._path_doubt = self._answered = False
        self._rtts = array("f")  # seconds; NaN for a question that was not answered

    @property
    def loss(self) -> float:
        """Of the last questions, those without an answer: 0 to 1."""
        return sum(map(math.isnan, self._rtts)) / len(self._rtts) if self._rtts else 0.0

    @property
    def rtts(self) -> list[float]:
        """Seconds, the latest last; the lost ones left out."""
        return [rtt for rtt in self._rtts if not math.isnan(rtt)]

    @property
    def asked(self) -> int:
        """Questions in the window."""
        return len(self._rtts)

    @property
    def patience(self) -> float:
        """Seconds that the answer to the last question may take; with a long one, known times are a measure."""
        known = max(self.rtts, default=TIMEOUT) if self._path_asked else TIMEOUT
        return min(TIMEOUT, 0.25 + 10 * known)

    @property
    def overhead(self) -> int:
        """Bytes of the headers around a probe."""
        return IP_HEADER[self.target.underlay_family] + UDP_HEADER

    def ask(self, nonce: bytes, now: float) -> Ask:
        """The next question: a long one where the path's size is to be tried and the peer is there."""
        self._path_asked = self._path_due(now) and not self._path_doubt
        self.nonce, self.sent, self._answered = nonce, now, False
        return Ask(self.target, nonce, self.path.size - self.overhead if self._path_asked else LENGTH)

    def answered(self, answer: Probe, now: float) -> float | None:
        """Take an answer; the round-trip time, or None for one that nobody asked for, or for a second one."""
        if answer.kind is not Kind.ANSWER or not self.nonce or answer.nonce != self.nonce or self._answered:
            return None
        self._answered, self.sender, self.error, self.last = True, answer.sender, None, now
        self.misses = 0
        rtt = now - self.sent
        if self._path_asked:
            self.path.answered(now)
            return rtt
        if self._path_doubt:  # the peer is there, and so it was the size that kept the last question from it
            self._path_doubt = False
            self.path.lost(now)
        self._note(rtt)
        return rtt

    def judge(self, now: float) -> None:
        """TIMEOUT has passed since the last question: silence counts."""
        if not self.nonce or self._answered:
            return
        self.nonce = b""
        self._path_doubt = self._path_asked
        if not self._path_asked:
            self.misses += 1
            self._note(math.nan)

    def skip(self) -> None:
        """The question was not sent, for no fault of the way there: it counts for nothing."""
        self.nonce = b""

    def refused(self, error: str, now: float, *, too_long: bool) -> None:
        """The kernel did not send the last question."""
        self.nonce = b""
        if self._path_asked and too_long:
            self.path.lost(now, certain=True)
        elif not self._path_asked:
            self.misses += 1
            self.error = error
            self._note(math.nan)

    def wait(self, interval: float, now: float) -> float:
        """Seconds until the next question."""
        if 0 < self.misses < MISSES:
            return 0.0
        if self._path_due(now):
            return 0.0
        return max(0.0, self.sent + interval - now)

    def _path_due(self, now: float) -> bool:
        return self.state == "reachable" and self.misses == 0 and self.path.due <= now

    def turn(self, now: float) -> bool:
        """Whether the peer became reachable or unreachable by what has come or not come."""
        new = "unreachable" if self.misses >= MISSES else "reachable" if self._answered else self.state
        if new == self.state:
            return False
        self.state, self.since = new, now
        return True

    def _note(self, rtt: float) -> None:
        self._rtts.append(rtt)
        if len(self._rtts) > WINDOW:
            del self._rtts[0]

    # --- in words ----------------------------------------------------------------------------------------------------

    def problem(self, now: float, kernel_mtu: Callable[[], int]) -> str | None:
        """What keeps packets from the peer, in words. `kernel_mtu`: what the kernel knows of the path's MTU."""
        host, port = self.target.host, self.target.port
        if self.state == "unreachable":
            what = "has never answered" if self.last is None else f"has not answered for {now - self.last:.0f} s"
            if self.error is not None:
                why = self.error
            elif self.heard is not None and now - self.heard < _HEARD and self.heard > (self.last or 0.0) + TIMEOUT:
                why = "it asks us, so packets come from there: its answers or our questions are lost on the way"
            else:
                why = f"its host or its overlayd is down, or UDP port {port} is filtered on the way"
            return f"{host} {what}: {why}"
        if self.path.narrow and (known := kernel_mtu()) > (self.path.found or 0):
            return (
                f"packets of more than {self.path.found} bytes vanish on the way to {host} and no ICMP error comes"
                f" back (the kernel believes in {known}): overlayd tells containers; let ICMP through for the rest"
            )
        return None

    def notes(self, its_mode: str | None, mode: str, overlay_mtu: int) -> Iterator[str]:
        """What is odd about a peer that answers, in words; `mode` and `overlay_mtu` are this host's."""
        if self.state != "reachable" or self.sender is None:
            return
        if self.path.narrow:
            yield f"the path takes packets of {self.path.found} bytes"
        if self.asked >= WINDOW // 2 and self.loss >= _LOSS:
            yield f"{self.loss:.0%} of the probes are lost"
        if its_mode != mode:
            yield f"it runs mode {its_mode or 'unknown'}, this host {mode}"
        if self.sender.overlay_mtu not in (0, overlay_mtu):
            yield f"its overlay MTU is {self.sender.overlay_mtu}, this host's {overlay_mtu}"
        if not self.sender.well:
            yield "it says of itself that it is not well (overlayctl status there)"


class Probing:
    """All addresses that are asked."""

    def __init__(self, interval: float, nonce: Callable[[int], bytes], spread: Callable[[], float], now: float) -> None:
        """`interval`: seconds; `nonce` gives so many random bytes, `spread` a random number from 0 to 1."""
        self._interval, self._nonce, self._spread = interval, nonce, spread
        self._questions = TokenBucket(RATE, BURST, now)
        self._answers = TokenBucket(RATE, RATE, now)
        self._heap: list[tuple[float, int, Patient]] = []
        self._order = count()
        self._underlay_mtu = 0
        self.turned: list[Patient] = []
        """Those that became unreachable, or reachable again, for whoever takes them out."""
        self.patients: dict[str, Patient] = {}
        """By address."""

    def follow(self, targets: Iterable[Target], underlay_mtu: int, now: float) -> None:
        """Ask these from now on and no others; what is known of those that stay is kept."""
        wanted = {target.host: target for target in targets}
        if underlay_mtu != self._underlay_mtu:
            for one in self.patients.values():
                one.path = PathSize(MINIMUM[one.target.underlay_family], underlay_mtu, now)
            self._underlay_mtu = underlay_mtu
        for host in [host for host, one in self.patients.items() if wanted.get(host) != one.target]:
            del self.patients[host]
        new = [target for host, target in wanted.items() if host not in self.patients]
        # All at once would be a burst on this side and on theirs: over an interval, or as fast as the rate allows.
        over = min(self._interval, len(new) / RATE)
        for target in new:
            patient = self.patients[target.host] = Patient(target, underlay_mtu, now)
            self._push(now + self._spread() * over, patient)

    def add(self, target: Target, underlay_mtu: int, now: float) -> None:
        """Ask this one, too, from now on."""
        known = self.patients.get(target.host)
        if known is None or known.target != target:
            patient = self.patients[target.host] = Patient(target, underlay_mtu, now)
            self._push(now, patient)

    def remove(self, host: str) -> None:
        """Ask it no longer."""
        self.patients.pop(host, None)

    def _push(self, due: float, patient: Patient) -> None:
        patient.ticket = next(self._order)  # an older place of it in the heap is void
        heapq.heappush(self._heap, (due, patient.ticket, patient))

    def due(self, now: float) -> Iterator[tuple[Patient, Ask]]:
        """The questions to send now, as many as the rate allows."""
        while self._heap and self._heap[0][0] <= now:
            _, ticket, patient = self._heap[0]
            if ticket != patient.ticket or self.patients.get(patient.target.host) is not patient:
                heapq.heappop(self._heap)
                continue
            patient.judge(now)
            self._turn(patient, now)
            wait = patient.wait(self._interval, now)
            if wait > 0:
                heapq.heappop(self._heap)
                self._push(now + wait, patient)
            elif self._questions.take(now):
                heapq.heappop(self._heap)
                ask = patient.ask(self._nonce(NONCE), now)
                self._push(now + patient.patience, patient)
                yield patient, ask
            else:
                return

    def answered(self, host: str, answer: Probe, now: float) -> float | None:
        """Take an answer from an address; the round-trip time in seconds, or None where nobody asked for it."""
        patient = self.patients.get(host)
        rtt = patient.answered(answer, now) if patient is not None else None
        if patient is not None and rtt is not None:
            self._turn(patient, now)
            self._push(now + patient.wait(self._interval, now), patient)
        return rtt

    def _turn(self, patient: Patient, now: float) -> None:
        was = patient.state
        if patient.turn(now) and (was, patient.state) != ("unknown", "reachable"):
            self.turned.append(patient)

    def pause(self, now: float) -> float:
        """Seconds until `due` has something to say."""
        if not self._heap:
            return self._interval
        return max(self._heap[0][0] - now, 1 / RATE)

    def may_answer(self, patient: Patient, now: float) -> bool:
        """Whether a question from there gets an answer: it is not one too many."""
        patient.heard = now
        if patient.state == "unreachable" and now - patient.sent > TIMEOUT:  # it is back: ask it at once
            patient.sent = -math.inf
            self._push(now, patient)
        return patient.bucket.take(now) and self._answers.take(now)
