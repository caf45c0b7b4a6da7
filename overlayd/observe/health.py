"""Whether this host's part of the overlay works: looked at every second, told by /healthz and /readyz.

    broken      packets of containers do not move here, though the process lives: red
    problems    somebody or something cannot be reached, or is not as it should be: said, but not red

A host with a peer that is down is well; one on which nothing is read, sent or taken is not, nor is one that sends to
peers of which none answers.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from overlayd.backend.base import Backend
from overlayd.datapath.contract import Traffic
from overlayd.datapath.stall import PERIOD, Refusals
from overlayd.observe.prober import Prober
from overlayd.reconcile.reconciler import Reconciler
from overlayd.reconcile.underlay import UnderlayFollower
from overlayd.registry.base import Registry, RegistryState
from overlayd.system import device
from overlayd.system.files import read_sysctl

_SHOWN = 50  # problems in one answer: thousands of peers may have one each
_FORWARDING = {4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding"}


class Living(Protocol):
    """The parts of a daemon that its health is seen in."""

    state: str
    backend: Backend
    reconciler: Reconciler
    underlay: UnderlayFollower
    prober: Prober
    reload_error: str | None

    @property
    def registry(self) -> Registry:
        """Where leases come from."""


class Health:
    """What is wrong with one daemon."""

    def __init__(self, daemon: Living) -> None:
        self._daemon = daemon
        self._one_way = Refusals()
        self.broken: list[str] = []
        """What keeps packets from moving, as of the last look."""

    def look(self, now: float) -> None:
        """See what is broken now. `now`: seconds, from any steady clock."""
        daemon = self._daemon
        node = daemon.backend.node
        broken = daemon.backend.ailments(now)
        if daemon.underlay.trouble is not None:
            broken.append(daemon.underlay.trouble)
        elif (text := device.ailment(node.underlay.name, carrier=True)) is not None:
            broken.append(f"underlay {text}")
        for family in node.families:
            if read_sysctl(_FORWARDING[family]) != "1":
                name = _FORWARDING[family].replace("/", ".")
                broken.append(f"{name} is off: containers reach nobody (sysctl -w {name}=1)")
        broken += [str(failure) for failure in daemon.reconciler.failures if failure.fatal]
        if self._one_way.due(now):
            seen = traffic(daemon.backend)
            alone = daemon.prober.silent()
            self._one_way.update(seen.rx_packets, seen.tx_packets, now)
            if not alone:
                self._one_way.verdict = 0
        if self._one_way.verdict:
            broken.append(
                f"{self._one_way.verdict} packets went out to peers in {PERIOD:.0f} s and none came back,"
                " and no peer answers probes"
            )
        self.broken = broken

    def problems(self) -> Iterator[str]:
        """Everything that is wrong, broken or not, in words."""
        daemon = self._daemon
        yield from self.broken
        yield from (text for failure in daemon.reconciler.failures if (text := str(failure)) not in self.broken)
        yield from registry_problems(daemon.registry.state())
        for key, text in (*daemon.reconciler.problems.items(), *daemon.prober.problems()):
            lease = daemon.reconciler.table.get(key)
            yield f"{lease.subnets[0] if lease is not None else key}: {text}"
        if daemon.prober.problem is not None:
            yield daemon.prober.problem
        if daemon.reload_error:
            yield f"the last reload was refused: {daemon.reload_error}"

    def report(self) -> dict[str, Any]:
        """What /healthz and /readyz answer."""
        state = self._daemon.state
        if state == "waiting":
            registry = self._daemon.registry.state()
            reason = f"waiting for {registry.name}: {registry.error or 'it has not answered yet'}"
            return {"state": state, "well": False, "broken": [], "problems": [reason]}
        if state == "starting":
            return {"state": state, "well": False, "broken": [], "problems": ["the data path is not up yet"]}
        problems = list(self.problems())
        return {"state": state, "well": not problems, "broken": self.broken, "problems": shortened(problems)}


def shortened(problems: list[str]) -> list[str]:
    """So many that an answer stays small; the last says how many there are beyond."""
    more = len(problems) - _SHOWN
    return problems if more <= 0 else [*problems[:_SHOWN], f"and {more} more"]


def traffic(backend: Backend) -> Traffic:
    """What the engine has carried, or else what the kernel has counted at the overlay's devices."""
    counters = backend.counters()
    return counters.total if counters is not None else device_traffic(device.counts(backend.devices).values())


def device_traffic(counts: Iterable[dict[str, int]]) -> Traffic:
    """The kernel's counts of the overlay's devices, in the engine's terms."""
    total = Traffic()
    for one in counts:
        total.tx_packets += one["tx_packets"]
        total.tx_bytes += one["tx_bytes"]
        total.rx_packets += one["rx_packets"]
        total.rx_bytes += one["rx_bytes"]
    return total


def registry_problems(state: RegistryState) -> Iterator[str]:
    """What is wrong with where leases come from, and with other people's entries there."""
    if not state.connected or state.stale is not None:
        since = ""
        if state.stale is not None:
            since = f"; the leases are stale: this host saved them {time.time() - state.stale:.0f} s ago"
        elif state.since is not None:
            since = f", for {time.time() - state.since:.0f} s; the leases are those known then"
        yield f"{state.name} is out of reach{since}: {state.error or 'not tried again yet'}"
    yield from (f"{key}: {text}" for key, text in state.bad.items())
