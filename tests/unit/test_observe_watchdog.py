"""When the service manager is told that all is well, and when it is left to think otherwise."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_interface
from types import SimpleNamespace
from typing import Any, cast

import pytest

from overlayd.backend.base import Backend
from overlayd.backend.kernel_path import KernelPath
from overlayd.backend.udp import UdpBackend
from overlayd.core.leases.lease import Lease
from overlayd.core.leases.subnets import SubnetRange
from overlayd.core.node import Node, Underlay
from overlayd.core.settings.model import UdpSettings
from overlayd.datapath.contract import Counters, Traffic
from overlayd.observe.watchdog import Progress

NOTHING: frozenset[str] = frozenset()
OUT, IN = frozenset({"outbound"}), frozenset({"inbound"})


class Data:
    """A backend's data path, as far as it is looked at."""

    def __init__(self) -> None:
        self.counts = Counters()
        self.waits = NOTHING

    def waiting(self) -> frozenset[str]:
        return self.waits

    def counters(self) -> Counters:
        return self.counts


def moves(data: Data, what: str) -> None:
    total = data.counts.total
    if what == "drops":
        data.counts.tx_drops["no_lease"] = data.counts.tx_drops.get("no_lease", 0) + 1
    elif what == "answers":
        data.counts.icmp_limited += 1
    else:
        data.counts.total = Traffic(
            total.tx_packets + (what == "outbound"), 0, total.rx_packets + (what == "inbound"), 0
        )


@pytest.mark.parametrize("what", ["outbound", "drops", "answers"])
def test_packets_that_wait_and_move_are_well(what: str) -> None:
    data, progress = Data(), Progress()
    data.waits = OUT
    for _ in range(4):
        assert progress.stuck(cast(Backend, data)) == NOTHING
        moves(data, what)


def test_packets_that_wait_and_do_not_move() -> None:
    data, progress = Data(), Progress()
    looks: list[Any] = []
    for waits, moved in ((OUT, ""), (OUT, "inbound"), (OUT | IN, "outbound"), (OUT | IN, "outbound"), (IN, "")):
        data.waits = waits
        if moved:
            moves(data, moved)
        looks.append(progress.stuck(cast(Backend, data)))
    # At the first look nothing is known; at the second the other direction alone moved; then the inbound one stands.
    assert looks == [NOTHING, OUT, NOTHING, IN, IN]


def test_nothing_waits_nothing_is_stuck() -> None:
    data, progress = Data(), Progress()
    for waits in (OUT, NOTHING, OUT, NOTHING):
        data.waits = waits
        assert progress.stuck(cast(Backend, data)) == NOTHING


def test_what_the_kernel_carries_never_waits_for_us() -> None:
    progress = Progress()
    backend = KernelPath(cast(Node, SimpleNamespace()))
    assert [progress.stuck(cast(Backend, backend)) for _ in range(3)] == [NOTHING] * 3


def loopback() -> Node:
    return Node(
        mode="udp",
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
        backend = UdpBackend(loopback(), UdpSettings(port=port))
        backend.open()
        try:
            progress = Progress()
            assert backend.waiting() == NOTHING
            peer.sendto(b"nobody reads this", (host, port))
            assert backend.waiting() == IN
            assert [progress.stuck(backend) for _ in range(2)] == [NOTHING, IN]
        finally:
            backend.stop()
