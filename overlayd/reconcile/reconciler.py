"""Keeps the kernel's state as its providers desire it.

    desired state       the objects of all providers (`core/kernel/provider.py`)
    full comparison     read the kernel, diff, apply                at start, on reload, once a minute
                        lease events go on while it reads and compares, and what they have applied is left out
    lease event         diff the objects of the old lease and of the new one, apply; nothing is read
    notification        diff what the kernel says was changed with what is desired there, apply; nothing is read;
                        what may have changed more than that (a device that was down) calls for a full comparison

All are the same diff.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import chain

from overlayd.backend.base import Backend
from overlayd.core import address as net
from overlayd.core.kernel.adoption import adoptable, given_back
from overlayd.core.kernel.diff import Operation, diff
from overlayd.core.kernel.flannel_rules import names
from overlayd.core.kernel.kinds import KernelObject, KernelState, Key, state_of
from overlayd.core.kernel.provider import Provider, Surroundings
from overlayd.core.kernel.transient import without, without_lost
from overlayd.core.leases.lease import Lease
from overlayd.core.leases.table import LeaseEvent, LeaseTable
from overlayd.core.node import Node
from overlayd.log import log
from overlayd.reconcile.applier import Applier
from overlayd.reconcile.peer_problems import PeerProblems
from overlayd.reconcile.results import Findings, Plan, RepairResult
from overlayd.system.kernel import Failure, Kernel, Reading
from overlayd.system.netlink import Monitor


class Reconciler:
    """The lease table and the kernel state that follows from it, for one node and its providers at a time."""

    def __init__(self, kernel: Kernel, monitor: Monitor | None = None) -> None:
        """Without a `monitor` there are no notifications to repair by."""
        self._kernel = kernel
        self._applier = Applier(kernel, monitor)
        self._problems = PeerProblems()
        self._providers: Sequence[Provider] = ()
        self._node: Node
        self.on_lost: Callable[[Collection[Key]], None] = lambda lost: None
        """Called with the keys of transient objects that are gone, and are not desired any more."""
        self.table = LeaseTable()
        self.comparisons = 0
        """Full ones, after the first."""

    @property
    def repairs(self) -> int:
        """Objects that had to be repaired after the first comparison."""
        return self._applier.repairs

    @property
    def failures(self) -> Sequence[Failure]:
        """What the kernel refused, each object at the last attempt."""
        return self._applier.failures

    @property
    def problems(self) -> Mapping[str, str]:
        """Why peers cannot be reached, as their leases show it, by the lease's key."""
        return self._problems.texts

    def on_changes(self, wake: Callable[[], None]) -> None:
        """Call this when there are changes for `repair_changes` that were received while something else was done."""
        self._applier.on_changes = wake

    def use(self, node: Node, providers: Sequence[Provider]) -> None:
        """The node and the providers from now on; a full comparison brings what they desire into force."""
        self._node, self._providers = node, providers

    @property
    def peers(self) -> list[Lease]:
        """Every lease but this host's own."""
        return [lease for lease in self.table if lease.key != self._node.lease.key]

    async def plan(self) -> Plan:
        """What `compare` would do. Raises HostError."""
        reading = await self._kernel.read(others=True)
        desired, _ = _desired(self._providers, Surroundings(self.peers, reading.foreign), reading.state)
        return Plan(_takeover(reading, desired), reading.foreign.flannel)

    async def check(self) -> Findings:
        """What has to be repaired, found while lease events go on. Raises HostError."""
        async with self._kernel.lock:  # nothing is half applied when the reading begins
            touched = self._applier.touched = set()
            providers, peers = self._providers, self.peers
            await self._applier.discard_changes()
        reading = await self._kernel.read()
        # Thousands of objects: in a thread, so that packets and events have their turn.
        surroundings = Surroundings(peers, reading.foreign)
        desired, lost = await asyncio.to_thread(_desired, providers, surroundings, reading.state)
        return Findings(await asyncio.to_thread(diff, reading.state, desired), desired, lost, touched)

    async def repair(self, findings: Findings) -> list[Failure]:
        """Apply what `check` found; what events have applied meanwhile is right already, and is left out.

        Nothing is done when another full comparison came between. Raises HostError.
        """
        async with self._kernel.lock:
            if self._applier.touched is not findings.touched:
                return []
            self._applier.touched = None
            self.comparisons += 1
            for key in findings.touched:
                _copy(key, self._applier.desired, findings.desired)
            former = self._applier.desired
            self._applier.set_desired(findings.desired, self._node.underlay.name)
            self._report_lost(findings.lost - findings.touched)
            operations = [step for step in findings.operations if step.object.key not in findings.touched]
            return await self._applier.apply(operations, repair=True, everything=True, former=former)

    async def compare(self) -> list[Failure]:
        """A full comparison, applied: at the start and on a reload. What flannel left is taken over. Raises
        HostError."""
        async with self._kernel.lock:
            self._applier.touched = None
            await self._applier.discard_changes()
            reading = await self._kernel.read(others=True)
            desired, lost = _desired(self._providers, Surroundings(self.peers, reading.foreign), reading.state)
            self._applier.set_desired(desired, self._node.underlay.name)
            self._report_lost(lost)
            if reading.foreign.flannel:
                remedy = "overlayctl adopt --from flannel removes them"
                log.warning("flannel's rules are left", rules=", ".join(names(reading.foreign.flannel)), remedy=remedy)
            operations = _takeover(reading, desired)
            failures = await self._applier.apply(operations, repair=False, everything=True)
            if any(step.renames for step in operations):
                state = (await self._kernel.read()).state
                failures = await self._applier.apply(diff(state, desired), repair=False, everything=True)
            return failures

    async def repair_changes(self) -> RepairResult:
        """Repair what others have changed, object by object; what else that calls for. Raises HostError."""
        async with self._kernel.lock:
            changes = await self._applier.take_changes()
            lost = changes.take_lost(self._applier.desired)
            self._applier.desired = without(self._applier.desired, lost)
            self._report_lost(lost)
            comparison = changes.needs_comparison(self._applier.desired)
            operations = diff(*changes.differing(self._applier.desired))
            repairs = bool(operations) and not (comparison or changes.underlay)
            if repairs:
                await self._applier.apply(operations, repair=True)
        return RepairResult(repairs, comparison, changes.underlay, bool(self.failures))

    def foreign(self, events: Iterable[LeaseEvent]) -> list[LeaseEvent]:
        """Those that are not about this host's own lease."""
        return [event for event in events if event.lease.key != self._node.lease.key]

    async def apply_events(self, events: Sequence[LeaseEvent]) -> list[Failure]:
        """Bring the kernel from before these events to after them; the table holds what is after them."""
        for event in events:
            log.info(f"lease {event.kind}", lease=str(event.lease), name=event.lease.name or None)
        foreign = self.foreign(events)
        self._problems.apply(self._node, foreign)
        old, new = _before_and_after(self._providers, foreign)
        return await self.apply_change(old, new)

    async def apply_change(self, old: KernelState, new: KernelState, spared: Collection[Key] = ()) -> list[Failure]:
        """Bring the kernel from these objects, which are as they were desired, to those. Raises HostError.

        `spared`: those of `old` that are somebody else's in the kernel, and are left there.
        """
        async with self._kernel.lock:
            self._applier.adapt_desired(old, new)
            return await self._applier.apply(diff(without(old, spared), new), repair=False)

    def _report_lost(self, lost: Collection[Key]) -> None:
        if lost:
            self.on_lost(lost)

    async def apply_paths(self, backend: Backend, paths: Mapping[net.Address, int]) -> None:
        """Give the backend these paths, and bring the kernel after it. Raises HostError."""
        changed = {address for address, _ in backend.paths.items() ^ paths.items()}
        leases = [one for one in self.peers if {one.public_ip, one.public_ipv6} & changed]
        unchanged = [LeaseEvent(lease, lease) for lease in leases]
        async with self._kernel.lock:
            old, _ = _before_and_after([backend], unchanged)
            backend.paths = paths
            _, new = _before_and_after([backend], unchanged)
            self._applier.desired.update(new)
            await self._applier.apply(diff(old, new), repair=False)

    def desired(self, key: Key) -> KernelObject | None:
        """What is desired under this key, if anything is."""
        return self._applier.desired.get(key)

    def report_problems(self) -> None:
        """Log which peers cannot be reached, and which can be again."""
        self._problems.replace(self._node, self.peers)

    async def give_back(self, *, dry_run: bool = False) -> list[Operation]:
        """Make flannel's of what flannel has as well, and remove the rest; or only say so. Raises HostError."""
        async with self._kernel.lock:
            state = (await self._kernel.read()).state
            wanted = given_back(state)
            operations = diff(state, wanted)
            if not dry_run:
                await self._applier.apply(operations, repair=False)
                if any(step.renames for step in operations):
                    others = (await self._kernel.read(others=True)).others
                    left = {key: others[key] for key in wanted.keys() & others.keys()}
                    await self._applier.apply(diff(left, wanted), repair=False)
        return operations

    async def cleanup(self) -> list[Operation]:
        """Remove every object of overlayd's. Raises HostError."""
        async with self._kernel.lock:
            operations = diff((await self._kernel.read()).state, {})
            await self._applier.apply(operations, repair=False)
        return operations


def _desired(providers: Iterable[Provider], now: Surroundings, actual: KernelState) -> tuple[KernelState, set[Key]]:
    """What is desired, given what is there; and what is lost."""
    return without_lost(state_of(thing for provider in providers for thing in provider.objects(now)), actual)


def _takeover(reading: Reading, desired: KernelState) -> list[Operation]:
    return diff({**adoptable(reading.others, desired), **reading.state}, desired)


def _before_and_after(providers: Iterable[Provider], events: Sequence[LeaseEvent]) -> tuple[KernelState, KernelState]:
    pairs = [provider.on_leases(events) for provider in providers]
    return state_of(chain.from_iterable(old for old, _ in pairs)), state_of(
        chain.from_iterable(new for _, new in pairs)
    )


def _copy(key: Key, source: KernelState, target: KernelState) -> None:
    """Have in `target` under this key what `source` has there, or nothing."""
    if key in source:
        target[key] = source[key]
    else:
        target.pop(key, None)
