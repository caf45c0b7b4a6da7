"""Datagrams that nobody should send: none comes through, each is counted, and genuine traffic goes on.

     h1c1 10.1.1.2                     h2c1 10.1.2.2                h3c1 10.1.3.2
        |                                 |                            |
     br0 [h1 the victim]               br0 [h2 a peer]              br0 [h3 a stranger: its lease is gone]
        eth0 192.0.2.1 ================= eth0 192.0.2.2 ============== eth0 192.0.2.3
             fd00:192:0:2::1                  fd00:192:0:2::2               fd00:192:0:2::3

The table also lists a host that is not there, 10.1.9.0/24 at 192.0.2.9: "another peer". Masquerading is on, so that
a packet for the underlay that slips through would even be answered.

Every crafted packet holds MARK. What of it is seen beyond the datagram that carried it has come through.
"""

from __future__ import annotations

import json
import random
import socket
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from ipaddress import ip_address

import pytest

from overlayd.lab import Container, Host, hosts
from support.waiting import eventually
from support.wire import (
    ENGINES,
    FAMILIES,
    ICMP,
    UDP_PORT,
    VXLAN_PORT,
    Capture,
    Frame,
    drops,
    inject,
    ipv4,
    ipv6,
    packet,
    rfc1071,
    udp_packet,
    vxlan_datagram,
)

Trio = tuple[Host, Host, Host]

MARK = b"<injected by a test>"
PEER = {4: "10.1.2.2", 6: "fd00:10:1:2::2"}
VICTIM = {4: "10.1.1.2", 6: "fd00:10:1:1::2"}
NOT_THERE = {
    "name": "h9",
    "subnet": "10.1.9.0/24",
    "ipv6_subnet": "fd00:10:1:9::/64",
    "public_ip": "192.0.2.9",
    "public_ipv6": "fd00:192:0:2::9",
}

SOURCES = {
    "unleased": ("10.1.99.9", "fd00:10:1:99::9"),
    "another peer's": ("10.1.9.2", "fd00:10:1:9::2"),
    "the stranger's former": ("10.1.3.2", "fd00:10:1:3::2"),
    "the receiver's own subnet": ("10.1.1.77", "fd00:10:1:1::77"),
    "the receiver's gateway": ("10.1.1.1", "fd00:10:1:1::1"),
    "the receiver's overlay address": ("10.1.1.0", "fd00:10:1:1::"),
    "the container itself": ("10.1.1.2", "fd00:10:1:1::2"),
    "outside the overlay": ("198.51.100.7", "2001:db8::7"),
    "the sender's underlay address": ("192.0.2.2", "fd00:192:0:2::2"),
    "the receiver's underlay address": ("192.0.2.1", "fd00:192:0:2::1"),
    "loopback": ("127.0.0.1", "::1"),
    "unspecified": ("0.0.0.0", "::"),
    "multicast": ("224.0.0.5", "ff02::5"),
    "link-local": ("169.254.1.1", "fe80::1"),
}
DESTINATIONS = {
    "the receiver's underlay address": ("192.0.2.1", "fd00:192:0:2::1"),
    "another host of the underlay": ("192.0.2.3", "fd00:192:0:2::3"),
    "the sender's own subnet": ("10.1.2.3", "fd00:10:1:2::3"),
    "another peer's subnet": ("10.1.9.2", "fd00:10:1:9::2"),
    "unleased": ("10.1.99.9", "fd00:10:1:99::9"),
    "outside the overlay": ("198.51.100.7", "2001:db8::7"),
    "loopback": ("127.0.0.1", "::1"),
    "unspecified": ("0.0.0.0", "::"),
    "multicast on the link": ("224.0.0.1", "ff02::1"),
    "multicast": ("239.1.1.1", "ff05::2"),
    "broadcast": ("255.255.255.255", "ff02::2"),
    "broadcast of the network": ("10.1.255.255", "ff02::1:ff00:2"),
}


