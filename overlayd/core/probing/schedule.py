"""Which address to probe when: at most RATE questions a second, however many peers there are.

    ProbeSchedule   all addresses, in the order in which they are due
    ProbeTarget     one address (target.py): answered or not, round-trip times, loss, what it says of itself
    PathMtuSearch   the longest packet that gets there (path_mtu.py)

Each address is probed every `interval` seconds, or less often where there are thousands. Time comes in as `now`, in
seconds from any steady clock; bytes and sockets are the caller's.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Iterator
from itertools import count

from overlayd.core.mtu import MINIMUM
from overlayd.core.probing.path_mtu import PathMtuSearch
from overlayd.core.probing.target import TIMEOUT, Endpoint, ProbeTarget, Question
from overlayd.core.rate_limit import TokenBucket
from overlayd.wire.probe import NONCE, Probe

RATE, BURST = 200.0, 20.0
"""Questions a second to all peers together; as many answers."""


class ProbeSchedule:
    """All addresses that are probed."""

    def __init__(self, interval: float, nonce: Callable[[int], bytes], spread: Callable[[], float], now: float) -> None:
        """`interval`: seconds; `nonce` returns that many random bytes, `spread` a random number from 0 to 1."""
        self._interval, self._nonce, self._spread = interval, nonce, spread
        self._questions = TokenBucket(RATE, BURST, now)
        self._answers = TokenBucket(RATE, RATE, now)
        self._heap: list[tuple[float, int, ProbeTarget]] = []
        self._tickets = count()
        self._underlay_mtu = 0
        self.changed: list[ProbeTarget] = []
        """Those that became unreachable, or reachable again, until the caller takes them out."""
        self.targets: dict[str, ProbeTarget] = {}
        """By address."""

    def replace(self, endpoints: Iterable[Endpoint], underlay_mtu: int, now: float) -> None:
        """Probe these from now on and no others; what is known of those that stay is kept."""
        desired = {endpoint.host: endpoint for endpoint in endpoints}
        if underlay_mtu != self._underlay_mtu:
            for one in self.targets.values():
                one.path = PathMtuSearch(MINIMUM[one.endpoint.underlay_family], underlay_mtu, now)
            self._underlay_mtu = underlay_mtu
        for host in [host for host, one in self.targets.items() if desired.get(host) != one.endpoint]:
            del self.targets[host]
        new = [endpoint for host, endpoint in desired.items() if host not in self.targets]
        # All at once would be a burst on this side and on theirs: over an interval, or as fast as the rate allows.
        over = min(self._interval, len(new) / RATE)
        for endpoint in new:
            self._start(endpoint, now, now + self._spread() * over)

    def add(self, endpoint: Endpoint, now: float) -> None:
        """Probe this one, too, from now on."""
        known = self.targets.get(endpoint.host)
        if known is None or known.endpoint != endpoint:
            self._start(endpoint, now, now)

    def remove(self, host: str) -> None:
        """Stop probing this one."""
        self.targets.pop(host, None)

    def _start(self, endpoint: Endpoint, now: float, due: float) -> None:
        target = self.targets[endpoint.host] = ProbeTarget(endpoint, self._underlay_mtu, now)
        self._push(due, target)

    def _push(self, due: float, target: ProbeTarget) -> None:
        target.ticket = next(self._tickets)  # an older entry of it in the heap is void
        heapq.heappush(self._heap, (due, target.ticket, target))

    def due(self, now: float) -> Iterator[tuple[ProbeTarget, Question]]:
        """The questions to send now, as many as the rate allows."""
        while self._heap and self._heap[0][0] <= now:
            _, ticket, target = self._heap[0]
            if ticket != target.ticket or self.targets.get(target.endpoint.host) is not target:
                heapq.heappop(self._heap)
                continue
            target.expire(now)
            self._update(target, now)
            wait = target.seconds_to_next(self._interval, now)
            if wait > 0:
                heapq.heappop(self._heap)
                self._push(now + wait, target)
            elif self._questions.take(now):
                heapq.heappop(self._heap)
                question = target.next_question(self._nonce(NONCE), now)
                self._push(now + target.timeout, target)
                yield target, question
            else:
                return

    def receive(self, host: str, answer: Probe, now: float) -> float | None:
        """The round-trip time, in seconds, of an answer from an address; None where it was not asked for."""
        target = self.targets.get(host)
        rtt = target.receive(answer, now) if target is not None else None
        if target is not None and rtt is not None:
            self._update(target, now)
            self._push(now + target.seconds_to_next(self._interval, now), target)
        return rtt

    def _update(self, target: ProbeTarget, now: float) -> None:
        before = target.state
        if target.update_state(now) and (before, target.state) != ("unknown", "reachable"):
            self.changed.append(target)

    def pause(self, now: float) -> float:
        """Seconds until `due` may have a question."""
        if not self._heap:
            return self._interval
        return max(self._heap[0][0] - now, 1 / RATE)

    def retry(self, now: float) -> None:
        """Probe all that are unreachable, or may be, as soon as the rate allows: this host was what kept them away."""
        for target in self.targets.values():
            if target.state == "unreachable" or target.unanswered:
                self._probe_at_once(target, now)

    def _probe_at_once(self, target: ProbeTarget, now: float) -> None:
        target.sent = -math.inf
        self._push(now, target)

    def may_answer(self, target: ProbeTarget, now: float) -> bool:
        """Whether a question from there is within the rate of answers."""
        target.last_question = now
        if target.state == "unreachable" and now - target.sent > TIMEOUT:  # it is back
            self._probe_at_once(target, now)
        return target.answer_budget.take(now) and self._answers.take(now)
