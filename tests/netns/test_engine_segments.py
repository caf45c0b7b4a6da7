"""The native engine cuts superpackets as the kernel does, byte for byte: the kernel is asked.

    this test --superpacket--> tun0 [h1] route, TTL - 1 --> eth0, all offloads off --> AF_PACKET shows what leaves

What the kernel makes of a superpacket is compared with `native.segment` of the same, and fed to the readable engine,
whose wire packets must be those of the native engine that got the superpacket.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from overlayd.lab import Host, hosts
from overlayd.lab.namespace import within
from support.native import (
    ACK,
    CWR,
    ECE,
    ECN,
    FIN,
    PSH,
    TCP,
    TCPV4,
    TCPV6,
    UDP_L4,
    finished,
    ip_packet,
    native,
    partial,
    vnet,
)
from support.rig import MTU, Rig
from support.wire import UDP, rfc1071

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x400454CA, 0x0001, 0x1000, 0x4000  # <linux/if_tun.h>
_ETH_P_ALL, _PACKET_OUTGOING, _SO_RCVBUFFORCE = 0x0003, 4, 33
MAC = bytes.fromhex("020000000002")
HOP_BY_HOP, ROUTING, DESTINATION = 0, 43, 60  # RFC 8200 section 4


class Kernel:
    """The way through the kernel."""

    def __init__(self, host: Host) -> None:
        self._tun = within(host.namespace, self._open)
        host.run("ethtool", "-K", "eth0", "tx", "off", "sg", "off")  # real checksums in what AF_PACKET shows
        host.sysctl({"net/ipv4/ip_forward": 1, "net/ipv6/conf/all/forwarding": 1})
        host.ip(
            "link set tun0 mtu 65535 up",
            *(f"route replace {net} dev tun0" for net in ("10.1.1.0/24", "fd00:1::/64")),
            *(f"route replace {net} dev eth0" for net in ("10.1.2.0/24", "fd00:2::/64")),
            *(f"neigh add {there} lladdr {MAC.hex(':')} dev eth0" for there in ("10.1.2.3", "fd00:2::3")),
        )
        self._capture = host.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._capture.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 64 << 20)
        self._capture.bind(("eth0", _ETH_P_ALL))
        self._capture.settimeout(5)

    @staticmethod
    def _open() -> int:
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", b"tun0", _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR))
        return tun

    def segments(self, header: bytes, packet: bytes, count: int) -> list[bytes]:
        """The `count` packets that leave, and no more: what comes too many is the next call's first."""
        os.write(self._tun, header + packet)
        found: list[bytes] = []
        while len(found) < count:
            try:
                frame, (*_, kind, _, _) = self._capture.recvfrom(70000)
            except TimeoutError:
                pytest.fail(f"the kernel made {len(found)} segments, not {count}")
            if kind == _PACKET_OUTGOING and frame[:6] == MAC:
                found.append(frame[14:])
        return found

    def close(self) -> None:
        os.close(self._tun)
        self._capture.close()


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with hosts(2, mode="none", family="dual", underlay="dual", underlay_mtu=65535, containers=0, offloads="off") as (
        a,
        _,
    ):
        one = Kernel(a)
        yield one
        one.close()


