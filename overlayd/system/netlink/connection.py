"""The connection that the floors above use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar, cast

from overlayd.core.address import Address
from overlayd.core.kernel.conntrack import MovedPorts
from overlayd.core.kernel.diff import Operation
from overlayd.core.kernel.firewall import Sighting
from overlayd.core.kernel.kinds import KernelState, Link
from overlayd.core.underlay import HostInterface
from overlayd.system.errors import HostError
from overlayd.system.netlink.batches import BATCH, BatchWriter, Refusal
from overlayd.system.netlink.conntrack import ConntrackReader, ConntrackWriter
from overlayd.system.netlink.elements import ElementWriter
from overlayd.system.netlink.links import LinkWriter
from overlayd.system.netlink.reader import Reader
from overlayd.system.netlink.sockets import SocketReader
from overlayd.wire.netlink.link import LinkEntry
from overlayd.wire.netlink.sock_diag import SocketEntry

P = ParamSpec("P")
T = TypeVar("T")


class Netlink:
    """A connection to the kernel. Use it as an asynchronous context manager.

    Two threads of our own speak netlink, each a job at a time: one writes, one reads. Neither the event loop, and with
    it the packets of udp mode, nor a lease event ever waits for a dump.
    """

    def __init__(self, batch: int = BATCH) -> None:
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="netlink")
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="netlink-read")
        self._batch = batch
        self._reader: Reader
        self._links: LinkWriter
        self._batches: BatchWriter
        self._elements: ElementWriter
        self._sockets: SocketReader
        self._flows: ConntrackReader
        self._conntrack: ConntrackWriter
        self._to_close: list[Callable[[], None]] = []

    async def __aenter__(self) -> Netlink:
        await self._do(self._reading, self._open_reader)
        await self._do(self._writing, self._open_writers)
        return self

    async def __aexit__(self, *_: object) -> None:
        for close in self._to_close:
            await self._do(self._writing, close)
        self._reading.shutdown()
        self._writing.shutdown()

    async def _do(self, thread: ThreadPoolExecutor, job: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Run a job on a netlink thread. Raises HostError when the kernel or the socket refuses it."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(thread, partial(job, *arguments, **named))
        except OSError as error:
            raise HostError(f"netlink: {error}; try again, and see the kernel's log (dmesg)") from error

    def _open_reader(self) -> None:
        self._reader, self._sockets, self._flows = Reader(), SocketReader(), ConntrackReader()
        self._to_close += [self._reader.close, self._sockets.close, self._flows.close]

    def _open_writers(self) -> None:
        self._links, self._batches, self._elements = LinkWriter(), BatchWriter(self._batch), ElementWriter()
        self._conntrack = ConntrackWriter()
        self._to_close += [self._links.close, self._batches.close, self._elements.close, self._conntrack.close]

    async def interfaces(self) -> list[HostInterface]:
        """Every interface of the host with its addresses, in the kernel's order."""
        return await self._do(self._reading, self._reader.interfaces)

    async def links(self) -> list[LinkEntry]:
        """Every device."""
        return await self._do(self._reading, self._reader.links)

    async def privileged(self) -> bool:
        """Whether this process may change the network of this namespace (CAP_NET_ADMIN)."""
        return await self._do(self._writing, self._links.privileged)

    async def egress(self, destination: str) -> int | None:
        """The index of the interface through which the kernel would send to this address; None where it would not."""
        return await self._do(self._reading, self._reader.egress, destination)

    async def read(self) -> KernelState:
        """Every device of overlayd's, and every object of an rtnetlink kind."""
        return await self._do(self._reading, self._reader.read)

    async def read_foreign(self) -> KernelState:
        """Others' VXLAN devices with what hangs on them, and others' routes of the main table."""
        return await self._do(self._reading, self._reader.read, foreign=True)

    async def paths(self) -> dict[Address, int]:
        """What the kernel has learnt of paths: their MTU in bytes, by destination."""
        return await self._do(self._reading, self._reader.paths)

    async def sightings(self) -> list[Sighting]:
        """What the rules of our table have noted of senders within the last seconds. Raises HostError."""
        return await self._do(self._reading, self._reader.sightings)

    async def link(self, step: Operation) -> None:
        """Do one operation on a device. Raises HostError."""
        await self._do(self._writing, self._links.apply, step)

    async def unlink(self, steps: Sequence[Operation]) -> None:
        """Do deletions of devices, together. Raises HostError."""
        links = [cast(Link, step.object) for step in steps]
        await self._do(self._writing, self._links.delete_together, links)

    async def batch(self, operations: Sequence[Operation]) -> list[Refusal]:
        """Do operations on objects of rtnetlink kinds, in order, packed many to a send.

        Gives back those that the kernel refused, each with the reason; the others are done.
        """
        return await self._do(self._writing, self._batches.apply, operations)

    @property
    def elements_port(self) -> int:
        """The netlink port from which set elements are changed."""
        return self._elements.port

    async def elements(self, operations: Sequence[Operation]) -> str | None:
        """Do operations on set elements in one transaction; the reason where it was refused. Raises HostError."""
        return await self._do(self._writing, self._elements.apply, operations)

    async def listening(self, protocol: int) -> list[SocketEntry]:
        """The sockets that take what comes to a port of this protocol, by its IANA number. Raises HostError."""
        return await self._do(self._reading, self._sockets.listening, protocol)

    async def forget_stale(self, moved: MovedPorts) -> int:
        """Have the kernel forget the connections that changed ports have left stale; how many. Raises HostError."""
        stale = await self._do(self._reading, self._flows.stale, moved, self._reader.own_addresses)
        if stale:
            await self._do(self._writing, self._conntrack.forget, stale)
        return len(stale)
