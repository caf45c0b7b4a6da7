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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import structlog

from overlayd.backend.base import Backend
from overlayd.core import address as net
from overlayd.core.kernel.changes import KernelChanges
from overlayd.core.kernel.diff import Operation, diff
from overlayd.core.kernel.kinds import KernelState, Key, differences, state_of
from overlayd.core.kernel.provider import Provider, Surroundings
from overlayd.core.leases.lease import Lease
from overlayd.core.leases.table import LeaseEvent, LeaseTable
from overlayd.core.node import Node
from overlayd.system.kernel import Failure, Kernel
from overlayd.system.netlink import Monitor

log = structlog.get_logger()

_RECEIVE_EVERY = 0.05  # seconds between receiving notifications while thousands of operations are applied
_MANY = 1000  # operations, from which on a comparison costs less than to decode a notification of each
_LOGGED = 50  # repairs that are logged one by one; thousands of routes go with a device


@dataclass(frozen=True, slots=True)
class Findings:
    """What a comparison with the kernel found to be repaired."""

    operations: list[Operation]
    desired: KernelState
    touched: set[Key]
    """What events have applied since it began; grows while they go on."""


@dataclass(frozen=True, slots=True)
class Repaired:
    """What notifications of the kernel have led to, and what else they call for."""

    repaired: bool
    """Whether single objects were repaired."""
    comparison: bool
    """Whether a full comparison is needed."""
    underlay: bool
    """Whether the underlay interface has changed."""
    refused: bool
    """Whether there are objects that the kernel has refused."""


