"""What crosses the underlay, as tshark reads it: flannel's formats and RFC 7348's, and nothing beside them.

h1c1 10.1.1.2 ------ br0 [h1] eth0 192.0.2.1 ===(captured)=== eth0 192.0.2.2 [h2] br0 ------ h2c1 10.1.2.2
     fd00:10:1:1::2           fd00:192:0:2::1                 fd00:192:0:2::2                fd00:10:1:2::2
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from overlayd.lab import Host, hosts
from support.wire import FAMILIES, UDP_PORT, VXLAN_PORT, Capture, tshark, udp_echo, write_pcap

SIZE = 120
"""Bytes of each echo request and reply, with their IP headers."""

ECHO = {4: "(icmp.type == 8 || icmp.type == 0)", 6: "(icmpv6.type == 128 || icmpv6.type == 129)"}


@dataclass(frozen=True)
class Recording:
    """Two hosts and what crossed their cable from before their daemons started until after some pings."""

    a: Host
    b: Host
    file: Path

    def fields(self, decode_as: str, display_filter: str, *fields: str) -> list[list[str]]:
        return tshark(self.file, decode_as, display_filter, *fields)


def record(mode: str, file: Path) -> Iterator[Recording]:
    """A lab whose containers and hosts have spoken with each other in both families."""
    with hosts(2, mode=mode, family="dual", underlay="dual", start=False, settings={"probe": {"port": 0}}) as (a, b):
        with Capture(a, "eth0") as capture:
            a.lab.start()
            for family in FAMILIES:
                assert a.container(0).ping(b.container(0).address(family), count=2, size=SIZE)
                udp_echo(b.container(0), a.container(0), a.container(0).address(family), b"", b"x" * 1000, b"x" * 4000)
                assert b.ping(a.container(0).address(family))
                assert not a.container(0).ping({4: "10.1.77.7", 6: "fd00:10:1:77::7"}[family], timeout=0.1)
            write_pcap(file, capture.frames())
        yield Recording(a, b, file)


@pytest.fixture(scope="module")
def udp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recording]:
    yield from record("udp", tmp_path_factory.mktemp("udp") / "wire.pcap")


@pytest.fixture(scope="module")
def vxlan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recording]:
    yield from record("vxlan", tmp_path_factory.mktemp("vxlan") / "wire.pcap")


def echoes(one: Host, other: Host, family: int) -> list[list[str]]:
    """Source and destination, outer and inner joined by commas, of echo requests and replies in their order."""
    outer = [str(one.public(family)), str(other.public(family))]
    inner = [str(one.container(0).address(family)), str(other.container(0).address(family))]
    ends = list(zip(outer, inner, strict=True))
    request = [",".join(ends[0]), ",".join(ends[1])]
    return [request, request[::-1]] * 2


def is_unicast_of(address: str, networks: Sequence[str]) -> bool:
    """Whether an address is of one of these networks."""
    return any(ip_address(address) in ip_network(one) for one in networks)


@pytest.mark.parametrize("family", FAMILIES)
def test_udp_the_payload_is_the_packet_and_nothing_else(udp: Recording, family: int) -> None:
    ip = {4: "ip", 6: "ipv6"}[family]  # the names of the dissectors and of their fields
    size = ("ip.len",) if family == 4 else ("ipv6.plen",)
    wanted = f"udp.port == {UDP_PORT} && {ECHO[family]} && {ip}.addr == {udp.a.container(0).address(family)}"
    wanted += f" && {ip}.addr == {udp.b.container(0).address(family)}"
    seen = udp.fields(
        f"udp.port=={UDP_PORT},{ip}", wanted,
        f"{ip}.src", f"{ip}.dst", "udp.srcport", "udp.dstport", "udp.length", *size,
    )  # fmt: skip
    # udp.length, then that of the outer and the inner packet: ip.len counts the header, ipv6.plen does not.
    lengths = [str(8 + SIZE), {4: f"{20 + 8 + SIZE},{SIZE}", 6: f"{8 + SIZE},{SIZE - 40}"}[family]]
    expected = [[*ends, str(UDP_PORT), str(UDP_PORT), *lengths] for ends in echoes(udp.a, udp.b, family)]
    assert seen == expected


def test_udp_the_outer_packet_may_not_be_fragmented(udp: Recording) -> None:
    seen = udp.fields(
        f"udp.port=={UDP_PORT},data", f"ip && udp.port == {UDP_PORT}", "ip.flags.df", "ip.flags.mf", "ip.frag_offset"
    )
    assert len(seen) > 10
    assert {tuple(one) for one in seen} <= {("1", "0", "0"), ("True", "False", "0")}


@pytest.mark.parametrize("family", FAMILIES)
def test_udp_only_unicast_of_the_network_crosses(udp: Recording, family: int) -> None:
    ip = {4: "ip", 6: "ipv6"}[family]
    ethertype = {4: "0x0800", 6: "0x86dd"}[family]
    carried = f"eth.type == {ethertype} && udp.port == {UDP_PORT}"
    seen = udp.fields(f"udp.port=={UDP_PORT},{ip}", carried, f"{ip}.src", f"{ip}.dst")
    inner = [pair.split(",")[1] for one in seen for pair in one]
    assert len(inner) > 10
    assert all(is_unicast_of(address, ["10.1.0.0/16", "fd00:10:1::/48"]) for address in inner)
    assert not [address for address in inner if address in ("10.1.77.7", "fd00:10:1:77::7")]


@pytest.mark.parametrize("family", FAMILIES)
def test_vxlan_frames_are_addressed_by_the_leases(vxlan: Recording, family: int) -> None:
    a, b = vxlan.a, vxlan.b
    ip = {4: "ip", 6: "ipv6"}[family]
    wanted = f"vxlan && {ECHO[family]} && {ip}.addr == {a.container(0).address(family)}"
    wanted += f" && {ip}.addr == {b.container(0).address(family)}"
    seen = vxlan.fields(
        f"udp.port=={VXLAN_PORT},vxlan", wanted,
        f"{ip}.src", f"{ip}.dst", "udp.dstport", "vxlan.vni", "vxlan.flags", "eth.src", "eth.dst",
    )  # fmt: skip
    macs = [host.status()["lease"]["vtep_mac"] for host in (a, b)]
    wires = [json.loads(host.run("ip", "-j", "link", "show", "eth0").stdout)[0]["address"] for host in (a, b)]
    expected = []
    for number, ends in enumerate(echoes(a, b, family)):
        source, destination = (0, 1) if number % 2 == 0 else (1, 0)
        expected.append([
            *ends, str(VXLAN_PORT), "1", "0x0800",
            f"{wires[source]},{macs[source]}", f"{wires[destination]},{macs[destination]}",
        ])  # fmt: skip
    assert seen == expected


def test_vxlan_no_arp_no_discovery_no_multicast_of_the_overlay_crosses(vxlan: Recording) -> None:
    decode = f"udp.port=={VXLAN_PORT},vxlan"
    every = vxlan.fields(
        decode, f"udp.port == {VXLAN_PORT}", "vxlan.vni", "eth.dst", "ip.dst", "ipv6.dst", "arp.opcode"
    )
    assert len(every) > 20
    macs = {host.status()["lease"]["vtep_mac"] for host in (vxlan.a, vxlan.b)}
    for vni, eth, *addresses, arp in every:
        assert (vni, arp) == ("1", "")
        assert eth.split(",")[1] in macs
        inner = next(address.split(",")[1] for address in addresses if "," in address)
        assert is_unicast_of(inner, ["10.1.0.0/16", "fd00:10:1::/48"])
    overlay = "(arp.src.proto_ipv4 == 10.1.0.0/16 || arp.dst.proto_ipv4 == 10.1.0.0/16)"
    assert vxlan.fields(decode, f"arp && {overlay}", "arp.opcode") == []
    assert vxlan.fields(decode, "arp || icmpv6.type == 135", "frame.number"), "the underlay's own are there to be seen"


@pytest.mark.parametrize("mode", ["udp", "vxlan"])
def test_nothing_else_crosses(request: pytest.FixtureRequest, mode: str) -> None:
    recording: Recording = request.getfixturevalue(mode)
    port = {"udp": UDP_PORT, "vxlan": VXLAN_PORT}[mode]
    own = "arp || (icmpv6.type >= 130 && icmpv6.type <= 143 && !udp)"  # the underlay's neighbour and group discovery
    other = f"!(udp.port == {port}) && !({own})"
    assert recording.fields(f"udp.port=={port},data", other, "frame.number", "frame.protocols") == []
