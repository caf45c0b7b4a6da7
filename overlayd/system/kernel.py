"""The kernel as a set of objects: read what is overlayd's, apply operations in order, each by its channel's writer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import cast

from overlayd.core.kernel.conntrack import MovedPorts
from overlayd.core.kernel.diff import Operation
from overlayd.core.kernel.firewall import NO_FOREIGN_RULES, PORTS_TABLE, ForeignRules
from overlayd.core.kernel.kinds import Channel, KernelState, Key, NftObject, state_of
from overlayd.log import log
from overlayd.system import nft
from overlayd.system.errors import HostError
from overlayd.system.netlink import Netlink
from overlayd.system.netlink.batches import Refusal
from overlayd.wire.netlink.nft import ELEMENTS_MAX

Writer = Callable[[Sequence[Operation]], Awaitable[list[Refusal]]]
"""Does operations of one channel, in order; gives back those that the kernel refused."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An operation that the kernel refused."""

    operation: Operation
    reason: str

    @property
    def fatal(self) -> bool:
        """Whether nothing can work without it."""
        return self.operation.object.essential and self.operation.verb != "delete"

    def __str__(self) -> str:
        return f"{self.operation}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Reading:
    """What is in the kernel."""

    state: KernelState
    """Every object that is overlayd's."""
    foreign: ForeignRules = NO_FOREIGN_RULES
    others: KernelState = field(default_factory=dict)
    """Where it was asked for: others' objects that overlayd might take over."""


class Kernel:
    """Reads and writes the objects of `core.kernel`. Writers are served one at a time."""

    def __init__(self, netlink: Netlink) -> None:
        self.netlink = netlink
        self._writers: dict[Channel, Writer] = {
            Channel.LINK: self._device,
            Channel.RTNETLINK: netlink.batch,
            Channel.NFTABLES: self._rules,
        }
        self.lock = asyncio.Lock()
        """Held by whoever reads, compares and applies, so that no other comparison works on stale state."""

    async def read(self, *, others: bool = False) -> Reading:
        """Every object of overlayd's in this network namespace; `others`: and those that it might take over. Raises
        HostError."""
        state = await self.netlink.read()
        found = await self.netlink.read_foreign() if others else {}
        if not nft.available():
            return Reading(state, others=found)
        rules, foreign = await nft.read()
        return Reading({**state, **state_of(rules)}, foreign, found)

    def is_own(self, port: int) -> bool:
        """Whether rules that came from this netlink port are our doing."""
        return nft.is_own(port) or port == self.netlink.elements_port

    async def apply(self, operations: Sequence[Operation], *, keep_going: bool = False) -> list[Failure]:
        """Do the operations in order. Gives back those refused; what does not depend on them is done.

        A fatal refusal ends it: what follows would have no device, or somebody else's. Devices that were made so far
        are removed again, and with them all that hangs on them. With `keep_going` neither happens: a repair must not
        take away what works.
        """
        failures: list[Failure] = []
        made: list[Operation] = []
        missing: set[Key | None] = set()
        for channel, steps in _runs(operations):
            lacking = [step for step in steps if missing and _lacks(step, missing)]
            able = [step for step in steps if step not in lacking] if lacking else steps
            refused = dict(await self._writers[channel](able)) if able else {}
            failures += [Failure(step, reason) for step, reason in refused.items()]
            failures += [Failure(step, "what it depends on was refused") for step in lacking]
            missing |= {step.object.key for step in refused if step.object.device and step.verb == "add"}
            made += [step for step in steps if step.object.device and step.verb == "add" and step not in refused]
            if not keep_going and any(failure.fatal for failure in failures):
                for step in made:
                    await self._device([Operation("delete", step.object)])
                break
        return failures

    async def _device(self, steps: Sequence[Operation]) -> list[Refusal]:
        try:
            if len(steps) == 1:
                await self.netlink.link(steps[0])
            else:
                await self.netlink.unlink(steps)
        except HostError as error:
            return [(step, str(error)) for step in steps]
        return []

    async def _rules(self, steps: Sequence[Operation]) -> list[Refusal]:
        """All of them or none, of the published ports' table and of the others."""
        published = [step for step in steps if cast(NftObject, step.object).table == PORTS_TABLE]
        others = [step for step in steps if cast(NftObject, step.object).table != PORTS_TABLE]
        refused = await self._transaction(others)
        if refused_ports := await self._transaction(published):
            return refused + refused_ports
        await self._forget_stale(MovedPorts(published))
        return refused

    async def _transaction(self, steps: Sequence[Operation]) -> list[Refusal]:
        """A few elements, as of a lease event, need no nft; tables are replaced with theirs."""
        try:
            if len(steps) <= ELEMENTS_MAX and all(cast(NftObject, step.object).is_element for step in steps):
                reason = await self.netlink.elements(steps) if steps else None
            else:
                reason = None
                await nft.apply(steps)
        except HostError as error:
            reason = str(error)
        return [(step, reason) for step in steps] if reason is not None else []

    async def _forget_stale(self, moved: MovedPorts) -> None:
        """After the ports have moved: a connection that begins now goes where it should."""
        try:
            if moved.by_version():
                await self.netlink.forget_stale(moved)
        except HostError as error:
            log.warning("connections to published UDP ports may be stale", error=str(error))


def _lacks(step: Operation, missing: set[Key | None]) -> bool:
    return step.verb != "delete" and not missing.isdisjoint(step.object.needed)


def _goes(step: Operation) -> bool:
    return step.verb == "delete" and step.object.transient


def _runs(operations: Iterable[Operation]) -> Iterator[tuple[Channel, list[Operation]]]:
    """Operations that go to the kernel together: those of one channel in succession, but each device alone unless it is
    one of many that go, as containers do."""
    for (channel, together), group in groupby(operations, lambda step: (step.object.channel, _goes(step))):
        if channel is Channel.LINK and not together:
            yield from ((channel, [step]) for step in group)
        else:
            yield channel, list(group)