def set_length(packet: bytes, difference: int) -> bytes:
    """The packet with another length field, and an IPv4 header checksum that agrees with it."""
    offset = 2 if packet[0] >> 4 == 4 else 4
    length = struct.unpack_from("!H", packet, offset)[0] + difference
    changed = packet[:offset] + struct.pack("!H", length) + packet[offset + 2 :]
    return with_checksum(changed) if packet[0] >> 4 == 4 else changed


def with_checksum(packet: bytes) -> bytes:
    """An IPv4 packet without options, with the right header checksum."""
    checksum = rfc1071(packet[:10] + b"\0\0" + packet[12:20])
    return packet[:10] + struct.pack("!H", checksum) + packet[12:]


SOUND = {family: udp_packet(PEER[family], VICTIM[family], MARK) for family in FAMILIES}
MALFORMED = {
    "nothing": (b"", "too_short"),
    "one byte": (b"\x45", "too_short"),
    "half a header": (SOUND[4][:19], "too_short"),
    "half an IPv6 header": (SOUND[6][:39], "too_short"),
    "version 0": (b"\x05" + SOUND[4][1:], "bad_version"),
    "version 5": (with_checksum(b"\x55" + SOUND[4][1:]), "bad_version"),
    "version 15": (b"\xf0" + SOUND[6][1:], "bad_version"),
    "text": (MARK * 3, "bad_version"),
    "IHL 4": (with_checksum(b"\x44" + SOUND[4][1:]), "bad_header_length"),
    "IHL beyond the end": (with_checksum(b"\x4f" + SOUND[4][1:]), "bad_header_length"),
    "trailing bytes": (SOUND[4] + MARK, "length_mismatch"),
    "trailing byte": (SOUND[4] + b"\0", "length_mismatch"),
    "cut off": (SOUND[4][:-1], "length_mismatch"),
    "total length too short": (set_length(SOUND[4], -4), "length_mismatch"),
    "total length too long": (set_length(SOUND[4], 4), "length_mismatch"),
    "total length 0": (set_length(SOUND[4], -len(SOUND[4])), "length_mismatch"),
    "IPv6 trailing bytes": (SOUND[6] + MARK, "length_mismatch"),
    "IPv6 cut off": (SOUND[6][:-1], "length_mismatch"),
    "IPv6 payload length too short": (set_length(SOUND[6], -4), "length_mismatch"),
    "IPv6 payload length too long": (set_length(SOUND[6], 4), "length_mismatch"),
    "IPv6 payload length 0": (set_length(SOUND[6], -(len(SOUND[6]) - 40)), "length_mismatch"),
}


def without_the_third(nodes: Trio) -> Trio:
    """Take the third host's row away, add one of a host that is not there, and wait until the daemons know."""
    rows = [row for row in nodes[0].lab.leases() if row["name"] != "h3"]
    nodes[0].lab.write_leases([*rows, NOT_THERE])
    for host in nodes[:2]:
        eventually(lambda host=host: [one["name"] for one in host.status()["peers"]][1:] == ["h9"])
    return nodes


@pytest.fixture(scope="module", params=ENGINES)
def udp(request: pytest.FixtureRequest) -> Iterator[Trio]:
    settings = {"ip_masq": True, "udp": {"engine": request.param}}
    with hosts(3, mode="udp", family="dual", underlay="dual", settings=settings) as nodes:
        a, b, c = nodes
        yield without_the_third((a, b, c))


@pytest.fixture(scope="module")
def vxlan() -> Iterator[Trio]:
    with hosts(3, mode="vxlan", family="dual", underlay="dual", settings={"ip_masq": True}) as nodes:
        a, b, c = nodes
        yield without_the_third((a, b, c))


