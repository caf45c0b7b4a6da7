"""VXLAN's outer checksums on a wire where the kernel fills in every one (flannel: wrong ones, and stalls of a minute).

    h1c1 -- br0 [h1] eth0 ==== relay ==== eth0 [h2] br0 -- h2c1

What made them wrong is masquerading of what a host itself sends into the overlay, encapsulated while its checksum was
still to be filled in by a device that could not. An eth0 in here is a TAP without any offload.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

import pytest

from overlayd.lab import Host
from support.impaired import impaired_hosts
from support.streams import MB, checksum_errors, exchange
from support.wire import FAMILIES, UDP, VXLAN_PORT, Capture, rfc1071

Pair = tuple[Host, Host]


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    settings = {"ip_masq": True}
    with impaired_hosts(mode="vxlan", family="dual", underlay="dual", settings=settings) as (a, b, _):
        yield a, b


def sums(packet: bytes) -> tuple[int, int] | None:
    """The checksum field of a VXLAN datagram, and what its sum with all that it covers comes to: 0 if it is right."""
    if packet[:1] and packet[0] >> 4 == 4:
        header, protocol, ends = (packet[0] & 15) * 4, packet[9], packet[12:20]
    elif packet[:1]:
        header, protocol, ends = 40, packet[6], packet[8:40]
    else:
        return None
    body = packet[header:]
    if protocol != UDP or body[2:4] != struct.pack("!H", VXLAN_PORT):
        return None
    (length, field) = struct.unpack("!HH", body[4:8])
    return field, rfc1071(ends + struct.pack("!II", length, UDP) + body[:length] + bytes(length % 2)) & 0xFFFF


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sender", ["a container", "the host, masqueraded"])
def test_every_outer_checksum_is_right(pair: Pair, sender: str, family: int) -> None:
    """flannel.md 11: with some network cards they are wrong there, and connections stall for a minute."""
    a, b = pair
    source, outer = a.container(0) if sender == "a container" else a, b.container(0)
    if source is a:  # by its underlay address, which is masqueraded on the way into the overlay
        address, peer = outer.address(family), b.status()["lease"]["subnet" if family == 4 else "ipv6_subnet"]
        way = f"via {peer.split('/')[0]} dev {'ovl.1' if family == 4 else 'ovl6.1'} onlink src {a.public(family)}"
        a.ip(f"route replace {address} {way}")
    with Capture(b, "eth0") as capture:
        exchange(source, outer, outer.address(family), 2, MB)
        found = [one for frame in capture.incoming("eth0") if (one := sums(frame.ip)) is not None]
    assert len(found) > 1000
    assert {rest for field, rest in found if field} <= {0}
    if family == 6:
        assert 0 not in {field for field, _ in found}, "IPv6 knows no datagram without"
    if source is a:
        rules = a.run("nft", "list", "chain", "inet", "overlayd", "postrouting").stdout
        name = "ip" if family == 4 else "ip6"
        assert re.search(rf"packets [1-9]\d* bytes \d+ masquerade.*overlayd: {name}: outside to network", rules)
    assert checksum_errors([a, b, a.container(0), outer]) == {}
