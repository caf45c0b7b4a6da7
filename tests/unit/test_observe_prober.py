"""Two probers and strangers, on loopback addresses: real sockets, no privileges."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from ipaddress import IPv4Address, IPv4Network, ip_interface

import pytest

from overlayd.backend.udp import UDP
from overlayd.core.leases.lease import Lease
from overlayd.core.leases.subnets import SubnetRange
from overlayd.core.leases.table import LeaseEvent
from overlayd.core.node import Node, Underlay
from overlayd.core.settings.model import ProbeSettings
from overlayd.datapath.settings import UdpSettings
from overlayd.observe import probe_sockets as module
from overlayd.observe.prober import Prober
from overlayd.wire.probe import LENGTH, NONCE, Probe, ProbeKind, Sender, decode
from support.waiting import eventually_async

US = Sender(1, "0.1.0", 1472, True)


def lease(number: int, port: int | None) -> Lease:
    subnet = IPv4Network(f"10.1.{number}.0/24")
    return Lease(subnet=subnet, public_ip=IPv4Address(f"127.0.1.{number}"), probe_port=port)


def node(number: int, port: int) -> Node:
    own = IPv4Address(f"127.0.1.{number}")
    underlay = Underlay("lo", 1, 1500, (ip_interface(f"{own}/8"),), own, None)
    return Node(UDP, UdpSettings(), lease(number, port), underlay, (SubnetRange.of(IPv4Network("10.1.0.0/16")),))


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.1.1", 0))
        return int(sock.getsockname()[1])


class Pair:
    def __init__(self) -> None:
        self.port = free_port()
        settings = ProbeSettings(port=str(self.port), interval="1s")
        self.a, self.b = (Prober(settings, lambda: US, {1: "udp"}) for _ in range(2))
        self.a.replace_peers(node(1, self.port), [lease(2, self.port)])
        self.b.replace_peers(node(2, self.port), [lease(1, self.port)])
        self.tasks = [asyncio.create_task(one.run()) for one in (self.a, self.b)]

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.a.close()
        self.b.close()


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    one = Pair()
    yield one
    await one.close()


def state(prober: Prober, number: int) -> str:
    (found,) = prober.describe(lease(number, 1).key)
    return str(found["state"])


def question(length: int = LENGTH) -> bytes:
    return Probe(ProbeKind.QUESTION, US, bytes(NONCE), length).encode()


async def ask(source: tuple[str, int], target: tuple[str, int], *payloads: bytes) -> list[bytes]:
    """What comes back to a socket of ours, once everything sent has been taken."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.bind(source)
        for payload in payloads:
            sock.sendto(payload, target)
        found = []
        while True:
            try:
                async with asyncio.timeout(0.2):
                    found.append(await asyncio.get_running_loop().sock_recv(sock, 65536))
            except TimeoutError:
                return found


async def test_two_nodes_find_each_other(pair: Pair) -> None:
    await eventually_async(lambda: state(pair.a, 2) == state(pair.b, 1) == "reachable")
    await eventually_async(lambda: pair.a.describe("10.1.2.0-24")[0]["path_mtu"] == 1500)
    (seen,) = pair.a.describe("10.1.2.0-24")
    assert (seen["version"], seen["mode"], seen["overlay_mtu"]) == ("0.1.0", "udp", 1472)
    assert seen["rtt"]["min"] <= seen["rtt"]["avg"]
    assert (seen["problem"], seen["notes"], list(pair.a.problems())) == (None, [], [])
    assert sum(pair.a.counters.histogram) == pair.a.counters.events["answers"] > 0
    assert not pair.a.counters.drops


async def test_a_node_that_stops_is_missed_with_the_kernels_word_for_it(pair: Pair) -> None:
    await eventually_async(lambda: state(pair.a, 2) == "reachable")
    pair.tasks[1].cancel()
    pair.b.close()
    await eventually_async(lambda: state(pair.a, 2) == "unreachable")
    ((key, problem),) = pair.a.problems()
    assert key == "10.1.2.0-24"
    assert problem.startswith("127.0.1.2 has not answered for ")
    assert "nothing receives probes there" in problem
    assert pair.a.silent()