@dataclass(frozen=True)
class Super:
    """A superpacket as it stands in a TUN, to be routed: its TTL is one more than that of its segments."""

    header: bytes
    packet: bytes
    size: int
    headers: int

    @property
    def count(self) -> int:
        return -(-(len(self.packet) - self.headers) // self.size)

    def routed(self) -> Super:
        """As the next hop sees it."""
        data = bytearray(self.packet)
        if data[0] >> 4 == 4:
            data[8] -= 1
            mend(data)
        else:
            data[7] -= 1
        return Super(self.header, bytes(data), self.size, self.headers)


def mend(data: bytearray) -> None:
    """Give an IPv4 packet the right header checksum."""
    end = (data[0] & 15) * 4
    data[10:12] = b"\0\0"
    data[10:12] = struct.pack("!H", rfc1071(bytes(data[:end])))


def superpacket(
    version: int,
    protocol: int,
    payload: bytes,
    size: int,
    *,
    flags: int = ACK,
    sequence: int = 1000,
    urgent: int = 0,
    options: bytes = b"",
    extensions: tuple[int, ...] = (),
    traffic_class: int = 0,
    identification: int = 0x1234,
    dont_fragment: bool = True,
    ecn_bit: bool = False,
) -> Super:
    """`options` are TCP's; `extensions` NOPs of IPv4 (their number in words), or extension headers of IPv6."""
    if protocol == TCP:
        words = 5 + len(options) // 4
        body = struct.pack("!HHIIBBHHH", 40000, 5201, sequence, 77, words << 4, flags, 500, 0, urgent) + options
        own, check = len(body), 16
    else:
        body, own, check = struct.pack("!HHHH", 40000, 9, 8 + len(payload), 0), 8, 6
    body += payload
    if version == 4:
        nops = b"\x01" * 4 * sum(extensions)
        data = bytearray(ip_packet(4, protocol, body, nops, dont_fragment=dont_fragment))
        data[1] = traffic_class
        data[4:6] = struct.pack("!H", identification)
        mend(data)
        whole, transport = partial(bytes(data), 20 + len(nops), protocol, check), 20 + len(nops)
    else:
        # The pseudo header knows nothing of extension headers: they come in when the checksum is there.
        plain = partial(ip_packet(6, protocol, body), 40, protocol, check)
        chain = b"".join(
            struct.pack("!BB", following, 0) + {ROUTING: b"\x04\x00" + bytes(4)}.get(kind, b"\x01\x04" + bytes(4))
            for kind, following in zip(extensions, (*extensions, protocol)[1:], strict=True)
        )
        first = extensions[0] if extensions else protocol
        head = struct.pack("!IHBB", 6 << 28 | traffic_class << 20 | 0x12345, len(chain) + len(body), first, plain[7])
        whole, transport = head + plain[8:40] + chain + plain[40:], 40 + len(chain)
    kind = UDP_L4 if protocol == UDP else TCPV4 if version == 4 else TCPV6
    return Super(
        vnet(kind | (ECN if ecn_bit else 0), size, transport, check, transport + own), whole, size, transport + own
    )


@st.composite
def superpackets(draw: st.DrawFn, mtu: int = 65535) -> Super:
    """What fits the MTU when cut, in 2 to 90 segments."""
    version, protocol = draw(st.sampled_from((4, 6))), draw(st.sampled_from((TCP, TCP, UDP)))
    options = draw(st.sampled_from((b"", b"\1\1\x08\x0a" + bytes(range(8)), b"\1" * 40))) if protocol == TCP else b""
    if version == 4:
        extensions: tuple[int, ...] = (draw(st.sampled_from((0, 0, 1, 10))),)
    else:
        extensions = draw(st.sampled_from(((), (), (HOP_BY_HOP,), (DESTINATION,), (HOP_BY_HOP, DESTINATION))))
    headers = 40 + 40 + len(options) + 4 * 10
    sizes = st.one_of(st.integers(1, 50), st.sampled_from((535, 1220, 1291, 1320)), st.integers(1, 8960))
    size = min(draw(sizes), mtu - headers)
    count = draw(st.integers(1, min(90, (65535 - headers) // size - 1)))
    length = size * count + draw(st.one_of(st.integers(1, size), st.just(size), st.just(1)))
    payload = draw(st.randoms(use_true_random=False)).randbytes(length)
    return superpacket(
        version,
        protocol,
        payload,
        size,
        flags=draw(st.one_of(st.sampled_from((ACK, ACK | PSH, ACK | FIN | PSH, ACK | CWR | ECE)), st.integers(0, 255))),
        sequence=draw(st.one_of(st.integers(0, 2**32 - 1), st.integers(2**32 - length, 2**32 - 1))),
        urgent=draw(st.sampled_from((0, 1, 65535))),
        options=options,
        extensions=extensions,
        traffic_class=draw(st.integers(0, 255)),
        identification=draw(st.one_of(st.integers(0, 65535), st.integers(65536 - count, 65535))),
        dont_fragment=draw(st.booleans()),
        ecn_bit=protocol == TCP and draw(st.booleans()),
    )


PATIENT = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
BIG = bytes(range(256)) * 251


@PATIENT
@given(one=superpackets())
@example(one=superpacket(4, TCP, BIG, 1448, flags=ACK | FIN | PSH | CWR | ECE, sequence=2**32 - 5000))
@example(one=superpacket(4, TCP, BIG, 1448, dont_fragment=False, identification=65530))
@example(one=superpacket(6, TCP, BIG[:64000], 1428, extensions=(HOP_BY_HOP, DESTINATION)))
@example(one=superpacket(4, UDP, BIG, 1443, identification=65530))
@example(one=superpacket(6, UDP, BIG[:64001], 1424))
@example(one=superpacket(4, TCP, b"\0" * 3001, 1000))
def test_segments_are_the_kernels_own(kernel: Kernel, one: Super) -> None:
    event(f"{'UDP' if one.header[1] == UDP_L4 else 'TCP'} IPv{one.packet[0] >> 4}")
    ours = list(native.segment(one.header, one.routed().packet))
    assert len(ours) == one.count
    theirs = kernel.segments(one.header, one.packet, one.count)
    assert len(theirs) == one.count
    for index, (own, kernels) in enumerate(zip(ours, theirs, strict=True)):
        assert own == kernels, f"segment {index} of {one.count}:\n{own[:100].hex(' ')}\n{kernels[:100].hex(' ')}"


@PATIENT
@given(several=st.lists(superpackets(mtu=MTU), min_size=1, max_size=5))
def test_both_engines_send_the_same_packets(kernel: Kernel, several: list[Super]) -> None:
    """The native engine reads superpackets; the readable one what the kernel makes of them where nobody takes any."""
    native_rig, python_rig = Rig("native"), Rig("python")
    try:
        for one in several:
            routed = one.routed()
            native_rig.send_tun(routed.packet, one.header)
            native_rig.outbound()
            for segment in kernel.segments(one.header, one.packet, one.count):
                python_rig.send_tun(segment)
            python_rig.outbound()
            mine, oracle = native_rig.read_peer(), python_rig.read_peer()
            assert len(mine) == one.count
            assert Counter(mine) == Counter(oracle)
        assert native_rig.engine.counters().total == python_rig.engine.counters().total
    finally:
        native_rig.close()
        python_rig.close()


def without_idle_id(data: bytes) -> bytes:
    """The packet, without the id and the header checksum if it is IPv4 with DF."""
    return data if data[0] >> 4 == 6 or not data[6] & 0x40 else data[:4] + data[6:10] + data[12:]


def fields(version: int, protocol: int) -> list[tuple[int, int]]:
    """(byte, bits) of all in which packets of a flow may differ and that a forwarding kernel lets pass; no IP options.

    Of TCP with 12 bytes of options all but data offset and checksum, of UDP the ports.
    """
    if version == 4:
        own, transport = [(1, 0xFF), (4, 0xFF), (5, 0xFF), (6, 0x40), (8, 0xBF)], 20  # TOS, id, DF, TTL (64: not to 0)
    else:
        own, transport = [(0, 0x0F), (1, 0xFF), (2, 0xFF), (3, 0xFF), (7, 0xBF)], 40  # class, label, hop limit
    offsets = (*range(12), *range(13, 16), *range(18, 32)) if protocol == TCP else range(4)
    return [*own, *((transport + offset, 0xFF) for offset in offsets)]


def odd(packets: list[bytes], which: int, at: int, bit: int, one: Super) -> list[bytes]:
    """The packets, of which one has this bit flipped and right checksums."""
    data = bytearray(packets[which])
    data[at] ^= bit
    if data[0] >> 4 == 4:
        mend(data)
    transport, check = struct.unpack_from("=HH", one.header, 6)
    mended = finished(bytes(data), transport, TCP if check == 16 else UDP, check)
    return [*packets[:which], mended, *packets[which + 1 :]]


def hop(data: bytes) -> bytes:
    """The packet behind the next router."""
    out = bytearray(data)
    out[8 if data[0] >> 4 == 4 else 7] -= 1
    if data[0] >> 4 == 4:
        mend(out)
    return bytes(out)


def through(kernel: Kernel, packets: list[bytes]) -> list[bytes]:
    """Joined as the engine would, and what the kernel then sends on."""
    return [
        segment
        for header, whole in native.coalesce(packets)
        for segment in kernel.segments(header, whole, len(native.segment(header, whole)) if header[1] else 1)
    ]


@pytest.mark.parametrize("which", [0, 1, 3], ids=["the first", "the second", "the last"])
@pytest.mark.parametrize("protocol", [TCP, UDP], ids=["TCP", "UDP"])
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("dont_fragment", [True, False], ids=["DF", "no DF"])
def test_what_differs_keeps_its_difference(
    kernel: Kernel, version: int, protocol: int, which: int, dont_fragment: bool
) -> None:
    """Every bit of the headers in turn: joined around the odd one or not, behind the kernel every packet is as it was,
    and each flow in its order."""
    options = b"\1\1\x08\x0a" + bytes(range(8)) if protocol == TCP else b""
    one = superpacket(version, protocol, BIG[:400], 100, options=options, dont_fragment=dont_fragment)
    packets = list(native.segment(one.header, one.packet))
    assert len(native.coalesce(packets)) == 1, "without an odd one they are joined"
    transport = 20 if version == 4 else 40
    for at, bits in fields(version, protocol):
        for bit in (1 << bit for bit in range(8) if bits >> bit & 1):
            changed = odd(packets, which, at, bit, one)
            after, wanted = through(kernel, changed), [hop(data) for data in changed]
            for flow in {data[transport : transport + 4] for data in wanted}:
                assert [without_idle_id(data) for data in after if data[transport : transport + 4] == flow] == [
                    without_idle_id(data) for data in wanted if data[transport : transport + 4] == flow
                ], (at, bit)
            assert len(after) == len(wanted)


@PATIENT
@given(several=st.lists(superpackets(mtu=1500), min_size=1, max_size=3))
def test_what_is_joined_is_cut_by_the_kernel_into_what_it_was(kernel: Kernel, several: list[Super]) -> None:
    """Every superpacket that the engine would write is one that the kernel takes, and it undoes the joining.

    But for the id of an IPv4 packet that may not be fragmented, which means nothing (RFC 6864 section 4.1): the engine
    joins such packets whatever their ids, and the kernel numbers them anew.
    """
    before = [segment for one in several for segment in native.segment(one.header, one.packet)]
    wanted = [segment for one in several for segment in native.segment(one.header, one.routed().packet)]
    after = through(kernel, before)
    assert sorted(map(without_idle_id, after)) == sorted(map(without_idle_id, wanted))
