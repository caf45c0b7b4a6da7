"""The kernel as a set of objects: read what is overlayd's, apply operations in order, a kind at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from overlayd.core.kernel.diff import Operation
from overlayd.core.kernel.firewall import ForeignChain
from overlayd.core.kernel.kinds import Address, KernelState, Link, Ruleset, SetElement, state_of
from overlayd.system import nft
from overlayd.system.errors import HostError
from overlayd.system.netlink import Netlink
from overlayd.wire.netlink.nfnetlink import ELEMENTS_MAX


@dataclass(frozen=True, slots=True)
class Failure:
    """An operation that the kernel refused."""

    operation: Operation
    reason: str

    @property
    def fatal(self) -> bool:
        """Whether nothing can work without it: a device, or the table of rules that guards it."""
        thing = self.operation.object
        essential = isinstance(thing, Link) or (isinstance(thing, Ruleset) and thing.chain is None)
        return essential and self.operation.verb != "delete"

    def __str__(self) -> str:
        return f"{self.operation}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Reading:
    """What is there."""

    state: KernelState
    """Every object that is overlayd's."""
    dropping: tuple[ForeignChain, ...]
    """Forward chains of other firewalls whose policy is drop."""


class Kernel:
    """Reads and writes the objects of `core.state`. Writers are served one at a time."""

    def __init__(self, netlink: Netlink) -> None:
        self.netlink = netlink
        self.lock = asyncio.Lock()
        """Held by whoever reads, compares and applies, so that no other comparison works on stale state."""

    async def read(self) -> Reading:
        """Every object of overlayd's in this network namespace. Raises HostError."""
        state = await self.netlink.read()
        if not nft.available():
            return Reading(state, ())
        rules, dropping = await nft.read()
        return Reading({**state, **state_of(rules)}, tuple(dropping))

    def is_own(self, port: int) -> bool:
        """Whether rules that came from this netlink port are our doing."""
        return nft.is_own(port) or port == self.netlink.elements_port

    async def apply(self, operations: Sequence[Operation], *, to_the_end: bool = False) -> list[Failure]:
        """Do the operations in order. Gives back those refused; what does not depend on them is done.

        A fatal refusal ends it: what follows would stand on nothing, or on somebody else's device. Devices that were
        made on the way are removed again, and with them all that hangs on them. Not so `to_the_end`, when what works
        is to go on working.
        """
        failures: list[Failure] = []
        made: list[Operation] = []
        for family, group in groupby(operations, lambda step: _family(step)):
            steps = list(group)
            if family is Ruleset:
                failures += await self._rules(steps)
            elif family is Operation:
                failures += [Failure(step, reason) for step, reason in await self.netlink.batch(steps)]
            for step in steps if family is Link else ():
                failures += await self._one(step)
                if failures and failures[-1].fatal and not to_the_end:
                    break
                if step.verb == "add" and isinstance(step.object, Link):
                    made.append(step)
            if not to_the_end and any(failure.fatal for failure in failures):
                for step in made:
                    await self._one(Operation("delete", step.object))
                break
        return failures

    async def _rules(self, steps: Sequence[Operation]) -> list[Failure]:
        """All of them or none. nft replaces tables with their elements; a lease event changes a few elements alone."""
        try:
            if len(steps) <= ELEMENTS_MAX and all(isinstance(step.object, SetElement) for step in steps):
                refused = await self.netlink.elements(steps)
            else:
                refused = None
                await nft.apply(steps)
        except HostError as error:
            refused = str(error)
        return [Failure(step, refused) for step in steps] if refused is not None else []

    async def _one(self, step: Operation) -> list[Failure]:
        try:
            await self.netlink.one(step)
        except HostError as error:
            return [Failure(step, str(error))]
        return []


def _family(step: Operation) -> type:
    """Which way an operation goes to the kernel: one by one, in an nft transaction, or in netlink batches."""
    if isinstance(step.object, Link | Address):
        return Link
    return Ruleset if isinstance(step.object, Ruleset | SetElement) else Operation
