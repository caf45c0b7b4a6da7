"""Keeps the kernel as the leases want it.

    desired = base of the backend + rules + the objects of every peer
    a full comparison:  read what is there, diff, apply            at start, on reload, once a minute
                        lease events go on while it reads and compares, and what they have applied is left out
    a lease event:      diff the old lease's objects and the new one's, apply; nothing is read
    a notification:     diff what the kernel says was changed with what is desired there, apply; nothing is read
                        what may have changed more than it says (a device that was down) calls for a full comparison

All are the same diff, so there is one way of being right.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from overlayd.backend.base import Backend
from overlayd.core import address as net
from overlayd.core.kernel.changes import KernelChanges
from overlayd.core.kernel.diff import Operation, diff
from overlayd.core.kernel.kinds import KernelState, Key, differences, state_of
from overlayd.core.leases.lease import Lease
from overlayd.core.leases.table import LeaseEvent, LeaseTable
from overlayd.core.node import Node
from overlayd.core.settings.model import Settings
from overlayd.reconcile.desired import desired_state
from overlayd.system.kernel import Failure, Kernel
from overlayd.system.netlink import Monitor

log = structlog.get_logger()

_READ_EVERY = 0.05  # seconds between looks at the notifications while thousands of operations are applied
_MANY = 1000  # operations, from which on looking once more costs less than hearing of each
_TOLD = 50  # repairs that are logged one by one; a device takes thousands of routes along


@dataclass(frozen=True, slots=True)
class Findings:
    """What a look at the kernel found to be repaired."""

    operations: list[Operation]
    desired: KernelState
    touched: set[Key]
    """What events have applied since the look began; grows while they go on."""


@dataclass(frozen=True, slots=True)
class Noticed:
    """What changes in the kernel's state call for."""

    repaired: bool
    """Whether single objects were put right."""
    comparison: bool
    underlay: bool
    """Whether the underlay interface is another."""
    refused: bool
    """Whether there is anything that the kernel has refused."""


