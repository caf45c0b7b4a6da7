"""tshark validates every checksum of bulk traffic, on the wire and where it arrives, and finds flannel's format.

    h1c1 -- br0 [h1] eth0 ======== eth0 [h2] c1 -- eth0 h2c1
                          (captured)            (captured)

The cable is `impaired`'s, which shows frames as a wire would carry them: outer checksums are real, too. So that the
same holds in the container, c1 has no checksum offload: the kernel finishes there what superpackets leave open.
"""

from __future__ import annotations

import os
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from overlayd.lab import Host
from support.impaired import Wire, impaired_hosts
from support.streams import MB, exchange
from support.waiting import eventually
from support.wire import FAMILIES, UDP_PORT, Capture, Frame, inet, tshark, udp_echo, write_pcap

IP = {4: "ip", 6: "ipv6"}
GOOD, BAD = "1", "0"
"""How tshark's checksum.status fields say it."""


@dataclass(frozen=True)
class Cable:
    """Two hosts, and the cable between them."""

    a: Host
    b: Host
    wire: Wire

    def underlay_family(self, family: int) -> int:
        """The underlay family that carries packets of this one."""
        return family if self.a.lab.spec.underlay == "dual" else 4


@pytest.fixture(scope="module", params=[("native", "dual"), ("native", "ipv4"), ("python", "dual")], ids=" on ".join)
def path(request: pytest.FixtureRequest) -> Iterator[Cable]:
    """On an IPv4 underlay both families are carried by IPv4."""
    engine, underlay = request.param
    settings = {"udp": {"engine": engine}}
    with impaired_hosts(mode="udp", family="dual", underlay=underlay, offloads="off", settings=settings) as (
        a,
        b,
        wire,
    ):
        b.run("ethtool", "-K", "c1", "tx", "off")
        yield Cable(a, b, wire)


@pytest.fixture(autouse=True)
def _checking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """tshark looks at checksums only when it is told to."""
    (tmp_path / "preferences").write_text(
        "".join(f"{name}.check_checksum: TRUE\n" for name in ("ip", "tcp", "udp", "icmpv6"))
    )
    monkeypatch.setenv("WIRESHARK_CONFIG_DIR", str(tmp_path))


def talk(path: Cable, family: int) -> None:
    """Superpackets and small packets of TCP and UDP, and fragments, both ways."""
    inner, outer = path.a.container(0), path.b.container(0)
    address = outer.address(family)
    exchange(inner, outer, address, 1, MB)
    exchange(inner, outer, address, 8, 20_001)
    udp_echo(inner, outer, address, *(os.urandom(size) for size in (0, 1, 2, 99, 1000, 1001, 1400, 5000, 40000)))
    assert inner.ping(address, count=2, size=99)
    with (
        inner.socket(inet(address), socket.SOCK_DGRAM) as out,
        outer.socket(inet(address), socket.SOCK_DGRAM) as there,
    ):
        there.settimeout(5)
        there.bind((str(address), 0))
        for size in (7, 500, 1399):
            out.sendmsg([os.urandom(size * 40 + 3)], [(17, 103, struct.pack("=H", size))], 0, there.getsockname())
            for _ in range(41):
                there.recv(65536)


