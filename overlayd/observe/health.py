"""Whether this host's part of the overlay works: polled every second, reported by /healthz and /readyz.

    broken      packets of containers do not move here, though the process lives: red
    problems    somebody or something cannot be reached, or is not as it should be: said, but not red

A host with a peer that is down is well; one on which nothing is read, sent or taken is not, nor is one that sends to
peers of which none answers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from overlayd.backend.base import Backend
from overlayd.core.kernel.firewall import Sighting
from overlayd.datapath.contract import Traffic
from overlayd.datapath.stall import PERIOD, Refusals
from overlayd.log import log
from overlayd.observe.attached import attachment_problems
from overlayd.observe.lifecycle import Lifecycle
from overlayd.observe.mismatch import MismatchDetector
from overlayd.observe.overlay import Overlay
from overlayd.registry.base import RegistryState
from overlayd.system import descriptors, device
from overlayd.system.errors import HostError

_POLL_EVERY = 1.0  # seconds
_SHOWN = 50  # problems in one answer: thousands of peers may have one each


class Health:
    """What is wrong with this host's part of the overlay."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        overlay: Overlay,
        underlay_problem: Callable[[], str | None],
        forwarding_faults: Callable[[], Iterable[str]],
        sightings: Callable[[], Awaitable[Iterable[Sighting]]],
    ) -> None:
        """`underlay_problem`: why the overlay has no working underlay, `forwarding_faults`: which forwarding switches
        are off; in words. `sightings`: what rules have noted of senders; may raise HostError."""
        self._lifecycle, self._overlay = lifecycle, overlay
        self._underlay_problem, self._forwarding_faults = underlay_problem, forwarding_faults
        self._sightings, self._one_way = sightings, Refusals()
        self._mismatch = MismatchDetector(overlay.prober.is_probed, lambda: overlay.peers)
        self.broken: list[str] = []
        """What keeps packets from moving, as of the last poll."""
        self._shortage: str | None = None

    async def run(self) -> None:
        """Poll without end."""
        while True:
            await asyncio.sleep(_POLL_EVERY)
            noted: Iterable[Sighting] = ()
            with suppress(HostError):  # a host without nftables, or short of memory
                noted = await self._sightings()
            self.poll(time.monotonic(), noted)

    def poll(self, now: float, noted: Iterable[Sighting] = ()) -> None:
        """Find what is wrong now, and log when that begins and ends. `now`: seconds, from any steady clock; `noted`:
        what rules have noted of senders since the last poll."""
        before = self.broken
        shortage = descriptors.shortage()
        if shortage is not None and self._shortage is None:
            log.error("resources run out", reason=shortage)
        self._shortage = shortage
        self._mismatch.poll(self._overlay.backend, noted, now)
        with suppress(OSError):  # without a descriptor nothing can be read: the last result stays
            self.broken = list(self._faults(now))
        for text in self.broken if not before else ():
            log.error("data path is broken", reason=text)
        if before and not self.broken:
            log.info("data path works again")

    def _faults(self, now: float) -> Iterator[str]:
        overlay, node = self._overlay, self._overlay.node
        if (data_path := overlay.backend.data_path) is not None:
            yield from data_path.faults(now)
        else:
            yield from (text for name in overlay.backend.devices if (text := device.fault(name)))
        if (text := self._underlay_problem()) is not None:
            yield text
        elif (text := device.fault(node.underlay.name, carrier=True)) is not None:
            yield f"underlay {text}"
        yield from self._forwarding_faults()
        yield from (str(failure) for failure in overlay.reconciler.failures if failure.fatal)
        if self._one_way.due(now):
            seen = traffic(overlay.backend)
            self._one_way.update(seen.rx_packets, seen.tx_packets, now)
            if not overlay.prober.silent():
                self._one_way.verdict = 0
        if self._one_way.verdict:
            yield (
                f"{self._one_way.verdict} packets were sent to peers in {PERIOD:.0f} s, none was received,"
                " and no peer answers probes"
            )

    def problems(self) -> Iterator[str]:
        """Everything that is wrong, broken or not, in words."""
        overlay, reconciler = self._overlay, self._overlay.reconciler
        yield from self.broken
        yield from (text for failure in reconciler.failures if (text := str(failure)) not in self.broken)
        if self._shortage is not None:
            yield self._shortage
        yield from registry_problems(overlay.registry.state())
        yield from attachment_problems(overlay)
        for key, text in (*reconciler.problems.items(), *overlay.prober.problems()):
            lease = reconciler.table.get(key)
            yield f"{lease.subnets[0] if lease is not None else key}: {text}"
        yield from self._mismatch.problems
        if overlay.prober.problem is not None:
            yield overlay.prober.problem
        if self._lifecycle.reload_error:
            yield f"the last reload was refused: {self._lifecycle.reload_error}"

    def report(self) -> dict[str, Any]:
        """What /healthz and /readyz answer."""
        state = self._lifecycle.phase
        if state == "starting":
            return not_ready(state, "the data path is not up yet")
        problems = list(self.problems())
        return {"state": state, "well": not problems, "broken": self.broken, "problems": shorten(problems)}


def not_ready(state: str, reason: str) -> dict[str, Any]:
    """What /healthz and /readyz answer before there is a data path."""
    return {"state": state, "well": False, "broken": [], "problems": [reason]}


def waiting_reason(state: RegistryState) -> str:
    """What a daemon waits for that has no node yet, in words."""
    return f"waiting for {state.name}: {state.error or 'it has not answered yet'}"


def shorten(problems: list[str]) -> list[str]:
    """The first of them, so that an answer stays small, and a line that counts the others."""
    more = len(problems) - _SHOWN
    return problems if more <= 0 else [*problems[:_SHOWN], f"and {more} more"]


def traffic(backend: Backend) -> Traffic:
    """Totals of the engine, or of the overlay's devices where the kernel forwards the packets."""
    counters = backend.data_path.counters() if backend.data_path is not None else None
    return counters.total if counters is not None else device_traffic(device.counts(backend.devices).values())


def device_traffic(counts: Iterable[dict[str, int]]) -> Traffic:
    """The sum of the kernel's counters of these devices."""
    total = Traffic()
    for one in counts:
        total.tx_packets += one["tx_packets"]
        total.tx_bytes += one["tx_bytes"]
        total.rx_packets += one["rx_packets"]
        total.rx_bytes += one["rx_bytes"]
    return total


def registry_problems(state: RegistryState) -> Iterator[str]:
    """What is wrong with the source of leases, and with others' entries there."""
    if not state.connected or state.stale is not None:
        since = ""
        if state.stale is not None:
            since = f"; the leases are stale: this host saved them {time.time() - state.stale:.0f} s ago"
        elif state.since is not None:
            since = f", for {time.time() - state.since:.0f} s; the leases are those known then"
        yield f"{state.name} is unreachable{since}: {state.error or 'not tried again yet'}"
    yield from (f"{key}: {text}" for key, text in state.invalid.items())
