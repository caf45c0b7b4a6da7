"""sock_diag: the sockets of this network namespace that take what comes to a port. Needs no privileges."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from struct import Struct
from typing import NamedTuple

from overlayd.wire.address import Address
from overlayd.wire.netlink.message import attributes
from overlayd.wire.netlink.uapi import (
    AF_INET,
    AF_INET6,
    INET_DIAG_CGROUP_ID,
    INET_DIAG_MSG,
    INET_DIAG_REQ_V2,
    INET_DIAG_SKV6ONLY,
    TCP_CLOSE,
    TCP_LISTEN,
)

_UDP = 17
U64 = Struct("=Q")


class SocketEntry(NamedTuple):
    """A socket that listens, or of UDP one that is not connected."""

    address: Address
    """Unspecified (0.0.0.0 or ::) for all."""
    port: int
    v6_only: bool
    """Whether one on IPv6 addresses takes no IPv4."""
    user: int
    inode: int
    """Of the socket, as /proc/PID/fd shows it."""
    cgroup: int
    """The id of its control group; 0 where the kernel does not say (before 5.7)."""


def dump_header(family: int, protocol: int) -> bytes:
    """What selects the sockets of a family and protocol that take what comes to their ports."""
    states = 1 << (TCP_CLOSE if protocol == _UDP else TCP_LISTEN)
    return INET_DIAG_REQ_V2.pack(family, protocol, 0, states, bytes(2), bytes(2), bytes(16), bytes(16), 0, bytes(8))


def read_socket(data: bytes, begin: int, end: int) -> SocketEntry | None:
    """The socket in a body of the dump; None for one cut off."""
    if end - begin < INET_DIAG_MSG.size:
        return None
    family, _, _, _, port, _, source, *_, user, inode = INET_DIAG_MSG.unpack_from(data, begin)
    address = _address(family, source)
    if address is None:
        return None
    found = dict(attributes(data, begin + INET_DIAG_MSG.size, end))
    group = found.get(INET_DIAG_CGROUP_ID, b"")
    return SocketEntry(
        address,
        int.from_bytes(port),
        v6_only=any(found.get(INET_DIAG_SKV6ONLY, b"")),
        user=user,
        inode=inode,
        cgroup=U64.unpack(group)[0] if len(group) == U64.size else 0,
    )


def _address(family: int, packed: bytes) -> Address | None:
    if family == AF_INET:
        return IPv4Address(packed[:4])
    if family != AF_INET6:
        return None
    address = IPv6Address(packed)
    return address.ipv4_mapped or address
