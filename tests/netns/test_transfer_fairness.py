"""A flood from one peer holds up neither another peer nor the other direction.

    h2c1 ===flood===> h1c1      h3c1 <---few---> h1c1

Counted, not timed: the few get through, all of them where they share no queue with the flood, while the flood goes on.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address

import pytest

from overlayd.core.address import Address
from overlayd.lab import Container, Host, hosts
from support.waiting import eventually
from support.wire import ENGINES, FAMILIES, inet

Trio = tuple[Host, Host, Host]

FEW = 100
TURNS = 5
"""Questions and answers, both of which may have to be repeated."""
FLOOD = """
import signal, socket, struct, sys
signal.alarm(60)
out = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
out.connect((sys.argv[1], int(sys.argv[2])))
burst, size = bytes(1200 * 45), [(17, 103, struct.pack("=H", 1200))]  # SOL_UDP, UDP_SEGMENT
while True:
    try:
        out.sendmsg([burst], size)
    except OSError:  # the queue is full: that is the point
        pass
"""


@pytest.fixture(scope="module", params=ENGINES)
def trio(request: pytest.FixtureRequest) -> Iterator[Trio]:
    with hosts(3, mode="udp", family="dual", underlay="dual", settings={"udp": {"engine": request.param}}) as (a, b, c):
        yield a, b, c


def carried(host: Host, peer: Host, direction: str) -> int:
    """Packets that the host has carried from ("rx") or to ("tx") the peer."""
    peers = {one["name"]: one["traffic"] for one in host.status()["peers"]}
    count: int = peers[peer.name][f"{direction}_packets"]
    return count


@contextmanager
def flood(source: Container, sink: Container, family: int, seen: Callable[[], int]) -> Iterator[None]:
    """As much as the source can send, as long as the block; `seen` counts it, far ahead of FEW at the end."""
    address = sink.address(family)
    with sink.socket(inet(address), socket.SOCK_DGRAM) as hole:
        hole.bind((str(address), 0))
        before = seen()
        child = source.popen(sys.executable, "-c", FLOOD, str(address), str(hole.getsockname()[1]))
        try:
            eventually(lambda: seen() > before + 1000, what="the flood")
            begun = seen()
            yield
            assert child.poll() is None, "the flood went on to the end"
            eventually(lambda: seen() > begun + 10 * FEW, what="more of the flood than of the few")
        finally:
            child.kill()
            child.wait()


def one_by_one(sender: Container, receiver: Container, address: Address) -> int:
    """How many of FEW datagrams arrive, each sent when the one before is there."""
    with (
        sender.socket(inet(address), socket.SOCK_DGRAM) as out,
        receiver.socket(inet(address), socket.SOCK_DGRAM) as there,
    ):
        there.bind((str(address), 0))
        there.settimeout(10)
        for number in range(FEW):
            out.sendto(b"%d" % number, there.getsockname())
            try:
                assert there.recv(100) == b"%d" % number
            except TimeoutError:
                return number
    return FEW


@pytest.mark.parametrize("family", FAMILIES)
def test_outbound_goes_on_under_an_inbound_flood(trio: Trio, family: int) -> None:
    a, b, c = trio
    inner, other = a.container(0), c.container(0)
    with flood(b.container(0), inner, family, lambda: carried(a, b, "rx")):
        assert one_by_one(inner, other, other.address(family)) == FEW


@pytest.mark.parametrize("family", FAMILIES)
def test_inbound_goes_on_under_an_outbound_flood(trio: Trio, family: int) -> None:
    a, b, c = trio
    inner, other = a.container(0), c.container(0)
    with flood(inner, b.container(0), family, lambda: carried(a, b, "tx")):
        assert one_by_one(other, inner, inner.address(family)) == FEW


@pytest.mark.parametrize("direction", ["inbound", "outbound"])
@pytest.mark.parametrize("family", FAMILIES)
def test_another_peer_is_served_under_a_flood(trio: Trio, family: int, direction: str) -> None:
    """All packets wait in one queue, the socket's or the TUN's, and most are dropped: whoever repeats gets through."""
    a, b, c = trio
    inner, flooder, other = (host.container(0) for host in trio)
    address = inner.address(family)
    source, sink, way = (flooder, inner, "rx") if direction == "inbound" else (inner, flooder, "tx")
    with flood(source, sink, family, lambda: carried(a, b, way)), served(inner, address) as service:
        assert [asked(other, service, number) for number in range(TURNS)] == [True] * TURNS
        assert carried(a, c, "rx") >= TURNS


@contextmanager
def slow_underlay(host: Host) -> Iterator[None]:
    """It takes 100 Mbit/s and keeps what waits, so that packets wait in the socket, too, and then nowhere."""
    root = ("dev", "eth0", "root")
    host.run("tc", "qdisc", "replace", *root, "tbf", "rate", "100mbit", "burst", "64kb", "limit", "256mb")
    try:
        yield
    finally:
        host.run("tc", "qdisc", "delete", *root)


@pytest.mark.parametrize("family", FAMILIES)
def test_inbound_goes_on_while_the_send_buffer_is_full(trio: Trio, family: int) -> None:
    """flannel.md 7: its socket blocks, and the daemon with it."""
    a, b, c = trio
    inner, other = a.container(0), c.container(0)

    def refused() -> int:
        count: int = a.status()["drops"]["tx"].get("send_buffer_full", 0)
        return count

    with slow_underlay(a), flood(inner, b.container(0), family, refused):
        assert one_by_one(other, inner, inner.address(family)) == FEW


@contextmanager
def served(container: Container, address: Address) -> Iterator[tuple[str, int]]:
    """Where the container sends back every datagram, as long as the block."""
    with container.socket(inet(address), socket.SOCK_DGRAM) as there:
        there.bind((str(address), 0))
        there.settimeout(0.1)
        done = threading.Event()

        def answer() -> None:
            while not done.is_set():
                with suppress(TimeoutError):
                    there.sendto(*there.recvfrom(100))

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield there.getsockname()[:2]
        finally:
            done.set()
            thread.join()


def asked(container: Container, service: tuple[str, int], number: int) -> bool:
    """Whether the service answers one of the questions that are sent until it does."""
    with container.socket(inet(ip_address(service[0])), socket.SOCK_DGRAM) as here:
        here.connect(service)
        here.settimeout(0.02)  # seconds before the question is repeated, and no longer ones: most are lost
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            here.send(b"%d" % number)
            with suppress(TimeoutError):
                return here.recv(100) == b"%d" % number
    return False