class Reconciler:
    """The lease table and the kernel state that follows from it, for one node and its providers at a time."""

    def __init__(self, kernel: Kernel, monitor: Monitor | None = None) -> None:
        """Without a `monitor` there are no notifications to repair by."""
        self._kernel = kernel
        self._monitor = monitor
        self._changes = KernelChanges()
        self.wake: Callable[[], None] = lambda: None
        """Called when notifications for `repair_notified` have been received while something else was done."""
        self._desired: KernelState = {}
        """As of the last full comparison and the lease events since."""
        self._providers: Sequence[Provider] = ()
        self._node: Node
        self.table = LeaseTable()
        self.repairs = 0
        """Objects that had to be repaired after the first comparison."""
        self.comparisons = 0
        """Full ones, after the first."""
        self.failures: list[Failure] = []
        """What the kernel refused, each object at the last attempt."""
        self._problems: dict[str, str] = {}
        self._touched: set[Key] | None = None
        """What has been applied since `check` began; None where there is no check to leave it out of."""

    def use(self, node: Node, providers: Sequence[Provider]) -> None:
        """The node and the providers from now on; a full comparison brings what they desire into force."""
        self._node, self._providers = node, providers

    @property
    def peers(self) -> list[Lease]:
        """Every lease but this host's own."""
        return [lease for lease in self.table if lease.key != self._node.lease.key]

    async def plan(self) -> tuple[list[Operation], KernelState]:
        """What a full comparison would do, and what is there now. Raises HostError."""
        reading = await self._kernel.read()
        desired = _desired(self._providers, Surroundings(self.peers, reading.dropping))
        return diff(reading.state, desired), reading.state

    async def check(self) -> Findings:
        """What has to be repaired, found while lease events go on. Raises HostError."""
        async with self._kernel.lock:  # nothing is half applied when the reading begins
            touched = self._touched = set()
            providers, peers = self._providers, self.peers
            await self._forget_notified()
        reading = await self._kernel.read()
        # Thousands of objects: in a thread, so that packets and events have their turn.
        desired = await asyncio.to_thread(_desired, providers, Surroundings(peers, reading.dropping))
        return Findings(await asyncio.to_thread(diff, reading.state, desired), desired, touched)

    async def repair(self, findings: Findings) -> list[Failure]:
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
            self._set_desired(findings.desired)
            operations = [step for step in findings.operations if step.object.key not in findings.touched]
            return await self._apply(operations, repair=True, everything=True)

    async def compare(self) -> list[Failure]:
        """A full comparison, applied: at the start and on a reload. Raises HostError."""
        async with self._kernel.lock:
            self._touched = None
            await self._forget_notified()
            reading = await self._kernel.read()
            desired = _desired(self._providers, Surroundings(self.peers, reading.dropping))
            self._set_desired(desired)
            return await self._apply(diff(reading.state, desired), repair=False, everything=True)

    async def repair_notified(self) -> Repaired:
        """Repair the objects that notifications show not to be as desired; what else they call for. Raises
        HostError."""
        async with self._kernel.lock:
            await self._receive()
            changes, self._changes = self._changes, KernelChanges()
            changes.discard_own_rules(self._kernel.is_own)
            comparison = changes.needs_comparison(self._desired)
            operations = diff(*changes.differing(self._desired))
            repairs = bool(operations) and not (comparison or changes.underlay)
            if repairs:
                await self._apply(operations, repair=True)
        return Repaired(repairs, comparison, changes.underlay, bool(self.failures))

    async def _forget_notified(self) -> None:
        """Drop the notifications so far: the reading that follows shows what they tell, all but the underlay."""
        await self._receive()
        self._changes = KernelChanges(underlay=self._changes.underlay)
        if self._changes:
            self.wake()

    async def _receive(self, *, roughly: bool = False) -> None:
        """Take in all notifications up to now; `roughly`: of routes and neighbours only that something may have
        changed, which calls for a comparison."""
        if self._monitor is not None:
            read = self._monitor.drain if roughly else self._monitor.read
            while not read(self._changes):  # noqa: ASYNC110  # nothing is waited for
                await asyncio.sleep(0)  # packets have their turn

    def _set_desired(self, desired: KernelState) -> None:
        self._desired = desired
        if self._monitor is not None:
            devices = (thing.device for thing in desired.values() if thing.device is not None)
            self._monitor.watch(devices, self._node.underlay.name)

    def foreign(self, events: Iterable[LeaseEvent]) -> list[LeaseEvent]:
        """Those that are not about this host's own lease."""
        return [event for event in events if event.lease.key != self._node.lease.key]

    async def apply_events(self, events: Sequence[LeaseEvent]) -> list[Failure]:
        """Bring the kernel from before these events to after them; the table holds what is after them."""
        for event in events:
            log.info(f"lease {event.kind}", lease=str(event.lease), name=event.lease.name or None)
        foreign = self.foreign(events)
        self._report(foreign)
        old, new = _before_and_after(self._providers, foreign)
        async with self._kernel.lock:
            for key in old.keys() - new.keys():
                self._desired.pop(key, None)
            self._desired.update(new)
            return await self._apply(diff(old, new), repair=False)

    async def apply_paths(self, backend: Backend, paths: Mapping[net.Address, int]) -> None:
        """Give the backend these paths, and bring the kernel after it. Raises HostError."""
        changed = {address for address, _ in backend.paths.items() ^ paths.items()}
        leases = [one for one in self.peers if {one.public_ip, one.public_ipv6} & changed]
        unchanged = [LeaseEvent(lease, lease) for lease in leases]
        async with self._kernel.lock:
            old, _ = _before_and_after([backend], unchanged)
            backend.paths = paths
            _, new = _before_and_after([backend], unchanged)
            self._desired.update(new)
            await self._apply(diff(old, new), repair=False)

    async def cleanup(self) -> list[Operation]:
        """Remove every object of overlayd's. Raises HostError."""
        async with self._kernel.lock:
            operations = diff((await self._kernel.read()).state, {})
            await self._apply(operations, repair=False)
        return operations

    async def _apply(self, operations: Sequence[Operation], *, repair: bool, everything: bool = False) -> list[Failure]:
        """`everything`: what is not among these operations is as desired."""
        _announce(operations, repair)
        if self._touched is not None:
            self._touched |= {step.object.key for step in operations}
        failures = await self._do(operations, repair)
        refused = {failure.operation for failure in failures}
        if repair:
            self._log_repairs([step for step in operations if step not in refused])
        missing = {step.object.key for step in refused}  # what depends on these is refused with them
        failures = [failure for failure in failures if failure.operation.object.parent not in missing]
        if repair and refused and not everything:
            self._changes.overrun = True  # a device that is just going, perhaps: a comparison sees what is left
        else:
            self._account(operations, failures, fatal_is_logged=not repair, everything=everything)
        self._changes.discard_own(self._desired, {step.object.key for step in operations}, self._kernel.is_own)
        if self._changes:
            self.wake()
        return failures

    async def _do(self, operations: Sequence[Operation], repair: bool) -> list[Failure]:
        """Apply, and receive the notifications of it meanwhile, before they overflow the socket. Those of very many
        operations are received afterwards, and roughly."""
        applying = asyncio.ensure_future(self._kernel.apply(operations, to_the_end=repair))
        many = len(operations) > _MANY
        try:
            while not applying.done():
                await asyncio.wait({applying}, timeout=None if many else _RECEIVE_EVERY)
                await self._receive(roughly=many)
        finally:
            applying.cancel()  # if this was
        return applying.result()

    def _account(
        self, operations: Sequence[Operation], failures: list[Failure], *, fatal_is_logged: bool, everything: bool
    ) -> None:
        """Remember what was refused, and log it once; a fatal one ends whoever asked for it, who logs it."""
        known = {str(failure) for failure in self.failures}
        for failure in failures:
            if str(failure) not in known and not (failure.fatal and fatal_is_logged):
                log.error("kernel refused", operation=str(failure.operation), reason=failure.reason)
        tried = {step.object.key for step in operations}
        kept = [] if everything else [one for one in self.failures if one.operation.object.key not in tried]
        self.failures = [*kept, *failures]

    def _log_repairs(self, repaired: Sequence[Operation]) -> None:
        self.repairs += len(repaired)
        for step in repaired[:_LOGGED]:
            log.warning("kernel state repaired", operation=str(step), differs=_differs(step))
        if len(repaired) > _LOGGED:
            log.warning("kernel state repaired", more=len(repaired) - _LOGGED)

    @property
    def problems(self) -> Mapping[str, str]:
        """Why peers cannot be reached, as their leases show it, by the lease's key."""
        return self._problems

    def report_problems(self) -> None:
        """Log once of each peer why it cannot be reached, and once that it can be again."""
        for key in [key for key in self._problems if self.table.get(key) is None]:
            del self._problems[key]
        for lease in self.peers:
            self._log_problem(lease.key, self._node.problem(lease))

    def _report(self, events: Iterable[LeaseEvent]) -> None:
        """The same for these peers only: the others are as they were."""
        for event in events:
            if event.new is None:
                self._problems.pop(event.lease.key, None)
            else:
                self._log_problem(event.lease.key, self._node.problem(event.new))

    def _log_problem(self, key: str, problem: str | None) -> None:
        if problem is not None and self._problems.get(key) != problem:
            log.error("peer cannot be reached", lease=key, reason=problem)
            self._problems[key] = problem
        elif problem is None and self._problems.pop(key, None) is not None:
            log.info("peer can be reached", lease=key)


def _desired(providers: Iterable[Provider], now: Surroundings) -> KernelState:
    return state_of(thing for provider in providers for thing in provider.objects(now))


def _before_and_after(providers: Iterable[Provider], events: Sequence[LeaseEvent]) -> tuple[KernelState, KernelState]:
    pairs = [provider.on_leases(events) for provider in providers]
    return state_of(chain.from_iterable(old for old, _ in pairs)), state_of(
        chain.from_iterable(new for _, new in pairs)
    )


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
