"""How long until the kernel has the vxlan state of thousands of peers, and until it is gone again."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, ip_interface

from rounds import interleave, show

from overlayd.core.kernel.diff import Operation, diff
from overlayd.core.kernel.kinds import (
    FdbEntry,
    KernelObject,
    KernelState,
    LinkAddress,
    Neighbour,
    Route,
    VxlanLink,
    state_of,
)
from overlayd.lab import hosts
from overlayd.lab.namespace import within
from overlayd.system.kernel import Kernel
from overlayd.system.netlink import Netlink

PEERS = 5_000
DEVICE = "ovl.1"
BASE = int(IPv4Address("100.64.0.0"))  # beside the lab's own addresses


def state(peers: int) -> KernelState:
    """A device, and neighbour, FDB entry and route for each peer."""
    local = IPv4Address("192.0.2.1")
    link = VxlanLink(DEVICE, 1450, vni=1, port=8472, local=local, underlay=underlay(), mac="02:00:00:00:00:01")
    objects: list[KernelObject] = [link, LinkAddress(DEVICE, ip_interface("100.64.0.0/32"))]
    for index in range(1, peers + 1):
        subnet = IPv4Network((BASE + (index << 8), 24))
        mac = "02:01:" + (index).to_bytes(4, "big").hex(":")
        base = subnet.network_address
        objects += [
            Neighbour(DEVICE, base, mac),
            FdbEntry(DEVICE, mac, IPv4Address((198 << 24) + (18 << 16) + index)),
            Route(subnet, DEVICE, base, onlink=True, own_link=True),
        ]
    return state_of(objects)


def underlay() -> int:
    """The interface index of the underlay, in whose namespace this runs."""
    return socket.if_nametoindex("eth0")


async def timed(batch: int) -> tuple[float, float, float]:
    """Seconds to add everything, to read it all back, and to remove it."""
    async with Netlink(batch) as connection:
        kernel = Kernel(connection)
        wanted = state(PEERS)
        first, later = _split(diff({}, wanted))
        assert not await kernel.apply(first)
        start = time.perf_counter()
        refused = await kernel.apply(later)
        assert not refused, refused[0]
        added = time.perf_counter()
        actual = await connection.read()
        read = time.perf_counter()
        assert not diff(actual, wanted), "what was read back is not what was wanted"
        peers = {key: thing for key, thing in actual.items() if thing.parent is not None and key[0] != "address"}
        begin = time.perf_counter()
        assert not await kernel.apply(diff(peers, {}))
        end = time.perf_counter()
        await kernel.apply(diff({key: actual[key] for key in actual if key[0] == "link"}, {}))
    return added - start, read - added, end - begin


def _split(operations: Sequence[Operation]) -> tuple[list[Operation], list[Operation]]:
    return list(operations[:2]), list(operations[2:])


if __name__ == "__main__":
    with hosts(2, mode="none", containers=0) as (one, _):
        results: dict[int, list[tuple[float, float, float]]] = {1: [], 150: []}

        def run(batch: int) -> float:
            """Seconds to add everything; the other figures are kept."""
            figures = within(one.namespace, lambda: asyncio.run(timed(batch)))
            results[batch].append(figures)
            return figures[0]

        add = interleave({"150 messages to a send": lambda: run(150), "one message to a send": lambda: run(1)})
    show(f"Adding {PEERS:,} peers ({3 * PEERS:,} messages)", "s", add, digits=3)
    show(
        "and with 150 to a send",
        "s",
        {
            "adding": [figures[0] for figures in results[150][1:]],
            "reading all of it back": [figures[1] for figures in results[150][1:]],
            "removing": [figures[2] for figures in results[150][1:]],
        },
        digits=3,
    )
