"""Keeps the kernel as the leases want it.

    desired = base of the backend + rules + the objects of every peer
    a full comparison:  read what is there, diff, apply            at start, on reload, and every few seconds
                        lease events go on while it reads and compares, and what they have applied is left out
    a lease event:      diff the old lease's objects and the new one's, apply; nothing is read

Both are the same diff, so there is one way of being right.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from overlayd.backend.base import Backend
from overlayd.core.config import Settings
from overlayd.core.diff import Operation, diff
from overlayd.core.firewall import ForeignChain, Side, Wanted, rulesets
from overlayd.core.lease import Lease, LeaseEvent, LeaseTable
from overlayd.core.node import Node
from overlayd.core.state import KernelObject, KernelState, Key, Link, Route, SetElement, differences, state_of
from overlayd.system.kernel import Failure, Kernel

log = structlog.get_logger()


def desired_state(
    backend: Backend, settings: Settings, peers: Iterable[Lease], dropping: Iterable[ForeignChain]
) -> KernelState:
    """Every object that is to be in the kernel; pure."""
    node = backend.node
    objects: list[KernelObject] = [*backend.base(), *_unreachable(node), *rulesets(_rules(backend, settings), dropping)]
    for lease in peers:
        objects += backend.peer(lease)
    return state_of(objects)


def _unreachable(node: Node) -> list[Route]:
    """What nobody leases is answered by the kernel itself with ICMP, and never leaves by the default route."""
    return [Route(one.network) for one in node.ranges if node.lease.subnet_of(one.network.version) is not None]


def _rules(backend: Backend, settings: Settings) -> Wanted:
    node = backend.node
    sides = []
    for one in node.ranges:
        subnet = node.lease.subnet_of(one.network.version)
        if subnet is not None:
            sides.append(Side(one.network, subnet))
    return Wanted(
        tuple(sides), backend.devices, backend.guarded, node.underlay.name, settings.ip_masq, settings.forward_rules
    )


@dataclass(frozen=True, slots=True)
class Findings:
    """What a look at the kernel found to be repaired."""

    operations: list[Operation]
    touched: set[Key]
    """What events have applied since the look began; grows while they go on."""


class Reconciler:
    """The lease table and the kernel state that follows from it, for one backend at a time."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.table = LeaseTable()
        self.repairs = 0
        """Objects that a full comparison had to put right after the first one."""
        self.failures: list[Failure] = []
        """What the kernel refused at the last attempt."""
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
        reading = await self._kernel.read()
        # Thousands of objects: in a thread, so that packets and events have their turn.
        desired = await asyncio.to_thread(desired_state, backend, settings, peers, reading.dropping)
        return Findings(await asyncio.to_thread(diff, reading.state, desired), touched)

    async def repair(self, backend: Backend, findings: Findings) -> list[Failure]:
        """Apply what `check` found; what events have applied meanwhile is right already, and is left out.

        Nothing is done when another full comparison came between. Raises HostError.
        """
        async with self._kernel.lock:
            if self._touched is not findings.touched:
                return []
            self._touched = None
            operations = [step for step in findings.operations if step.object.key not in findings.touched]
            failures = await self._apply(operations, repair=True)
        self._attach(backend, failures)
        return failures

    async def compare(self, backend: Backend, settings: Settings) -> list[Failure]:
        """A full comparison, applied: at the start and on a reload. Raises HostError."""
        async with self._kernel.lock:
            self._touched = None
            operations, _ = await self.plan(backend, settings)
            failures = await self._apply(operations, repair=False)
        self._attach(backend, failures)
        return failures

    def _attach(self, backend: Backend, failures: Iterable[Failure]) -> None:
        if not any(isinstance(failure.operation.object, Link) for failure in failures):
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
            if isinstance(thing, SetElement) and thing.key not in new and self.table.is_public(thing.address):
                del old[thing.key]
        backend.peers_moved(foreign)
        async with self._kernel.lock:
            return await self._apply(diff(old, new), repair=False)

    async def cleanup(self) -> list[Operation]:
        """Remove every object of overlayd's. Raises HostError."""
        async with self._kernel.lock:
            operations = diff((await self._kernel.read()).state, {})
            await self._apply(operations, repair=False)
        return operations

    async def _apply(self, operations: Sequence[Operation], *, repair: bool) -> list[Failure]:
        for step in operations:
            if repair:
                log.debug("kernel state to repair", operation=str(step))
            elif step.old is not None and isinstance(step.object, Link):
                log.warning("device differs", device=step.object.name, differs=_differs(step))
            elif step.verb == "delete" and isinstance(step.object, Link):
                log.info("device removed", device=step.object.name)
            else:
                log.debug("kernel state", operation=str(step))
        if self._touched is not None:
            self._touched |= {step.object.key for step in operations}
        failures = await self._kernel.apply(operations)
        refused = {failure.operation for failure in failures}
        for step in operations if repair else ():
            if step not in refused:
                self.repairs += 1
                log.warning("kernel state repaired", operation=str(step), differs=_differs(step))
        known = {str(failure) for failure in self.failures}
        for failure in failures:
            raised = failure.fatal and not repair  # whoever asked for it ends with it, and says so
            if str(failure) not in known and not raised:
                log.error("kernel refused", operation=str(failure.operation), reason=failure.reason)
        self.failures = failures
        return failures

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


def _differs(step: Operation) -> str | None:
    return "; ".join(differences(step.old, step.object)) if step.old is not None else None