class Watch:
    """Where injected packets show up: every interface of the victim, its container, and the underlay of others."""

    def __init__(self, victim: Host, others: Iterable[Host]) -> None:
        self.host = Capture(victim)
        self.container = Capture(victim.container(0), "eth0")
        self.others = [Capture(other, "eth0") for other in others]

    def beyond(self) -> list[str]:
        """Injected packets beyond the datagram that carried them to the victim."""
        frames = [frame for frame in self.host.frames() if frame.device != "eth0" or frame.outgoing]
        for capture in (self.container, *self.others):
            frames += [frame for frame in capture.frames() if not frame.outgoing]
        return [str(frame) for frame in frames if MARK in frame.data]

    def close(self) -> None:
        for capture in (self.host, self.container, *self.others):
            capture.__exit__(None, None, None)


def assert_refused(trio: Trio, sender: Host, target: str, packets: list[bytes], reason: str) -> None:
    """The sender's packets are counted for this reason, all of them, and nothing else happens."""
    victim, peer, stranger = trio
    before = drops(victim)
    watch = Watch(victim, [stranger] if sender is peer else [peer])
    try:
        inject(sender, target, UDP_PORT, *packets)
        eventually(lambda: (drops(victim) - before).total() >= len(packets), timeout=5)
        # The genuine packet comes last through the same socket: when it is there, all others have been decided on.
        assert peer.container(0).ping(victim.container(0).address())
        assert drops(victim) - before == Counter({reason: len(packets)})
        assert watch.beyond() == []
        written = [frame for frame in watch.host.incoming("ovl0") if b"\x0a\x01\x02\x02" not in frame.data]
        assert written == [], "only the ping of h2c1 has come out of the TUN"
    finally:
        watch.close()


# --- udp --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_injected_would_be_seen(udp: Trio, family: int) -> None:
    """The control: the same packet, genuine in all respects, does come through to where the others may not."""
    a, b, _ = udp
    watch = Watch(a, ())
    try:
        before = drops(a)
        inject(b, a.public(family), UDP_PORT, SOUND[family])
        eventually(lambda: [frame for frame in watch.container.frames() if frame.ip[-len(MARK) :] == MARK], timeout=5)
        places = {text.split()[0] for text in watch.beyond()}
        assert places == {"ovl0", "br0", "c1", "eth0"}
        assert drops(a) == before
    finally:
        watch.close()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("source", ["its own former subnet", "a peer's subnet", "malformed"])
def test_a_stranger(udp: Trio, source: str, family: int) -> None:
    """flannel.md 1."""
    a, _, stranger = udp
    inner = {
        "its own former subnet": udp_packet({4: "10.1.3.2", 6: "fd00:10:1:3::2"}[family], VICTIM[family], MARK),
        "a peer's subnet": SOUND[family],
        "malformed": b"",
    }[source]
    assert_refused(udp, stranger, str(a.public(family)), [inner] * 3, "unknown_peer")


def test_a_strangers_containers_reach_nobody(udp: Trio) -> None:
    """h3's daemon still runs, with the table that it had."""
    a, _, stranger = udp
    before = drops(a)
    for family in FAMILIES:
        assert not stranger.container(0).ping(a.container(0).address(family), timeout=0.2)
    assert drops(a) - before == Counter(unknown_peer=2)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("source", SOURCES)
def test_a_peer_with_a_spoofed_source(udp: Trio, source: str, family: int) -> None:
    a, b, _ = udp
    inner = udp_packet(SOURCES[source][FAMILIES.index(family)], VICTIM[family], MARK)
    assert_refused(udp, b, str(a.public(family)), [inner], "spoofed_source")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("destination", DESTINATIONS)
def test_a_peer_with_a_destination_that_is_not_the_receivers(udp: Trio, destination: str, family: int) -> None:
    """The pivot above all: neither forwarded to the underlay nor masqueraded, and not delivered to the host either."""
    a, b, _ = udp
    inner = udp_packet(PEER[family], DESTINATIONS[destination][FAMILIES.index(family)], MARK)
    assert_refused(udp, b, str(a.public(family)), [inner], "destination_not_own")


@pytest.mark.parametrize("underlay_family", FAMILIES)
@pytest.mark.parametrize("what", MALFORMED)
def test_a_peer_with_a_malformed_packet(udp: Trio, what: str, underlay_family: int) -> None:
    a, b, _ = udp
    datagram, reason = MALFORMED[what]
    assert_refused(udp, b, str(a.public(underlay_family)), [datagram], reason)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", ["one byte more", "the largest that UDP takes"])
