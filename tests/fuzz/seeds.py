"""Seeds for the fuzz targets, one file each: seeds.py DIRECTORY writes DIRECTORY/packets/* and DIRECTORY/table/*.

The formats of the inputs stand in packets.c and table.c. `make fuzz-merge` makes the corpus out of these.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path

from support.packets import ipv4, ipv6, rfc1071

FIX_LENGTHS, FIX_SUMS, CONTINUE, DAMAGE = 1, 2, 4, 8
FIX = FIX_LENGTHS | FIX_SUMS
TCP, UDP, ICMP, FRAGMENT, DESTINATION = 6, 17, 1, 44, 60
NONE, TCPV4, TCPV6, UDP_L4 = 0, 1, 4, 5
FIN, SYN, PSH, ACK, URG, CWR = 1, 2, 8, 16, 32, 128
TIMESTAMPS = b"\1\1\x08\x0a" + bytes(range(8))
ENDS = {4: ("10.1.1.2", "10.1.2.3"), 6: ("fd00:1::2", "fd00:2::3")}


# --- packets ----------------------------------------------------------------------------------------------------------


def tcp(flags: int = ACK, options: bytes = b"", port: int = 5201, sequence: int = 2**32 - 500) -> bytes:
    return struct.pack("!HHIIBBHHH", 40000, port, sequence, 7, 5 + len(options) // 4 << 4, flags, 500, 0, 0) + options


def udp(port: int = 53) -> bytes:
    return struct.pack("!HHHH", 40000, port, 0, 0)


def whole(version: int, protocol: int, transport: bytes, **fields: object) -> bytes:
    if version == 4:
        return ipv4(*ENDS[4], transport, protocol=protocol, **fields)
    return ipv6(*ENDS[6], transport, next_header=protocol)


def zero_sum(version: int) -> bytes:
    """A UDP packet with 2 bytes of payload, no checksum, and a sum of 0 where it had one (RFC 768: written as ffff)."""
    data = whole(version, UDP, struct.pack("!HHHH2x", 40000, 53, 10, 0))
    ends = data[12:20] if version == 4 else data[8:40]
    return data[:-2] + struct.pack("!H", rfc1071(ends + struct.pack("!HH", 10, UDP) + data[-10:]))


def entry(data: bytes, fill: int = 0, more: int = 0, how: int = FIX) -> bytes:
    return struct.pack("<BHB", how | more << 4, fill, len(data)) + data


def change(*pairs: int, how: int = FIX | CONTINUE) -> bytes:
    """The packet before it again, with values added at offsets."""
    return entry(bytes(value % 256 for value in pairs), how=how)


def vnet(kind: int = NONE, size: int = 0, start: int = 0, offset: int = 0, headers: int = 0) -> bytes:
    return struct.pack("<BBHHHH", 1, kind, headers, size, start, offset)


def superpackets() -> Iterator[tuple[str, bytes]]:
    for version, start in ((4, 20), (6, 40)):
        for fill, size in ((0, 100), (99, 100), (1000, 100), (6400, 50), (64000, 1448), (3000, 1)):
            for flags in (ACK, ACK | PSH, ACK | PSH | FIN | CWR):
                data = entry(whole(version, TCP, tcp(flags, TIMESTAMPS)), fill)
                kind = TCPV4 if version == 4 else TCPV6
                yield f"super-tcp{version}-{fill}-{size}-{flags}", vnet(kind, size, start, 16, start + 32) + data
            data = entry(whole(version, UDP, udp()), fill)
            yield f"super-udp{version}-{fill}-{size}", vnet(UDP_L4, size, start, 6, start + 8) + data
        unequal = entry(whole(version, UDP, udp() + bytes(9)), how=FIX_SUMS)  # the length in its UDP header is 0
        yield f"super-udp{version}-length", vnet(UDP_L4, 3, start, 6, start + 8) + unequal
    options = entry(whole(4, TCP, tcp(options=bytes([1] * 40)), options=bytes([1] * 40)), 500)
    yield "super-options", vnet(TCPV4, 100, 60, 16, 120) + options
    for length in (8, 192, 200):  # as much as HEADERS_MAX allows, and more
        extension = bytes([TCP, length // 8 - 1, 1, length - 4]) + bytes(length - 4)
        head = entry(whole(6, DESTINATION, extension + tcp())[:255], 500)
        yield f"super-extension-{length}", vnet(TCPV6, 100, 40 + length, 16, 60 + length) + head
    yield "super-fragment", vnet(TCPV4, 100, 20, 16, 40) + entry(whole(4, TCP, tcp(), more_fragments=True), 500)
    yield "super-wrong-kind", vnet(TCPV6, 100, 20, 16, 40) + entry(whole(4, TCP, tcp()), 500)
    yield "super-no-size", vnet(TCPV4, 0, 20, 16, 40) + entry(whole(4, TCP, tcp()), 500)
    yield "super-cut-off", vnet(TCPV4, 100, 20, 16, 40) + entry(whole(4, TCP, tcp())[:35])
    yield "super-short-offset", vnet(TCPV4, 100, 20, 16, 40) + entry(whole(4, TCP, tcp()[:12] + b"\x40" + tcp()[13:]))


def flows() -> Iterator[tuple[str, bytes]]:
    for version, start in ((4, 20), (6, 40)):
        plain = entry(whole(version, TCP, tcp()), 100, 4)
        yield f"flow-tcp{version}", vnet() + plain
        yield f"flow-tcp{version}-long", vnet() + entry(whole(version, TCP, tcp()), 9, 15) + change() * 7 + plain
        yield (
            f"flow-tcp{version}-many",
            vnet() + entry(whole(version, TCP, tcp()), 3) + (entry(b"", how=FIX | CONTINUE, more=15) * 10),
        )
        yield f"flow-tcp{version}-large", vnet() + entry(whole(version, TCP, tcp()), 9000, 12)
        yield f"flow-udp{version}", vnet() + entry(whole(version, UDP, udp()), 100, 4)
        yield (
            f"flow-udp{version}-many",
            vnet() + entry(whole(version, UDP, udp()), 1, 15) + (entry(b"", how=FIX | CONTINUE, more=15) * 5),
        )
        yield f"flow-udp{version}-no-checksum", vnet() + entry(whole(version, UDP, udp()), 100, 4, how=FIX_LENGTHS)
        shorter = entry(whole(version, TCP, tcp(sequence=0)), 40)  # 2^32 - 500 + 5 * 100
        yield f"flow-tcp{version}-shorter", vnet() + plain + shorter + change() * 2
        yield (
            f"flow-udp{version}-shorter",
            vnet() + entry(whole(version, UDP, udp()), 9) * 2 + (entry(whole(version, UDP, udp()), 5) * 3),
        )
        zero = entry(zero_sum(version), 0, 2, how=FIX_LENGTHS)
        yield f"flow-udp{version}-sum-of-zero", vnet(UDP_L4, 2, start, 6, start + 8) + zero
        yield f"super-udp{version}-sum-of-zero", vnet(UDP_L4, 99, start, 6, start + 8) + zero
        for name, at, by in (
            ("sequence", 7, 1), ("ack", 11, 1), ("reserved", 12, 1), ("push", 13, PSH), ("fin", 13, FIN),
            ("cwr", 13, CWR), ("window", 15, 1), ("urgent", 19, 1), ("port", 3, 1), ("checksum", 17, 1),
            ("payload", 25, 1),
        ):  # fmt: skip
            for how in (FIX | CONTINUE, FIX | CONTINUE | DAMAGE):
                changed = change(start + at, by, how=how)
                yield f"flow-tcp{version}-{name}-{how}", vnet() + plain + changed + change() * 2
        yield f"flow-tcp{version}-damaged-first", vnet() + change(start + 25, 1, how=FIX | CONTINUE | DAMAGE) + plain
        for name, at, by in {4: (("tos", 1, 4), ("id", 5, 1), ("reserved", 6, 128), ("ttl", 8, 1), ("sum", 10, 1)),
                             6: (("class", 1, 16), ("label", 3, 1), ("hops", 7, 1))}[version]:  # fmt: skip
            yield f"flow-tcp{version}-{name}", vnet() + plain + change(at, by) + change() * 2
        both = entry(whole(version, TCP, tcp(port=1)), 50) + entry(whole(version, UDP, udp(2)), 50)
        yield f"flows-{version}-in-turns", vnet() + both * 4
        yield (
            f"flows-{version}-too-many",
            vnet() + b"".join(entry(whole(version, TCP, tcp(port=port)), 20) for port in (*range(40), *range(40))),
        )
    yield "flow-tcp4-df", vnet() + entry(whole(4, TCP, tcp(), dont_fragment=True), 100, 4) + change(5, 9) * 2
    yield "flow-tcp4-options", vnet() + entry(whole(4, TCP, tcp(), options=bytes([1] * 4)), 100, 4)
    fragment = entry(whole(4, UDP, udp(), more_fragments=True), 100) + entry(whole(4, UDP, b"", offset=9), 100)
    yield "flow-udp4-fragments", vnet() + entry(whole(4, UDP, udp()), 100, 2) + fragment
    first = struct.pack("!BBHI", UDP, 0, 1, 5)  # RFC 8200 section 4.5
    behind = entry(whole(6, DESTINATION, struct.pack("!BB6x", TCP, 0) + tcp()), 100)
    yield "flow-tcp6-extension", vnet() + entry(whole(6, TCP, tcp()), 100, 1) + behind + entry(whole(6, TCP, tcp()), 9)
    yield "flow-udp6-fragments", vnet() + entry(whole(6, UDP, udp()), 100, 2) + entry(whole(6, FRAGMENT, first + udp()))
    yield "mixed", vnet() + entry(whole(4, ICMP, bytes(8))) + entry(whole(6, TCP, tcp())) + entry(whole(4, UDP, udp()))


def others() -> Iterator[tuple[str, bytes]]:
    for version, start in ((4, 20), (6, 40)):
        for protocol, transport, offset in ((TCP, tcp(), 16), (UDP, udp(), 6)):
            data = whole(version, protocol, transport + b"odd")
            yield f"complete-{version}-{protocol}", vnet(start=start, offset=offset) + entry(data)
            for length in (start - 1, start, start + 7, start + 8, start + 19):
                yield f"short-{version}-{protocol}-{length}", vnet() + entry(data[:length])
                yield f"lies-{version}-{protocol}-{length}", vnet() + entry(data[:length], how=0)
    for start, offset in ((0, 0), (20, 65535), (65535, 65535), (30, 9), (39, 0), (38, 0)):
        yield f"complete-at-{start}-{offset}", vnet(start=start, offset=offset) + entry(whole(4, TCP, tcp()))
    yield "longest", vnet() + entry(whole(4, UDP, udp()), 65535 - 28)
    yield "too-long", vnet() + entry(whole(4, UDP, udp()), 65535 - 20)
    yield (
        "other-version",
        vnet() + entry(b"\x50" + bytes(40)) + entry(b"\x00") + entry(b"") + entry(b"\x4f" + bytes(30)),
    )


# --- tables -----------------------------------------------------------------------------------------------------------


def table(networks: list[tuple[str, int]], hosts: tuple[str, ...], length: int = 100, mtu: int = 1472) -> bytes:
    """`networks`: (prefix, owner: -1 for nobody from now on, 0 for this host, else 1 and up); a host that begins with -
    is one for whose address nobody stands from now on."""
    peers = b""
    for host in hosts:
        address = ip_address(host.removeprefix("-")).packed
        peers += bytes([len(address) // 16 | host.startswith("-") << 1]) + address
    made = struct.pack("<HHB", mtu, length, len(hosts)) + peers
    for text, owner in networks:
        network = ip_network(text)
        made += bytes([owner + 1 << 1 | network.version // 6, network.prefixlen]) + network.network_address.packed
    return made


def tables() -> Iterator[tuple[str, bytes]]:
    hosts = ("192.0.2.2", "192.0.2.3", "2001:db8::2", "192.0.2.2")
    nested = [("10.0.0.0/8", 1), ("10.1.0.0/16", 2), ("10.1.1.0/24", 0), ("10.1.1.7/32", 3), ("0.0.0.0/0", 4)]
    wide = [("::/0", 3), ("fd00::/16", 1), ("fd00:1::/64", 0), ("fd00:1::/65", 2), ("fd00:1::7/128", 4)]
    for length in (20, 40, 100, 1472, 1473, 65535):
        yield f"nested-{length}", table(nested + wide, hosts, length)
    yield "empty", table([], ())
    yield "alone", table([("10.1.1.0/24", 0), ("fd00:1::/64", 0)], ())
    yield "twice", table([("10.1.1.0/24", 0), ("10.1.1.0/24", 1)] * 3, hosts)
    yield "many", table([(f"10.1.{number}.0/24", number % 4) for number in range(47)], hosts)
    yield "many-wide", table([(f"fd00:{number}::/64", number % 4) for number in range(47)], hosts)
    come_and_go = [(f"10.{number % 9}.{number % 3}.0/24", number % 5 - 1) for number in range(48)]
    yield "come-and-go", table(come_and_go, (*hosts, "-192.0.2.2", "-2001:db8::2", "192.0.2.2"))
    yield "all-gone", table([(f"fd00:{n % 8}::/{n % 2 + 63}", 2 - n // 16) for n in range(48)], ("-192.0.2.9", *hosts))
    yield "lengths", table([(f"10.1.1.0/{bits}", bits % 4) for bits in range(24, 33)], hosts)
    yield "lengths-wide", table([(f"fd00::/{bits}", bits % 4) for bits in range(8, 129, 3)], hosts)
    yield "ends", table([("0.0.0.0/1", 1), ("128.0.0.0/1", 0), ("255.255.255.255/32", 2), ("0.0.0.0/32", 0)], hosts)


def main(directory: Path) -> None:
    for target, seeds in (("packets", (*superpackets(), *flows(), *others())), ("table", tuple(tables()))):
        (directory / target).mkdir(parents=True, exist_ok=True)
        for name, data in seeds:
            (directory / target / name).write_bytes((b"\3" if target == "packets" else b"") + data)
            if name.startswith("flow"):  # the same from a peer that leaves sums partial
                (directory / target / f"{name}-partial").write_bytes(b"\x0f" + data)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
