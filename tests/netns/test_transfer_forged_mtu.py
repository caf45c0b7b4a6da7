"""ICMP errors that claim a narrow path and were forged, by a host without a lease: no container loses a packet in udp
mode, none after a moment in vxlan mode, where the kernel cuts or drops the outer packets until it is made to forget.

h1c1 -- br0 [h1] eth0 192.0.2.1 ==== eth0 192.0.2.2 [h2] br0 -- h2c1
                                ==== eth0 192.0.2.3 [h3], where no daemon runs
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from overlayd.lab import Host, hosts
from overlayd.wire.checksum import internet_checksum
from support.waiting import eventually

PORTS = {"udp": 8285, "vxlan": 8472}
CLAIMED = 552


@pytest.fixture(scope="module", params=PORTS)
def trio(request: pytest.FixtureRequest) -> Iterator[tuple[Host, Host, Host]]:
    with hosts(3, mode=request.param, family="dual", underlay="dual", start=False) as (a, b, stranger):
        a.lab.write_leases([row for row in a.lab.leases() if row["name"] != stranger.name])
        for host in (a, b):
            host.start()
        for host in (a, b):
            eventually(lambda host=host: host.status()["state"] == "ready")  # type: ignore[misc]
        eventually(lambda: {one["state"] for one in a.status()["peers"][0]["probes"]} == {"reachable"})
        yield a, b, stranger


def forge(stranger: Host, a: Host, b: Host, family: int, port: int) -> None:
    """Three errors to `a`: a datagram of its overlay to `b` was too long."""
    own, peer = a.public(family), b.public(family)
    vxlan = struct.pack("!II", 0x08000000, 1 << 8)  # the kernel looks for its VNI
    datagram = struct.pack("!4H", port, port, 1400, 0) + vxlan
    if family == 4:
        quoted = struct.pack("!BBHHHBBH", 0x45, 0, 1428, 1, 0x4000, 64, 17, 0) + own.packed + peer.packed
        error = struct.pack("!BBHHH", 3, 4, 0, 0, CLAIMED) + quoted + datagram
        error = error[:2] + struct.pack("!H", internet_checksum(error)) + error[4:]
        kind, protocol = socket.AF_INET, socket.IPPROTO_ICMP
    else:
        quoted = struct.pack("!IHBB", 6 << 28, 1408, 17, 64) + own.packed + peer.packed
        error = struct.pack("!BBHI", 2, 0, 0, 1280) + quoted + datagram  # the kernel adds the checksum
        kind, protocol = socket.AF_INET6, socket.IPPROTO_ICMPV6
    with stranger.socket(kind, socket.SOCK_RAW, protocol) as out:
        for _ in range(3):
            out.sendto(error, (str(own), 0))


@pytest.mark.parametrize("family", [4, 6])
def test_a_forged_claim_narrows_no_path(trio: tuple[Host, Host, Host], family: int) -> None:
    a, b, stranger = trio
    inner, address = a.container(0), b.container(0).address(family)
    peer = ip_address(str(b.public(family)))
    mtu = a.status()["overlay"]["mtu"]
    before = a.run("ip", f"-{family}", "route").stdout
    assert inner.ping(address, size=mtu, dont_fragment=True)
    forge(stranger, a, b, family, PORTS[a.lab.spec.mode])
    for _ in range(5 if a.lab.spec.mode == "udp" else 0):
        assert inner.ping(address, size=mtu, dont_fragment=True)
    claim = f"{peer}: ICMP errors claim that no more than {CLAIMED if family == 4 else 1280} bytes get there"
    eventually(lambda: any(text.startswith(claim) for text in a.status()["problems"]), "the problem is named")
    assert inner.ping(address, size=mtu, dont_fragment=True)
    assert a.ping(b.public(family), size=1500, dont_fragment=True), "the kernel has forgotten it"
    assert a.run("ip", f"-{family}", "route").stdout == before
    assert "mtu" not in a.run("ip", "route", "get", str(peer)).stdout
    assert a.status()["broken"] == []
