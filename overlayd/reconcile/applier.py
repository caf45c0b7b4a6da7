"""Applies operations to the kernel, and tells overlayd's own changes from those of others.

What is applied comes back as notifications, mixed with those of what others change. They are received while operations
are applied, before they overflow the socket; an object that is as desired was changed by us, or needs nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from overlayd.core.kernel.changes import KernelChanges
from overlayd.core.kernel.diff import Operation
from overlayd.core.kernel.kinds import KernelState, Key, differences
from overlayd.log import log
from overlayd.system.kernel import Failure, Kernel
from overlayd.system.netlink import Monitor

_RECEIVE_EVERY = 0.05  # seconds between receiving notifications while thousands of operations are applied
_MANY = 1000  # operations, from which on a comparison costs less than to decode a notification of each
_LOGGED = 50  # repairs that are logged one by one; thousands of routes go with a device


class Applier:
    """The desired state, and the way to the kernel. Callers hold the kernel's lock."""

    def __init__(self, kernel: Kernel, monitor: Monitor | None) -> None:
        self._kernel = kernel
        self._monitor = monitor
        self._changes = KernelChanges()
        self.desired: KernelState = {}
        """As of the last full comparison and the lease events since."""
        self.on_changes: Callable[[], None] = lambda: None
        """Called when others' changes have been received while something else was done."""
        self.repairs = 0
        self.failures: list[Failure] = []
        """What the kernel refused, each object at the last attempt."""
        self.touched: set[Key] | None = None
        """Collects what is applied, where it is a set."""

    def set_desired(self, desired: KernelState, underlay: str) -> None:
        """Desire this from now on, and be notified of changes of its devices and of the underlay interface."""
        self.desired = desired
        if self._monitor is not None:
            self._monitor.watch(_devices(desired), underlay)

    def adapt_desired(self, old: KernelState, new: KernelState) -> None:
        """Desire these objects instead of those, and what else is desired as before."""
        for key in old.keys() - new.keys():
            self.desired.pop(key, None)
        self.desired.update(new)
        if self.touched is not None:  # some need no operation: what goes with its parent
            self.touched |= old.keys() | new.keys()
        before, after = _devices(old), _devices(new)
        if self._monitor is not None and before != after:
            self._monitor.watch_also(after, before - after)

    async def take_changes(self) -> KernelChanges:
        """What others have changed up to now, and forget it."""
        await self._receive()
        changes, self._changes = self._changes, KernelChanges()
        changes.discard_own_rules(self._kernel.is_own)
        return changes

    async def discard_changes(self) -> None:
        """Forget what has changed up to now: the reading that follows shows it, all but the underlay."""
        await self._receive()
        self._changes = KernelChanges(underlay=self._changes.underlay)
        if self._changes:
            self.on_changes()

    async def _receive(self, *, roughly: bool = False) -> None:
        """Take in all notifications up to now; `roughly`: of routes and neighbours only that something may have
        changed, which calls for a comparison."""
        if self._monitor is not None:
            read = self._monitor.drain if roughly else self._monitor.read
            while not read(self._changes):  # noqa: ASYNC110  # nothing is waited for
                await asyncio.sleep(0)  # packets have their turn

    async def apply(
        self,
        operations: Sequence[Operation],
        *,
        repair: bool,
        everything: bool = False,
        former: KernelState | None = None,
    ) -> list[Failure]:
        """Returns what the kernel refused. `everything`: what is not among these operations is as desired.

        `former`: what was desired until now; objects that are as they were desired have not been damaged.
        """
        _announce(operations, repair)
        if self.touched is not None:
            self.touched |= {step.object.key for step in operations}
        failures = await self._do(operations, repair)
        refused = {failure.operation for failure in failures}
        if repair:
            self._log_repairs([step for step in operations if step not in refused], former or {})
        known = () if everything else (failure.operation for failure in self.failures)
        missing = {step.object.key for step in (*refused, *known)}  # what depends on these is refused with them
        failures = [failure for failure in failures if failure.operation.object.parent not in missing]
        if repair and refused and not everything:
            self._changes.overrun = True  # a device that is just going, perhaps: a comparison sees what is left
        else:
            self._account(operations, failures, fatal_is_logged=not repair, everything=everything)
        self._changes.discard_own(self.desired, {step.object.key for step in operations}, self._kernel.is_own)
        if self._changes:
            self.on_changes()
        return failures

    async def _do(self, operations: Sequence[Operation], repair: bool) -> list[Failure]:
        """Apply, and receive the notifications of it meanwhile, before they overflow the socket. Those of very many
        operations are received afterwards, and roughly."""
        applying = asyncio.ensure_future(self._kernel.apply(operations, keep_going=repair))
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

    def _log_repairs(self, done: Sequence[Operation], former: KernelState) -> None:
        adapted = {step.object.key for step in done if step.old is not None and former.get(step.object.key) == step.old}
        for step in done:
            if step.object.key in adapted:
                log.info("rules adapted to other firewalls", operation=str(step), differs=_differs(step))
        repaired = [step for step in done if not adapted & {step.object.key, step.object.parent}]
        self.repairs += len(repaired)
        for step in repaired[:_LOGGED]:
            log.warning("kernel state repaired", operation=str(step), differs=_differs(step))
        if len(repaired) > _LOGGED:
            log.warning("kernel state repaired", more=len(repaired) - _LOGGED)


def _devices(state: KernelState) -> set[str]:
    return {thing.device for thing in state.values() if thing.device is not None}


def _announce(operations: Iterable[Operation], repair: bool) -> None:
    for step in operations:
        if repair:
            log.debug("kernel state to repair", operation=str(step))
        elif step.old is not None and step.object.device:
            log.warning("device differs", device=step.object.device, differs=_differs(step))
        elif step.verb == "delete" and step.object.device and not step.object.transient:
            log.info("device removed", device=step.object.device)
        else:
            log.debug("kernel state", operation=str(step))


def _differs(step: Operation) -> str | None:
    return "; ".join(differences(step.old, step.object)) if step.old is not None else None