class Reconciler:
    """The lease table and the kernel state that follows from it, for one backend at a time."""

    def __init__(self, kernel: Kernel, monitor: Monitor | None = None) -> None:
        """Without a `monitor`, `notice` has nothing to go by."""
        self._kernel = kernel
        self._monitor = monitor
        self._changes = KernelChanges()
        self.wake: Callable[[], None] = lambda: None
        """Called when there is something for `notice` that was heard while something else was done."""
        self._desired: KernelState = {}
        """What is to be in the kernel, as of the last full comparison and the lease events since."""
        self.table = LeaseTable()
        self.repairs = 0
        """Objects that had to be put right after the first comparison."""
        self.comparisons = 0
        """Full ones, after the first."""
        self.failures: list[Failure] = []
        """What the kernel refused, each object at the last attempt."""
        self._problems: dict[str, str] = {}
        self._touched: set[Key] | None = None
        """What has been applied since `check` began to look; None where nothing can be told from it."""

    def peers(self, node: Node) -> list[Lease]:
        """Every lease but this host's own."""
        return [lease for lease in self.table if lease.key != node.lease.key]

    async def plan(self, backend: Backend, settings: Settings) -> tuple[list[Operation], KernelState]:
        """What a full comparison would do, and what is there now. Raises HostError."""
        reading = await self._kernel.read()
        desired = desired_state(backend, settings, self.peers(backend.node), reading.dropping)
        return diff(reading.state, desired), reading.state

    async def check(self, backend: Backend, settings: Settings) -> Findings:
        """What has to be repaired, found while lease events go on. Raises HostError."""
        async with self._kernel.lock:  # nothing is half applied when the look begins
            touched = self._touched = set()
            peers = self.peers(backend.node)
            await self._look_comes()
        reading = await self._kernel.read()
        # Thousands of objects: in a thread, so that packets and events have their turn.
        desired = await asyncio.to_thread(desired_state, backend, settings, peers, reading.dropping)
        return Findings(await asyncio.to_thread(diff, reading.state, desired), desired, touched)

    async def repair(self, backend: Backend, findings: Findings) -> list[Failure]:
        """Apply what `check` found; what events have applied meanwhile is right already, and is left out.

        Nothing is done when another full comparison came between. Raises HostError.
        """
        async with self._kernel.lock:
            if self._touched is not findings.touched:
                return []
            self._touched = None
            self.comparisons += 1
            for key in findings.touched:
                _copy(key, self._desired, findings.desired)
            self._want(backend, findings.desired)
            operations = [step for step in findings.operations if step.object.key not in findings.touched]
            failures = await self._apply(operations, repair=True, everything=True)
        self._attach(backend, failures)
        return failures

    async def compare(self, backend: Backend, settings: Settings) -> list[Failure]:
        """A full comparison, applied: at the start and on a reload. Raises HostError."""
        async with self._kernel.lock:
            self._touched = None
            await self._look_comes()
            reading = await self._kernel.read()
            desired = desired_state(backend, settings, self.peers(backend.node), reading.dropping)
            self._want(backend, desired)
            failures = await self._apply(diff(reading.state, desired), repair=False, everything=True)
        self._attach(backend, failures)
        return failures

    async def notice(self) -> Noticed:
        """Repair the objects that the monitor says are not as desired; what more its word calls for. Raises
        HostError."""
        async with self._kernel.lock:
            await self._hear()
            changes, self._changes = self._changes, KernelChanges()
            changes.discard_own_rules(self._kernel.is_own)
            comparison = changes.needs_comparison(self._desired)
            operations = diff(*changes.differing(self._desired))
            repairs = bool(operations) and not (comparison or changes.underlay)
            if repairs:
                await self._apply(operations, repair=True)
        return Noticed(repairs, comparison, changes.underlay, bool(self.failures))

    async def _look_comes(self) -> None:
        """Forget what was heard: the look at the kernel that follows will see it, all but the underlay."""
        await self._hear()
        self._changes = KernelChanges(underlay=self._changes.underlay)
        if self._changes:
            self.wake()

    async def _hear(self, *, roughly: bool = False) -> None:
        """Know all that has been changed up to now; `roughly`: of routes and neighbours only that something may have
        been, which calls for a comparison."""
        if self._monitor is not None:
            read = self._monitor.drain if roughly else self._monitor.read
            while not read(self._changes):  # noqa: ASYNC110  # nothing is waited for
                await asyncio.sleep(0)  # packets have their turn

    def _want(self, backend: Backend, desired: KernelState) -> None:
        self._desired = desired
        if self._monitor is not None:
            devices = (thing.device for thing in desired.values() if thing.device is not None)
            self._monitor.watch(devices, backend.node.underlay.name)

    def _attach(self, backend: Backend, failures: Iterable[Failure]) -> None:
        if not any(failure.operation.object.device for failure in failures):
            backend.attach()

    async def take(self, backend: Backend, events: Sequence[LeaseEvent]) -> list[Failure]:
        """Bring the kernel and the backend from before these events to after them."""
        node = backend.node
        for event in events:
            log.info(f"lease {event.kind}", lease=str(event.lease), name=event.lease.name or None)
        foreign = [event for event in events if event.lease.key != node.lease.key]
        self._report(node, foreign)
        old = state_of(thing for event in foreign if event.old is not None for thing in backend.peer(event.old))
        new = state_of(thing for event in foreign if event.new is not None for thing in backend.peer(event.new))
        for thing in list(old.values()):  # a host that has two leases keeps its way through the guard with either
            if thing.key not in new and thing.public_ip is not None and self.table.is_public(thing.public_ip):
                del old[thing.key]
        backend.peers_moved(foreign)
        async with self._kernel.lock:
            for key in old.keys() - new.keys():
                self._desired.pop(key, None)
            self._desired.update(new)
            return await self._apply(diff(old, new), repair=False)

    async def repath(self, backend: Backend, paths: Mapping[net.Address, int]) -> None:
        """Have the backend know these paths, and the kernel what follows from them. Raises HostError."""
        changed = {address for address, _ in backend.paths.items() ^ paths.items()}
        leases = [one for one in self.peers(backend.node) if {one.public_ip, one.public_ipv6} & changed]
        async with self._kernel.lock:
            old = state_of(thing for lease in leases for thing in backend.peer(lease))
            backend.paths = paths
            new = state_of(thing for lease in leases for thing in backend.peer(lease))
            self._desired.update(new)
            await self._apply(diff(old, new), repair=False)

    async def cleanup(self) -> list[Operation]:
        """Remove every object of overlayd's. Raises HostError."""
        async with self._kernel.lock:
            operations = diff((await self._kernel.read()).state, {})
            await self._apply(operations, repair=False)
        return operations

    async def _apply(self, operations: Sequence[Operation], *, repair: bool, everything: bool = False) -> list[Failure]:
        """`everything`: what is not among these operations is as it should be."""
        _announce(operations, repair)
        if self._touched is not None:
            self._touched |= {step.object.key for step in operations}
        failures = await self._do(operations, repair)
        refused = {failure.operation for failure in failures}
        if repair:
            self._tell([step for step in operations if step not in refused])
        missing = {step.object.key for step in refused}  # what hangs on these is refused with them, and no news
        failures = [failure for failure in failures if failure.operation.object.parent not in missing]
        if repair and refused and not everything:
            self._changes.overrun = True  # a device that is just going, perhaps: a comparison sees what is left
        else:
            self._account(operations, failures, fatal_is_said=not repair, everything=everything)
        self._changes.discard_own(self._desired, {step.object.key for step in operations}, self._kernel.is_own)
        if self._changes:
            self.wake()
        return failures

    async def _do(self, operations: Sequence[Operation], repair: bool) -> list[Failure]:
        """Apply, and hear meanwhile what is our own doing: before there is more than the kernel keeps. Very much of it
        is heard of afterwards, and roughly."""
        applying = asyncio.ensure_future(self._kernel.apply(operations, to_the_end=repair))
        many = len(operations) > _MANY
        try:
            while not applying.done():
                await asyncio.wait({applying}, timeout=None if many else _READ_EVERY)
                await self._hear(roughly=many)
        finally:
            applying.cancel()  # if this was
        return applying.result()

    def _account(
        self, operations: Sequence[Operation], failures: list[Failure], *, fatal_is_said: bool, everything: bool
    ) -> None:
        """Remember what was refused, and say so once; whoever asked for a fatal one ends with it, and says so."""
        known = {str(failure) for failure in self.failures}
        for failure in failures:
            if str(failure) not in known and not (failure.fatal and fatal_is_said):
                log.error("kernel refused", operation=str(failure.operation), reason=failure.reason)
        tried = {step.object.key for step in operations}
        kept = [] if everything else [one for one in self.failures if one.operation.object.key not in tried]
        self.failures = [*kept, *failures]

    def _tell(self, repaired: Sequence[Operation]) -> None:
        self.repairs += len(repaired)
        for step in repaired[:_TOLD]:
            log.warning("kernel state repaired", operation=str(step), differs=_differs(step))
        if len(repaired) > _TOLD:
            log.warning("kernel state repaired", more=len(repaired) - _TOLD)

    @property
    def problems(self) -> Mapping[str, str]:
        """Why peers cannot be reached, as their leases show it, by the lease's key."""
        return self._problems

    def report_problems(self, node: Node) -> None:
        """Say once of each peer why it cannot be reached, and once that it can again."""
        for key in [key for key in self._problems if self.table.get(key) is None]:
            del self._problems[key]
        for lease in self.peers(node):
            self._say(lease.key, node.problem(lease))

    def _report(self, node: Node, events: Iterable[LeaseEvent]) -> None:
        """The same for these peers only: the others are as they were."""
        for event in events:
            if event.new is None:
                self._problems.pop(event.lease.key, None)
            else:
                self._say(event.lease.key, node.problem(event.new))

    def _say(self, key: str, problem: str | None) -> None:
        if problem is not None and self._problems.get(key) != problem:
            log.error("peer cannot be reached", lease=key, reason=problem)
            self._problems[key] = problem
        elif problem is None and self._problems.pop(key, None) is not None:
            log.info("peer can be reached", lease=key)


def _announce(operations: Iterable[Operation], repair: bool) -> None:
    for step in operations:
        if repair:
            log.debug("kernel state to repair", operation=str(step))
        elif step.old is not None and step.object.device:
            log.warning("device differs", device=step.object.device, differs=_differs(step))
        elif step.verb == "delete" and step.object.device:
            log.info("device removed", device=step.object.device)
        else:
            log.debug("kernel state", operation=str(step))


def _copy(key: Key, source: KernelState, target: KernelState) -> None:
    """Have in `target` under this key what `source` has there, or nothing."""
    if key in source:
        target[key] = source[key]
    else:
        target.pop(key, None)


def _differs(step: Operation) -> str | None:
    return "; ".join(differences(step.old, step.object)) if step.old is not None else None
