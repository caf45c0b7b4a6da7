"""A kernel in memory, for a Reconciler."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from overlayd.core.kernel.diff import Operation, apply_to
from overlayd.core.kernel.kinds import KernelState
from overlayd.system.kernel import Failure, Reading


class FakeKernel:
    """In memory; a reading waits until it may go on."""

    def __init__(self) -> None:
        self.state: KernelState = {}
        self.lock = asyncio.Lock()
        self.may_read = asyncio.Event()
        self.may_read.set()

    async def read(self, *, others: bool = False) -> Reading:
        await self.may_read.wait()
        return Reading(dict(self.state))

    async def apply(self, operations: Sequence[Operation], *, keep_going: bool = False) -> list[Failure]:
        self.state = apply_to(self.state, list(operations))
        return []

    def is_own(self, port: int) -> bool:
        return True
