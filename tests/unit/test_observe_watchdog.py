"""When the service manager is told that all is well, and when it is left to think otherwise."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_interface
from types import SimpleNamespace
from typing import cast

import pytest

from overlayd.backend.base import Backend
from overlayd.backend.host_gw import HostGwBackend
from overlayd.backend.udp import UDP
from overlayd.backend.udp_data_path import UdpDataPath
from overlayd.core.leases.lease import Lease
from overlayd.core.leases.subnets import SubnetRange
from overlayd.core.node import Node, Underlay
from overlayd.datapath.contract import Progress
from overlayd.datapath.settings import UdpSettings
from overlayd.datapath.stall import StallDetector
from overlayd.observe.watchdog import Watchdog
from overlayd.system.service_manager import ServiceManager

NOTHING: frozenset[str] = frozenset()
OUT, IN = frozenset({"outbound"}), frozenset({"inbound"})


class Data:
    """A backend's data path, as far as the watchdog reads it."""

    def __init__(self) -> None:
        self.progress = Progress()
        self.waits = NOTHING

    def waiting(self) -> frozenset[str]:
        return self.waits


class Manager:
    """Counts notifications."""

    watchdog = 10.0

    def __init__(self) -> None:
        self.notified = 0

    def alive(self) -> None:
        self.notified += 1

    def status(self, text: str) -> None:
        pass


def watched(backend: object) -> tuple[Manager, Watchdog]:
    manager = Manager()
    return manager, Watchdog(cast(ServiceManager, manager), lambda: cast(Backend, backend), lambda: "")


def test_packets_that_wait_and_move_are_well() -> None:
    data = Data()
    manager, watchdog = watched(SimpleNamespace(data_path=data))
    data.waits = OUT
    for now in range(4):
        watchdog.check(float(now))
        data.progress.tx_reads += 1
    assert manager.notified == 4


def test_packets_that_wait_and_do_not_move() -> None:
    data = Data()
    manager, watchdog = watched(SimpleNamespace(data_path=data))
    notified = []
    for now, (waits, moved) in enumerate(((OUT, ""), (OUT, "rx"), (OUT | IN, "tx"), (OUT | IN, "tx"), (IN, ""))):
        data.waits = waits
        data.progress.tx_reads += moved == "tx"
        data.progress.rx_reads += moved == "rx"
        before = manager.notified
        watchdog.check(float(now))
        notified.append(manager.notified > before)
    # At the first check nothing is known; at the second the other direction alone moved; then the inbound one stalls.
    assert notified == [True, False, True, False, False]


def test_nothing_waits_nothing_is_stuck() -> None:
    data = Data()
    manager, watchdog = watched(SimpleNamespace(data_path=data))
    for now, waits in enumerate((OUT, NOTHING, OUT, NOTHING)):
        data.waits = waits
        watchdog.check(float(now))
    assert manager.notified == 4


def test_what_the_kernel_carries_never_waits_for_us() -> None:
    manager, watchdog = watched(HostGwBackend(loopback()))
    for now in range(3):
        watchdog.check(float(now))
    assert manager.notified == 3


def loopback() -> Node:
    return Node(
        spec=UDP,
        section=UdpSettings(),
        lease=Lease(subnet=IPv4Network("10.5.1.0/24"), ipv6_subnet=IPv6Network("fd05:0:0:1::/64")),
        underlay=Underlay(
            name="lo",
            index=1,
            mtu=65536,
            addresses=(ip_interface("127.0.0.1/8"), ip_interface("::1/128")),
            public_ip=IPv4Address("127.0.0.1"),
            public_ipv6=IPv6Address("::1"),
        ),
        ranges=(SubnetRange.of(IPv4Network("10.5.0.0/16")),),
    )


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
async def test_the_udp_backend_sees_what_waits(family: int, host: str) -> None:
    with socket.socket(family, socket.SOCK_DGRAM) as peer:
        peer.bind((host, 0))
        port = peer.getsockname()[1] ^ 1  # one that is free, most likely
        data_path = UdpDataPath(loopback(), UdpSettings(port=port), ServiceManager())
        data_path.open()
        try:
            stalls = StallDetector()
            still = Progress()
            assert data_path.waiting() == NOTHING
            peer.sendto(b"nobody reads this", (host, port))
            assert data_path.waiting() == IN
            assert [stalls.update(data_path.waiting(), still, now) for now in (1.0, 2.0)] == [{}, {"inbound": 1.0}]
        finally:
            data_path.stop()
