"""Signs of a different configuration: what rules note, what an engine drops from whom, and silent peers."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_interface, ip_network
from types import SimpleNamespace
from typing import Any

import pytest

from overlayd.backend.host_gw import HOST_GW
from overlayd.backend.udp import UDP
from overlayd.backend.vxlan import VXLAN, VxlanSettings
from overlayd.core.kernel.firewall import Sighting, Sign
from overlayd.core.leases.lease import Lease
from overlayd.core.leases.subnets import SubnetRange
from overlayd.core.node import Node, Underlay
from overlayd.datapath.contract import Counters, Traffic
from overlayd.datapath.settings import UdpSettings
from overlayd.observe.mismatch import MismatchDetector
from support.logs import capture_logs

PUBLIC = IPv4Address("192.0.2.1")
UNDERLAY = Underlay("eth0", 1, 1500, (ip_interface("192.0.2.1/24"),), PUBLIC, None)
OWN = Lease(subnet=ip_network("10.1.1.0/24"), public_ip=PUBLIC)
NODE = Node(UDP, UdpSettings(), OWN, UNDERLAY, (SubnetRange.of(ip_network("10.1.0.0/16")),))
VXLAN_NODE = replace(NODE, spec=VXLAN, section=VxlanSettings())
PEER_IP = IPv4Address("192.0.2.2")
PEER = Lease(subnet=ip_network("10.1.2.0/24"), public_ip=PEER_IP)


class World:
    """A daemon; `senders` are what its engine names at the next polls, `peers` and `drops` what it counts."""

    def __init__(self, *answering: str, node: Node = NODE) -> None:
        self.leases = [PEER]
        self.detector = MismatchDetector(lambda key: key in answering, lambda: self.leases)
        self.senders: list[str | None] = []
        self.peers: dict[str, Traffic] = {}
        self.drops: dict[str, int] = {}
        engine = SimpleNamespace(
            unknown_sender=lambda: self.senders.pop(0) if self.senders else None, counters=self._count
        )
        self.backend: Any = SimpleNamespace(data_path=engine if node is NODE else None, node=node)
        self.now = 1000.0

    def _count(self) -> Counters:
        peers = {key: Traffic(tx_packets=one.tx_packets, rx_packets=one.rx_packets) for key, one in self.peers.items()}
        return Counters(peers=peers, rx_drops=dict(self.drops))

    def run(self, seconds: int, *noted: Sighting) -> None:
        for _ in range(seconds):
            self.now += 1
            self.detector.poll(self.backend, noted, self.now)

    def problems(self) -> list[str]:
        return list(self.detector.problems)


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
    world.run(11)
    assert world.problems() == []


def test_a_flood_from_many_addresses_is_remembered_within_bounds() -> None:
    world = World()
    world.senders = [f"198.51.100.{number % 200}" for number in range(600)]
    world.run(600)
    assert len(world.detector._seen) <= 32


def test_a_peer_that_nothing_comes_from() -> None:
    world = World("probed")
    world.peers = {PEER.key: Traffic(tx_packets=100), "probed": Traffic(), "talks": Traffic(), "idle": Traffic()}
    world.run(6)
    assert world.problems() == [], "nothing was sent since"
    for _ in range(6):
        for key in (PEER.key, "probed", "talks"):
            world.peers[key].tx_packets += 1
        world.peers["talks"].rx_packets += 1
        world.run(1)
    (text,) = world.problems()
    assert text.startswith("10.1.2.0/24: 5 packets were sent there in 5 s and none came back: its host may use another")
    assert "than 8285 (restart flanneld" in text
    world.peers[PEER.key].rx_packets += 1
    world.run(5)
    assert world.problems() == []


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("spoofed_source", "the inner source is not in that peer's subnet: the leases on the two hosts differ, or"),
        ("destination_not_own", "not for this host's subnet: the leases on the two hosts differ; compare overlayctl"),
    ],
)
def test_drops_that_differing_leases_cause(reason: str, said: str) -> None:
    world = World()
    world.drops = {reason: 100, "too_short": 100}
    world.run(6)
    assert world.problems() == [], "as many as before this daemon looked"
    world.drops = {reason: 107, "too_short": 200}
    world.run(5)
    (text,) = world.problems()
    assert text.startswith("7 packets were dropped in 5 s: from a peer, but ")
    assert said in text
    world.run(5)
    assert world.problems() == []


ELSEWHERE = ip_address("10.1.3.7")
NOTED = [
    (
        Sighting(Sign.OTHER_PORT, PEER_IP, 4789),
        "10.1.2.0/24: 192.0.2.2 sends VXLAN to UDP port 4789, this host uses 8472: use one on all hosts (flanneld",
    ),
    (
        Sighting(Sign.OTHER_VNI, PEER_IP),
        "10.1.2.0/24: 192.0.2.2 sends this host VXLAN with another VNI than 1: use one on all hosts (flanneld",
    ),
    (Sighting(Sign.OTHER_PORT, ip_address("192.0.2.9"), 4789), "192.0.2.9 sends VXLAN to UDP port 4789"),
    (Sighting(Sign.OTHER_MAC, PEER_IP), "10.1.2.0/24: 192.0.2.2 sends this host VXLAN for another MAC than its VTEP's"),
    (
        Sighting(Sign.REFUSED, PEER_IP),
        '10.1.2.0/24: 192.0.2.2 answers datagrams to UDP port 8472 with "port unreachable": nothing',
    ),
    (Sighting(Sign.UNKNOWN_PEER, ip_address("192.0.2.9")), "packets from 192.0.2.9 are dropped: no lease has that"),
    (
        Sighting(Sign.SOURCE_OUTSIDE, ip_address("192.0.2.2"), ip_address("10.1.1.7")),
        "packets from 192.0.2.2 to 10.1.1.7 are dropped: the source is outside the network 10.1.0.0/16",
    ),
    (
        Sighting(Sign.SOURCE_OWN, ip_address("10.1.1.9"), ip_address("10.1.1.7")),
        "packets from 10.1.1.9 to 10.1.1.7 are dropped: they come from another host, but the source is in this host's"
        " own subnet 10.1.1.0/24",
    ),
    (
        Sighting(Sign.ASTRAY, ip_address("10.1.2.9"), ELSEWHERE),
        "packets from 10.1.2.9 to 10.1.3.7 are dropped: the destination is outside this host's subnet 10.1.1.0/24",
    ),
]


@pytest.mark.parametrize(("noted", "said"), NOTED)
def test_what_rules_have_noted(noted: Sighting, said: str) -> None:
    world = World(node=VXLAN_NODE)
    world.run(2, noted)
    assert world.problems() == [], "a stray packet"
    world.run(1, noted)
    (text,) = world.problems()
    assert text.startswith(said)
    world.run(11)
    assert world.problems() == []


def test_a_stranger_refuses_nothing() -> None:
    """Anybody can send such an ICMP error."""
    world = World(node=VXLAN_NODE)
    world.run(5, Sighting(Sign.REFUSED, ip_address("192.0.2.9")))
    assert world.problems() == []


def test_many_containers_are_one_problem() -> None:
    world = World(node=VXLAN_NODE)
    world.run(3, *(Sighting(Sign.ASTRAY, ip_address(f"10.1.2.{number}"), ELSEWHERE) for number in range(1, 10)))
    (text,) = world.problems()
    assert "10.1.2.3 to 10.1.3.7 and 6 more are dropped" in text


@pytest.mark.parametrize("sign", [Sign.UNKNOWN_PEER, Sign.OTHER_PORT, Sign.REFUSED])
def test_a_peer_whose_lease_shows_it_has_one_problem(sign: Sign) -> None:
    world = World(node=VXLAN_NODE)
    world.leases = [replace(PEER, port=4789)]
    world.run(3, Sighting(sign, PEER_IP, 4789))
    assert world.problems() == []


def test_what_was_seen_in_another_mode_is_forgotten() -> None:
    """Above all a refused port: host-gw has none."""
    world = World(node=VXLAN_NODE)
    refused = Sighting(Sign.REFUSED, PEER_IP)
    world.run(5, refused)
    assert world.problems() != []
    world.backend = SimpleNamespace(data_path=None, node=replace(NODE, spec=HOST_GW, section=None))
    world.run(1, refused)
    assert world.problems() == []
    world.run(5, refused)  # the former table is still there


def test_each_is_logged_when_it_begins_and_when_it_ends() -> None:
    world = World(node=VXLAN_NODE)
    with capture_logs() as logs:
        world.run(20, NOTED[0][0])
        world.run(40)
    assert [(one["level"], one["msg"]) for one in logs] == [
        ("warning", "configuration mismatch"),
        ("info", "configuration mismatch ended"),
    ]