def test_a_peer_with_a_packet_longer_than_the_mtu(udp: Trio, size: str, family: int) -> None:
    """flannel.md 2. Its sender is told, as by any router: the ICMP error quotes the packet's beginning, but not MARK
    at the end."""
    a, b, _ = udp
    whole = a.plan.overlay_mtu + 1 if size == "one byte more" else 65507
    inner = udp_packet(PEER[family], VICTIM[family], MARK.rjust(whole - {4: 28, 6: 48}[family]))
    assert len(inner) == whole
    with Capture(b.container(0), "eth0") as capture:
        assert_refused(udp, b, str(a.public(family)), [inner], "too_long")
        answers = [frame.ip for frame in capture.incoming("eth0")]
    kind, header = {4: (b"\x03\x04", 20), 6: (b"\x02\x00", 40)}[family]
    told = [struct.unpack_from("!I", answer, header + 4)[0] for answer in answers if answer[header:].startswith(kind)]
    assert told == [a.plan.overlay_mtu]


def test_a_header_checksum_is_verified_by_the_kernel(udp: Trio) -> None:
    a, b, _ = udp
    watch = Watch(a, ())
    try:
        inject(b, a.public_ip, UDP_PORT, SOUND[4][:10] + b"\xde\xad" + SOUND[4][12:])
        assert b.container(0).ping(a.container(0).address())
        assert {text.split()[0] for text in watch.beyond()} == {"ovl0"}, "and goes no further"
    finally:
        watch.close()


def test_a_broadcast_in_the_receivers_own_subnet_stops_at_the_host(udp: Trio) -> None:
    a, b, _ = udp
    watch = Watch(a, ())
    try:
        inject(b, a.public_ip, UDP_PORT, udp_packet(PEER[4], "10.1.1.255", MARK))
        assert b.container(0).ping(a.container(0).address())
        assert not [text for text in watch.beyond() if text.split()[0] in ("br0", "c1")]
        assert not [frame for frame in watch.container.frames() if MARK in frame.data]
    finally:
        watch.close()


# --- udp, at random ---------------------------------------------------------------------------------------------------


def mutated(rng: random.Random) -> bytes:
    """A sound packet of either family, damaged in up to five places; or noise."""
    if rng.random() < 0.1:
        return rng.randbytes(rng.randint(0, 1500))
    family = rng.choice(FAMILIES)
    payload = rng.randbytes(rng.choice((0, 1, 8, 100, 1300)))
    if family == 4 and rng.random() < 0.3:
        options = rng.randbytes(4 * rng.randint(0, 10))
        data = bytearray(
            ipv4(PEER[4], VICTIM[4], payload, protocol=rng.choice((ICMP, rng.randrange(256))), options=options)
        )
    elif family == 6 and rng.random() < 0.3:
        data = bytearray(ipv6(PEER[6], VICTIM[6], payload, next_header=rng.randrange(256)))
    else:
        data = bytearray(udp_packet(PEER[family], VICTIM[family], payload))
    for _ in range(rng.randint(0, 5)):
        at = rng.randrange(min(len(data), 60)) if rng.random() < 0.8 else rng.randrange(len(data))
        data[at] = rng.randrange(256)
    if rng.random() < 0.2:
        del data[rng.randint(0, len(data)) :]
    if rng.random() < 0.1:
        data += rng.randbytes(rng.randint(1, 300))
    return bytes(data)


