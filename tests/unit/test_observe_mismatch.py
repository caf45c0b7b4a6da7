"""Signs of a different configuration: what an engine drops from whom, and peers that nothing comes from."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from overlayd.datapath.contract import Counters, Traffic
from overlayd.observe.mismatch import MismatchDetector

SECTION: Any = SimpleNamespace(port=8285)


class World:
    """A daemon in udp mode; `senders` are what the engine names at the next polls, `peers` what it counts."""

    def __init__(self, *answering: str) -> None:
        self.detector = MismatchDetector(lambda key: key in answering)
        self.senders: list[str | None] = []
        self.peers: dict[str, Traffic] = {}
        data_path = SimpleNamespace(
            unknown_sender=lambda: self.senders.pop(0) if self.senders else None,
            counters=lambda: Counters(peers={key: Traffic(**vars_of(one)) for key, one in self.peers.items()}),
        )
        self.backend: Any = SimpleNamespace(data_path=data_path)
        self.now = 1000.0

    def run(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now += 1
            self.detector.poll(self.backend, self.now)

    def problems(self) -> list[str]:
        return [*self.detector.problems(), *(f"{key}: {text}" for key, text in self.detector.silent_peers(SECTION))]


def vars_of(one: Traffic) -> dict[str, int]:
    return {"tx_packets": one.tx_packets, "rx_packets": one.rx_packets}


def test_a_sender_without_a_lease_is_named_while_it_keeps_sending() -> None:
    world = World()
    world.senders = ["192.0.2.9"] * 2
    world.run(2)
    assert world.problems() == [], "stray datagrams are no sign"
    world.senders = ["192.0.2.9", "192.0.2.8"] * 3
    world.run(6)
    (text,) = world.problems()
    assert text.startswith("packets from 192.0.2.8, 192.0.2.9 are dropped: no lease has that public IP; add the host")
    assert "-public-ip" in text
    world.run(31)
    assert world.problems() == []


def test_a_flood_from_many_addresses_is_remembered_within_bounds() -> None:
    world = World()
    world.senders = [f"198.51.100.{number % 200}" for number in range(600)]
    world.run(600)
    assert len(world.detector._senders) <= 8


def test_a_peer_that_nothing_comes_from() -> None:
    world = World("probed")
    world.peers = {"silent": Traffic(tx_packets=100), "probed": Traffic(), "talks": Traffic(), "idle": Traffic()}
    world.run(6)
    assert world.problems() == [], "nothing was sent since"
    for _ in range(6):
        for key in ("silent", "probed", "talks"):
            world.peers[key].tx_packets += 1
        world.peers["talks"].rx_packets += 1
        world.run(1)
    (text,) = world.problems()
    assert text.startswith("silent: 5 packets were sent there in 5 s and none came back: its host may use another port")
    assert "than 8285 (restart flanneld" in text
    world.peers["silent"].rx_packets += 1
    world.run(5)
    assert world.problems() == []