def statuses(file: Path, family: int, display_filter: str = "") -> Counter[tuple[str, str]]:
    """How often each checksum was found how, in all layers: ("tcp", GOOD).

    Without a TCP checksum of 0xffff, which is right (it equals 0) but bad to tshark: Linux itself writes it where it
    completes a checksum in software (CSUM_MANGLED_0), and so does the engine.
    """
    names = ("ip", "tcp", "udp", "icmp", "icmpv6")
    rows = tshark(
        file,
        f"udp.port=={UDP_PORT},{IP[family]}",
        f"!(tcp.checksum == 0xffff){display_filter}",
        *(f"{name}.checksum.status" for name in names),
    )
    found: Counter[tuple[str, str]] = Counter()
    for row in rows:
        for name, values in zip(names, row, strict=True):
            found.update((name, value) for value in values.split(",") if value)
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_no_checksum_is_wrong_and_the_format_is_flannels(path: Cable, family: int, tmp_path: Path) -> None:
    with Capture(path.b, "eth0") as wire, Capture(path.b.container(0), "eth0") as inside:
        talk(path, family)
        crossed, arrived = wire.frames(), inside.incoming("eth0")
    on_wire, in_container = tmp_path / "wire.pcap", tmp_path / "container.pcap"
    write_pcap(on_wire, (frame for frame in crossed if not frame.outgoing))
    write_pcap(in_container, arrived)
    for file in (on_wire, in_container):
        found = statuses(file, family)
        assert not [what for what in found if what[1] == BAD], (file.name, found)
        assert found["tcp", GOOD] > 700
        assert found["udp", GOOD] > 100
        assert family == 6 or found["ip", GOOD] > 800

    # The payload of each datagram is one packet and nothing else: by the lengths of both.
    ip, outer = IP[family], IP[path.underlay_family(family)]
    size = "ip.len" if family == 4 else "ipv6.plen"
    sizes = Counter(int(one) for (one,) in tshark(
        on_wire, f"udp.port=={UDP_PORT},data", f"{outer} && udp.port == {UDP_PORT}", "udp.length"
    ))  # fmt: skip
    decoded = f"udp.port=={UDP_PORT},{ip}"
    rows = tshark(
        on_wire, decoded, f"udp.port == {UDP_PORT}", size, "udp.length", "udp.srcport", "udp.dstport", f"{ip}.version"
    )
    own = 40 if family == 6 else 0
    packets = Counter(int(one[0].split(",")[-1]) + own + 8 for one in rows)
    assert packets == sizes
    assert {tuple(port.split(",")[0] for port in one[2:4]) for one in rows} == {(str(UDP_PORT), str(UDP_PORT))}
    assert {one[4].split(",")[-1] for one in rows} == {str(family)}
    assert max(sizes) - 8 <= path.a.plan.overlay_mtu
    assert sizes[max(sizes)] > 300, "full-sized segments of superpackets are among them"


@pytest.mark.parametrize("family", FAMILIES)
def test_what_arrives_in_the_container_is_what_crossed(path: Cable, family: int) -> None:
    """Joined by the engine or not: the same packets, but for a hop of TTL, come out of c1.

    What may not be fragmented may get another id: RFC 6864.
    """

    def bare(data: bytes) -> bytes:
        if data[0] >> 4 == 6:
            return data[:7] + data[8:]
        return data[:4] * (not data[6] & 0x40) + data[6:8] + data[9:10] + data[12:]

    def of_overlay(data: bytes) -> bool:
        ends = [path.a.container(0).address(family).packed, path.b.container(0).address(family).packed]
        return b"".join(ends) == (data[12:20] if data[0] >> 4 == 4 else data[8:40]) and data[0] >> 4 == family

    header = {4: 28, 6: 48}[path.underlay_family(family)]

    def crossed(frames: list[Frame]) -> Counter[bytes]:
        inner = (frame.ip[header:] for frame in frames if not frame.outgoing and len(frame.ip) > header)
        return Counter(bare(one) for one in inner if of_overlay(one))

    with Capture(path.b, "eth0") as wire, Capture(path.b.container(0), "eth0") as inside:
        talk(path, family)
        eventually(lambda: len(inside.incoming("eth0")) > 1000, timeout=5)
        came = Counter(bare(frame.ip) for frame in inside.incoming("eth0") if of_overlay(frame.ip))
        went = crossed(wire.frames())
    assert came == went


@pytest.mark.parametrize("family", FAMILIES)
def test_tshark_would_have_seen_it(path: Cable, family: int, tmp_path: Path) -> None:
    """The control: bits that are flipped on the cable, the outer checksum repaired, are found on the wire."""
    with Capture(path.b, "eth0") as wire:
        with path.wire.harming(forge=0.05) as harmed:
            exchange(path.a.container(0), path.b.container(0), path.b.container(0).address(family), 1, MB)
        write_pcap(file := tmp_path / "wire.pcap", (frame for frame in wire.frames() if not frame.outgoing))
    found = statuses(file, family, f" && udp.port == {UDP_PORT}")
    assert 0 < found["tcp", BAD] <= harmed["forge"]
    assert found["udp", BAD] == 0