def why_not_for(container: Container, frame: Frame) -> str | None:
    """Why a container may not see a packet that came in to it; None when it may."""
    data = frame.ip
    if not data:
        return None  # ARP of its own bridge
    version = data[0] >> 4
    if version == 4:
        if rfc1071(data[: (data[0] & 15) * 4]) or struct.unpack_from("!H", data, 2)[0] != len(data):
            return "malformed"
        source, destination = ip_address(data[12:16]), ip_address(data[16:20])
    else:
        if version != 6 or struct.unpack_from("!H", data, 4)[0] != len(data) - 40:
            return "malformed"
        source, destination = ip_address(data[8:24]), ip_address(data[24:40])
        if source.is_link_local or destination.is_link_local or destination.is_multicast:
            return None  # neighbour discovery of its own bridge
    senders = [subnet for host in container.host.lab.hosts[:2] for subnet in host.subnets]
    if not any(source in subnet for subnet in senders if subnet.version == version):
        return f"source {source}"
    return None if destination == container.address(version) else f"destination {destination}"


def test_two_thousand_random_datagrams(udp: Trio) -> None:
    a, b, _ = udp
    rng = random.Random(8285)
    control = SOUND[4], SOUND[6]
    datagrams = [control[number // 20 % 2] if number % 20 == 0 else mutated(rng) for number in range(2000)]
    pid, before = a.pid, a.status()

    def decided() -> int:
        now = a.status()
        counts = [(sum(one["drops"]["rx"].values()), one["traffic"]["rx_packets"]) for one in (before, now)]
        return sum(counts[1]) - sum(counts[0])

    with Capture(a.container(0), "eth0") as capture:
        inject(b, a.public(4), UDP_PORT, *[one for one in datagrams if one[:1] < b"\x60"])
        inject(b, a.public(6), UDP_PORT, *[one for one in datagrams if one[:1] >= b"\x60"])
        eventually(lambda: decided() == 2000, "each is either delivered or counted as refused", timeout=10)
        for family in FAMILIES:
            assert b.container(0).ping(a.container(0).address(family))
        came = capture.incoming("eth0")
    assert a.pid == pid
    assert [f"{why}: {frame}" for frame in came if (why := why_not_for(a.container(0), frame))] == []
    for one in control:
        # by the mark, not by the frame: an engine may join datagrams of one flow into a superpacket
        assert sum(frame.ip.count(MARK) for frame in came if frame.ip[:1] and frame.ip[0] >> 4 == one[0] >> 4) >= 50
    reasons = set(Counter(a.status()["drops"]["rx"]) - Counter(before["drops"]["rx"]))
    assert {"too_short", "bad_version", "bad_header_length", "length_mismatch", "spoofed_source"} <= reasons


# --- vxlan ------------------------------------------------------------------------------------------------------------


def vtep_mac(host: Host, underlay_family: int) -> str:
    """Of the host's overlay device on that underlay family."""
    device = {4: "ovl.1", 6: "ovl6.1"}[underlay_family]
    return str(json.loads(host.run("ip", "-j", "link", "show", device).stdout)[0]["address"])


def assert_dropped_by_rule(trio: Trio, sender: Host, underlay_family: int, inner: bytes, rule: str) -> None:
    """A VXLAN datagram with this packet is counted by this rule, and nothing else happens."""
    victim, peer, stranger = trio
    before = drops(victim)
    watch = Watch(victim, [stranger] if sender is peer else [peer])
    try:
        mac = vtep_mac(victim, underlay_family)
        inject(
            sender,
            victim.public(underlay_family),
            VXLAN_PORT,
            vxlan_datagram(1, mac, vtep_mac(sender, underlay_family), inner),
        )
        eventually(lambda: (drops(victim) - before).total() >= 1, timeout=5)
        for family in FAMILIES:
            assert peer.container(0).ping(victim.container(0).address(family))
        assert drops(victim) - before == Counter({rule: 1})
        decapsulated = {"ovl.1", "ovl6.1"} if sender is peer else set()  # the rules stand behind the device
        assert {text.split()[0] for text in watch.beyond()} <= decapsulated
        assert not [frame for frame in watch.container.frames() if MARK in frame.data]
    finally:
        watch.close()


@pytest.mark.parametrize("family", FAMILIES)
def test_vxlan_what_is_injected_would_be_seen(vxlan: Trio, family: int) -> None:
    a, b, _ = vxlan
    with Capture(a.container(0), "eth0") as capture:
        before = drops(a)
        datagram = vxlan_datagram(1, vtep_mac(a, family), vtep_mac(b, family), SOUND[family])
        inject(b, a.public(family), VXLAN_PORT, datagram)
        eventually(lambda: [frame for frame in capture.frames() if frame.ip[-len(MARK) :] == MARK], timeout=5)
        assert drops(a) == before


@pytest.mark.parametrize("family", FAMILIES)
def test_vxlan_from_a_stranger(vxlan: Trio, family: int) -> None:
    *_, stranger = vxlan
    inner = packet({4: "10.1.3.2", 6: "fd00:10:1:3::2"}[family], VICTIM[family], MARK)
    for one in (inner, SOUND[family]):
        assert_dropped_by_rule(vxlan, stranger, family, one, f"VXLAN from a host without a lease (IPv{family})")


def test_vxlan_a_strangers_containers_reach_nobody(vxlan: Trio) -> None:
    a, _, stranger = vxlan
    before = drops(a)
    for family in FAMILIES:
        assert not stranger.container(0).ping(a.container(0).address(family), timeout=0.2)
    assert (drops(a) - before).total() == 2


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("source", ["outside the overlay", "the sender's underlay address"])
def test_vxlan_from_a_peer_with_a_source_outside_the_network(vxlan: Trio, source: str, family: int) -> None:
    _, b, _ = vxlan
    device, network = {4: ("ovl.1", "10.1.0.0/16"), 6: ("ovl6.1", "fd00:10:1::/48")}[family]
    inner = udp_packet(SOURCES[source][FAMILIES.index(family)], VICTIM[family], MARK)
    assert_dropped_by_rule(vxlan, b, family, inner, f"{device}: source outside {network}")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("source", ["the receiver's own subnet", "the receiver's gateway", "the container itself"])
def test_vxlan_from_a_peer_with_a_source_in_the_receivers_subnet(vxlan: Trio, source: str, family: int) -> None:
    _, b, _ = vxlan
    device, subnet = {4: ("ovl.1", "10.1.1.0/24"), 6: ("ovl6.1", "fd00:10:1:1::/64")}[family]
    inner = udp_packet(SOURCES[source][FAMILIES.index(family)], VICTIM[family], MARK)
    assert_dropped_by_rule(vxlan, b, family, inner, f"{device}: source inside {subnet}")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "destination",
    [
        "the receiver's underlay address",
        "another host of the underlay",
        "the sender's own subnet",
        "another peer's subnet",
        "unleased",
        "outside the overlay",
        "multicast",
    ],
)
def test_vxlan_from_a_peer_for_a_destination_that_is_not_the_receivers(
    vxlan: Trio, destination: str, family: int
) -> None:
    _, b, _ = vxlan
    device, subnet = {4: ("ovl.1", "10.1.1.0/24"), 6: ("ovl6.1", "fd00:10:1:1::/64")}[family]
    inner = udp_packet(PEER[family], DESTINATIONS[destination][FAMILIES.index(family)], MARK)
    assert_dropped_by_rule(vxlan, b, family, inner, f"{device}: destination outside {subnet}")


def test_another_vni_on_the_same_port_is_left_alone(vxlan: Trio) -> None:
    """Somebody else's VXLAN between the victim and the stranger, whom the guard keeps out of VNI 1 only."""
    a, _, stranger = vxlan
    before = drops(a)
    for one, other, number in ((a, stranger, 1), (stranger, a, 3)):
        one.ip(
            f"link add other77 type vxlan id 77 dstport {VXLAN_PORT} local {one.public_ip} remote {other.public_ip}",
            f"address add 198.18.0.{number}/24 dev other77",
            "link set other77 up",
        )
    try:
        assert a.ping("198.18.0.3", count=3)
        assert stranger.ping("198.18.0.1", count=3)
        assert drops(a) == before
    finally:
        for host in (a, stranger):
            host.ip("link delete other77")


# --- host-gw: by the link, as it is -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def host_gw() -> Iterator[Trio]:
    with hosts(3, mode="host-gw", family="dual", underlay="dual", settings={"ip_masq": True}) as nodes:
        a, b, c = nodes
        yield without_the_third((a, b, c))


def send_by_link(sender: Host, target: Host, *packets: bytes) -> None:
    """Each packet in a frame to the target, whatever the sender's routes say."""
    (link,) = json.loads(target.run("ip", "-j", "link", "show", "eth0").stdout)
    mac = bytes.fromhex(link["address"].replace(":", ""))
    with sender.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as out:
        for one in packets:
            out.sendto(one, ("eth0", 0x0800 if one[0] >> 4 == 4 else 0x86DD, 0, 0, mac))


@pytest.mark.parametrize("family", FAMILIES)
def test_host_gw_what_a_host_on_the_link_can_send(host_gw: Trio, family: int) -> None:
    """The control, and what remains: a leased source may come from anybody on the link."""
    a, _, stranger = host_gw
    with Capture(a.container(0), "eth0") as capture:
        before = drops(a)
        send_by_link(stranger, a, SOUND[family])
        eventually(lambda: [frame for frame in capture.frames() if frame.ip[-len(MARK) :] == MARK], timeout=5)
        assert drops(a) == before


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("source", "destination", "rule"),
    [
        ("the receiver's own subnet", "the container itself", "source inside {subnet}"),
        ("the receiver's gateway", "the container itself", "source inside {subnet}"),
        ("the container itself", "the receiver's underlay address", "source inside {subnet}"),
        ("another peer's", "another peer's subnet", "from {network} for another host"),
        ("unleased", "the peer's container", "from {network} for another host"),
    ],
)
def test_host_gw_what_a_host_on_the_link_cannot_send(
    host_gw: Trio, source: str, destination: str, rule: str, family: int
) -> None:
    a, b, stranger = host_gw
    ends = {**SOURCES, **DESTINATIONS, "the peer's container": (PEER[4], PEER[6])}
    text = rule.format(subnet=a.subnets[family == 6], network={4: "10.1.0.0/16", 6: "fd00:10:1::/48"}[family])
    watch, before = Watch(a, [b]), drops(a)
    try:
        send_by_link(stranger, a, *[udp_packet(ends[source][family == 6], ends[destination][family == 6], MARK)] * 3)
        eventually(lambda: drops(a) - before == Counter({f"underlay: {text}": 3}), timeout=5)
        assert b.container(0).ping(a.container(0).address(family))
        assert watch.beyond() == []
    finally:
        watch.close()