async def test_silence_says_nothing_while_a_peer_is_never_probed(pair: Pair) -> None:
    """Packets may go to a flannel node alone, and only one way."""
    flannel = lease(3, None)
    pair.tasks[1].cancel()
    pair.b.close()
    await eventually_async(lambda: pair.a.silent())
    pair.a.apply([LeaseEvent(None, flannel)])
    assert not pair.a.silent()
    pair.a.apply([LeaseEvent(flannel, None)])
    assert pair.a.silent()
    pair.a.replace_peers(node(1, pair.port), [lease(2, pair.port), flannel])
    assert not pair.a.silent()


async def test_a_stranger_gets_no_answer(pair: Pair) -> None:
    await eventually_async(lambda: state(pair.a, 2) == "reachable")
    assert await ask(("127.0.1.66", pair.port), ("127.0.1.1", pair.port), question(), question(1400)) == []
    assert pair.a.counters.drops == {"unknown_peer": 2}


async def test_nor_does_a_peers_other_port_or_what_is_no_question(pair: Pair) -> None:
    await eventually_async(lambda: state(pair.a, 2) == "reachable")
    pair.b.close()
    pair.tasks[1].cancel()
    here, there = ("127.0.1.2", pair.port), ("127.0.1.1", pair.port)
    assert await ask(("127.0.1.2", 0), there, question()) == []
    assert await ask(("127.0.1.2", 0), there, b"") == []  # as a peer sends it that looks for ICMP errors
    assert pair.a.counters.drops == {"other_port": 1}
    answer = Probe(ProbeKind.ANSWER, US, bytes(NONCE), LENGTH).encode()
    assert await ask(here, there, b"", question()[:-1], question() + b"\0", answer) == []
    assert pair.a.counters.drops["malformed"] == 3
    assert pair.a.counters.drops["unsolicited"] == 1


async def test_an_answer_is_no_longer_than_the_question_and_there_are_not_too_many(pair: Pair) -> None:
    await eventually_async(lambda: state(pair.a, 2) == "reachable")
    pair.b.close()
    pair.tasks[1].cancel()
    here, there = ("127.0.1.2", pair.port), ("127.0.1.1", pair.port)
    answers = await ask(here, there, *[question(LENGTH + n) for n in range(100)])
    own = [found for one in answers if (found := decode(one)) and found.kind is ProbeKind.ANSWER]
    assert 0 < len(own) < 20
    assert {len(one) for one in answers} == {LENGTH}
    assert pair.a.counters.drops["limited"] >= 80


async def test_a_node_that_announces_no_port_is_never_asked(pair: Pair) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as flannel:
        flannel.bind(("127.0.1.3", pair.port))
        pair.a.replace_peers(node(1, pair.port), [lease(2, pair.port), lease(3, None)])
        await eventually_async(lambda: state(pair.a, 2) == "reachable")
        assert pair.a.describe("10.1.3.0-24") == []
        with pytest.raises(BlockingIOError):
            flannel.recv(100)
        pair.a.apply([LeaseEvent(lease(3, None), lease(3, pair.port))])
        await asyncio.wait_for(asyncio.get_running_loop().sock_recv(flannel, 100), 5)
        pair.a.apply([LeaseEvent(lease(3, pair.port), None)])
        assert pair.a.describe("10.1.3.0-24") == []


async def test_a_port_that_is_taken_is_said_and_tried_again() -> None:
    port = free_port()
    prober = Prober(ProbeSettings(port=str(port), interval="1s"), lambda: US, {1: "udp"})
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.1.1", port))
        prober.replace_peers(node(1, port), [lease(2, port)])
        assert prober.problem is not None
        assert f"UDP 127.0.1.1 port {port}: Address already in use; set probe.port" in prober.problem
    task = asyncio.create_task(prober.run())
    await eventually_async(lambda: prober.problem is None)
    task.cancel()
    prober.close()


async def test_without_a_port_nothing_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "open_probe_socket", lambda *_: pytest.fail("a socket was opened"))
    prober = Prober(ProbeSettings(port="0"), lambda: US, {1: "udp"})
    prober.replace_peers(node(1, 8286), [lease(2, 8286)])
    prober.apply([LeaseEvent(None, lease(3, 8286))])
    assert list(prober.targets()) == []
    prober.close()
