"""Every datagram that the cable corrupted is accounted for, and none arrives with a bit that was not sent.

    h1c1 -- br0 [h1] eth0 ==== relay: flips bits ==== eth0 [h2] br0 -- h2c1

A flip ends in the count of the outer checksum on h2, in a drop of h2's engine, in the IPv4 header check of h2's kernel
or in h2c1's own count of bad datagrams. Runs of one size go through, which the native engine joins: what it joined
wrongly would be given a new, right checksum, and would arrive.
"""

from __future__ import annotations

import random
import socket
import struct
from collections import Counter
from collections.abc import Iterator

import pytest

from overlayd.lab import Host
from support.impaired import Wire, impaired_hosts
from support.streams import kernel_counters
from support.waiting import eventually
from support.wire import ENGINES, FAMILIES, drops, inet

_SOL_UDP, _UDP_SEGMENT, _SO_RCVBUFFORCE = 17, 103, 33
RUNS, LENGTH = 40, 40
"""Superpackets, and datagrams in each."""


@pytest.fixture(scope="module", params=ENGINES)
def path(request: pytest.FixtureRequest) -> Iterator[tuple[Host, Host, Wire]]:
    settings = {"udp": {"engine": request.param}}
    with impaired_hosts(mode="udp", family="dual", underlay="dual", settings=settings) as (a, b, wire):
        yield a, b, wire


def content(number: int, size: int) -> bytes:
    """What the datagram of that number holds."""
    return struct.pack("!I", number) + random.Random(number).randbytes(size - 4)


@pytest.mark.parametrize("ill", ["corrupt", "forge", "unsum"])
@pytest.mark.parametrize("family", FAMILIES)
def test_no_flipped_bit_arrives(path: tuple[Host, Host, Wire], family: int, ill: str) -> None:
    a, b, wire = path
    inner, outer = a.container(0), b.container(0)
    address = outer.address(family)
    suffix = "6" if family == 6 else ""
    before = {node: kernel_counters(node) for node in (b, outer)}
    dropped, harmed = drops(b), Counter[str]()
    received: list[bytes] = []
    with (
        inner.socket(inet(address), socket.SOCK_DGRAM) as out,
        outer.socket(inet(address), socket.SOCK_DGRAM) as there,
    ):
        there.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 64 << 20)
        there.bind((str(address), 0))
        there.setblocking(False)
        harmed += wire.harm(**{ill: 0.1})
        harmed.clear()
        for run in range(RUNS):
            size = random.Random(run).choice((5, 64, 301, 1200))
            whole = b"".join(content(run * LENGTH + index, size) for index in range(LENGTH))
            control = [(_SOL_UDP, _UDP_SEGMENT, struct.pack("=H", size))]
            out.sendmsg([whole], control, 0, there.getsockname())

            def crossed(run: int = run) -> bool:
                harmed.update(wire.harm(**{ill: 0.1}))
                return harmed["frames"] >= (run + 1) * LENGTH

            eventually(crossed, "the burst on the wire", timeout=5)  # not faster than the readable engine reads
        harmed += wire.harm()

        def counted() -> Counter[str]:
            """Where the rest is."""
            while True:
                try:
                    received.append(there.recv(65536))
                except BlockingIOError:
                    break
            host, container = kernel_counters(b) - before[b], kernel_counters(outer) - before[outer]
            return Counter({
                "received": len(received),
                "outer checksum": host[f"Udp{suffix}InCsumErrors"],
                "engine": (drops(b) - dropped).total(),
                "inner header": host["IpExtInCsumErrors"],
                "inner datagram": container[f"Udp{suffix}InErrors"],
            })  # fmt: skip

        # IPv6 has no checksum over next header, which then names a protocol that nobody speaks.
        unseen = harmed[f"{ill} header"] if family == 6 else 0
        found = eventually(
            lambda: now if (now := counted()).total() >= RUNS * LENGTH - unseen else None, "the rest", timeout=5
        )

    assert found.total() <= RUNS * LENGTH, (found, harmed)
    assert harmed[ill] > 100
    if ill == "corrupt":
        assert +found == {"received": RUNS * LENGTH - harmed[ill], "outer checksum": harmed[ill]}
    else:
        # An IPv6 address may have become that of h2 itself, whose kernel then finds the inner checksum wrong.
        assert found["outer checksum"] <= (0 if family == 4 else harmed[f"{ill} header"])
        assert found["inner datagram"] >= harmed[f"{ill} body"] > 0, (found, harmed)
        if family == 4:
            assert found["engine"] + found["inner header"] == harmed[f"{ill} header"], (found, harmed)
    numbers = [struct.unpack_from("!I", one)[0] for one in received]
    assert len(set(numbers)) == len(numbers)
    assert [number for number, one in zip(numbers, received, strict=True) if one != content(number, len(one))] == []
