"""What tests of the native engine need: superpackets and their segments made by hand, tables as it takes them.

Importing it skips the test module where the engine is not built.
"""

from __future__ import annotations

import struct

import pytest

from overlayd.core.forward import DropReason, ForwardingTable, Peer
from support.packets import ipv4, ipv6, rfc1071

native = pytest.importorskip(
    "overlayd.datapath.native._native", reason="the native engine is not built: needs a C compiler"
)
native_table = pytest.importorskip("overlayd.datapath.native.table")
FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))
TCP, UDP = 6, 17
NONE, TCPV4, TCPV6, UDP_L4, ECN = 0, 1, 4, 5, 0x80
NEEDS_CSUM = 1
ENDS = {4: ("10.1.1.2", "10.1.2.3"), 6: ("fd00:1::2", "fd00:2::3")}


def fresh() -> native_table.NativeTable:
    """One that gives slots as NativeEngine does."""
    slots: dict[str, int] = {}
    return native_table.NativeTable(lambda name: slots.setdefault(name, len(slots)))


def compiled(table: ForwardingTable) -> tuple[native.Table, dict[int, Peer]]:
    """The native table and its peers, as NativeEngine makes them."""
    made = fresh()
    made.replace(table)
    return made.made, made.peers


def number(reason: DropReason) -> int:
    return -1 - native.REASONS.index(reason.value)


def pseudo(data: bytes, protocol: int, transport: int) -> bytes:
    ends = data[12:20] if data[0] >> 4 == 4 else data[8:40]
    return ends + struct.pack("!II", len(data) - transport, protocol)


def valid(data: bytes) -> bool:
    """Whether all checksums of a TCP or UDP packet are right."""
    transport = (data[0] & 15) * 4 if data[0] >> 4 == 4 else 40
    protocol = data[9] if data[0] >> 4 == 4 else data[6]
    if data[0] >> 4 == 4 and rfc1071(data[:transport]):
        return False
    return rfc1071(pseudo(data, protocol, transport) + data[transport:]) == 0


def partial(data: bytes, transport: int, protocol: int, offset: int) -> bytes:
    """With the pseudo header's sum in the checksum field, as the kernel leaves it."""
    at = transport + offset
    return data[:at] + struct.pack("!H", ~rfc1071(pseudo(data, protocol, transport)) & 0xFFFF) + data[at + 2 :]


def finished(data: bytes, transport: int, protocol: int, offset: int) -> bytes:
    at = transport + offset
    cleared = data[:at] + b"\0\0" + data[at + 2 :]
    return (
        data[:at]
        + struct.pack("!H", rfc1071(pseudo(cleared, protocol, transport) + cleared[transport:]))
        + data[at + 2 :]
    )


def vnet(kind: int, size: int, transport: int, offset: int, headers: int) -> bytes:
    return struct.pack("=BBHHHH", NEEDS_CSUM, kind, headers, size, transport, offset)


def ip_packet(version: int, protocol: int, body: bytes, options: bytes = b"", **fields: object) -> bytes:
    if version == 4:
        return ipv4(*ENDS[4], body, protocol=protocol, options=options, **fields)
    return ipv6(*ENDS[6], body, next_header=protocol)


def tcp(
    payload: bytes,
    *,
    version: int = 4,
    sequence: int = 1000,
    flags: int = ACK,
    options: bytes = b"",
    ip_options: bytes = b"",
    window: int = 500,
    ack: int = 77,
    port: int = 5201,
    **fields: object,
) -> bytes:
    """A whole packet with right checksums."""
    offset = 5 + len(options) // 4
    body = struct.pack("!HHIIBBHHH", 40000, port, sequence, ack, offset << 4, flags, window, 0, 0) + options + payload
    data = ip_packet(version, TCP, body, ip_options, **fields)
    return finished(data, len(data) - len(body), TCP, 16)


class Super:
    """A TCP superpacket as the kernel hands it over."""

    def __init__(
        self, version: int, payload: bytes, size: int, flags: int, options: bytes, ip_options: bytes, sequence: int
    ):
        self.version, self.payload, self.size, self.flags, self.sequence = version, payload, size, flags, sequence
        whole = tcp(payload, version=version, sequence=sequence, flags=flags, options=options, ip_options=ip_options)
        self.transport = 20 + len(ip_options) if version == 4 else 40
        self.headers = self.transport + 20 + len(options)
        self.packet = partial(whole, self.transport, TCP, 16)
        self.vnet = vnet(TCPV4 if version == 4 else TCPV6, size, self.transport, 16, self.headers)