@pytest.mark.parametrize("mode", ["udp", "vxlan"])
def test_a_family_that_the_overlay_does_not_have(mode: str) -> None:
    """An overlay of IPv4 is no way into an underlay that speaks IPv6 too, even if the host forwards IPv6."""
    with hosts(3, mode=mode, family="ipv4", underlay="dual") as (a, b, c):
        a.sysctl({"net/ipv6/conf/all/forwarding": 1})
        assert b.ping(a.container(0).address())  # and with it every neighbour is known
        packets = [udp_packet("fd00:192:0:2::2", end, MARK) for end in ("fd00:192:0:2::1", "fd00:192:0:2::3")]
        watch = Watch(a, [c])
        try:
            if mode == "udp":
                inject(b, a.public_ip, UDP_PORT, *packets)
                refused = Counter(spoofed_source=2)
            else:
                macs = vtep_mac(a, 4), vtep_mac(b, 4)
                inject(b, a.public_ip, VXLAN_PORT, *[vxlan_datagram(1, *macs, one) for one in packets])
                refused = Counter({"ovl.1: no such family here": 2})
            eventually(lambda: drops(a).total() >= 2, timeout=5)
            assert b.container(0).ping(a.container(0).address())
            assert drops(a) == refused
            assert {text.split()[0] for text in watch.beyond()} <= {"ovl.1"}
        finally:
            watch.close()
