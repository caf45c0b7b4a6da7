"""Netlink messages and their attributes, and what every object's requests have in common.

     message     NLMSGHDR in native byte order, a fixed header by the object's type, attributes; padded to 4 bytes
     attribute   NLATTR, value; padded to 4 bytes

Encoded and decoded by hand because there are thousands: a generic codec takes ten times as long for each, and a lease
table of 10,000 peers makes 30,000. Whatever bytes come, a decoder raises nothing and reads within the given bounds.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from struct import Struct

from overlayd.wire.address import Address, Network
from overlayd.wire.netlink.uapi import (
    AF_INET,
    AF_INET6,
    NLA_F_NESTED,
    NLA_TYPE_MASK,
    NLATTR,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    NLMSGERR,
    NLMSGHDR,
)

ADD = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
"""Flags of a request that the kernel refuses (EEXIST) where there is such an object."""
PUT = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE
"""Flags of a request that replaces such an object."""
SET = NLM_F_REQUEST | NLM_F_ACK
"""Flags of a request that changes or deletes an object."""

U32, S32 = Struct("=I"), Struct("=i")


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """A message of this type."""
    return NLMSGHDR.pack(NLMSGHDR.size + len(body), kind, flags, sequence, 0) + body


def attribute(kind: int, value: bytes) -> bytes:
    """An attribute, padded."""
    length = NLATTR.size + len(value)
    return NLATTR.pack(length, kind) + value + bytes(-length % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that consists of attributes."""
    return attribute(kind | NLA_F_NESTED, b"".join(attributes))


def text(kind: int, value: str) -> bytes:
    """An attribute that holds a string, terminated."""
    return attribute(kind, value.encode() + b"\0")


def u32(kind: int, value: int) -> bytes:
    """An attribute that holds a number."""
    return attribute(kind, U32.pack(value))


def u8(kind: int, value: int) -> bytes:
    """An attribute that holds a number of one byte."""
    return attribute(kind, bytes([value]))


def octets(mac: str) -> bytes:
    """An Ethernet address as the value of an attribute."""
    return bytes.fromhex(mac.replace(":", ""))


def dump_request(kind: int, header: bytes, sequence: int) -> bytes:
    """Asks for every object that the fixed header selects."""
    return message(kind, NLM_F_REQUEST | NLM_F_DUMP, sequence, header)


def family_header(family: int, struct: Struct) -> bytes:
    """A fixed header that selects an address family; each begins with it."""
    return bytes([family]).ljust(struct.size, b"\0")


def messages(data: bytes) -> Iterator[tuple[int, int, int, int, int, int]]:
    """(type, flags, sequence, port, begin of the body, its end) of each whole message that a socket delivered."""
    offset = 0
    while offset + NLMSGHDR.size <= len(data):
        length, kind, flags, sequence, port = NLMSGHDR.unpack_from(data, offset)
        if length < NLMSGHDR.size or offset + length > len(data):
            return
        yield kind, flags, sequence, port, offset + NLMSGHDR.size, offset + length
        offset += length + 3 & ~3


def attributes(data: bytes, offset: int, end: int) -> Iterator[tuple[int, bytes]]:
    """(type, value) of each whole attribute from `offset` on."""
    while offset + NLATTR.size <= end:
        length, kind = NLATTR.unpack_from(data, offset)
        if length < NLATTR.size or offset + length > end:
            return
        yield kind & NLA_TYPE_MASK, data[offset + NLATTR.size : offset + length]
        offset += length + 3 & ~3


def acknowledgements(data: bytes) -> list[tuple[int, int]]:
    """(sequence, errno) of every acknowledgement that a socket delivered; errno 0 is success."""
    return [
        (sequence, read_error(data, begin, end))
        for kind, _, sequence, _, begin, end in messages(data)
        if kind == NLMSG_ERROR and end - begin >= NLMSGERR.size
    ]


def read_error(data: bytes, begin: int, end: int) -> int:
    """The errno in a body of NLMSG_ERROR; 0 for one cut off."""
    return -int(NLMSGERR.unpack_from(data, begin)[0]) if end - begin >= NLMSGERR.size else 0


def read_number(value: bytes) -> int:
    """The number in an attribute; 0 in one of another size."""
    return int(U32.unpack(value)[0]) if len(value) == U32.size else 0


def read_text(value: bytes) -> str:
    """The string in an attribute."""
    return value.partition(b"\0")[0].decode(errors="replace")


def read_ip(packed: bytes) -> Address | None:
    """The address in an attribute, by its size."""
    if len(packed) == 4:
        return IPv4Address(packed)
    return IPv6Address(packed) if len(packed) == 16 else None


def read_mac(value: bytes) -> str | None:
    """The Ethernet address in an attribute."""
    return value.hex(":") if len(value) == 6 else None


def family_of(address: Address | Network) -> int:
    """AF_INET or AF_INET6."""
    return AF_INET if address.version == 4 else AF_INET6
