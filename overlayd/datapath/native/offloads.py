"""Which offloads the kernel grants, on a TUN and on UDP sockets."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress

# <linux/if_tun.h>
_TUNGETIFF, _TUNSETOFFLOAD = 0x800454D2, 0x400454D0
_IFF_VNET_HDR = 0x4000
_TUN_F_CSUM = 0x01
TUN_OFFLOADS = {"tso4": 0x02, "tso6": 0x04, "tso_ecn": 0x08, "uso": 0x20 | 0x40}
_IFREQ = struct.Struct("16sH22x")
# <linux/udp.h>
_SOL_UDP, _UDP_SEGMENT, _UDP_GRO = 17, 103, 104


def run_segments() -> int:
    """How many datagrams the running kernel takes in one run (UDP_MAX_SEGMENTS)."""
    return 128 if kernel() >= (6, 9) else 64


def kernel() -> tuple[int, int]:
    """The release of the running kernel, such as (6, 17)."""
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int("".join(digit for digit in minor if digit.isdigit()) or 0)


def has_vnet_header(tun: int) -> bool:
    """Whether the TUN was opened with IFF_VNET_HDR; false for what is no TUN."""
    try:
        flags: int = _IFREQ.unpack(fcntl.ioctl(tun, _TUNGETIFF, bytes(_IFREQ.size)))[1]
    except OSError:
        return False
    return bool(flags & _IFF_VNET_HDR)


def enable_tun_offloads(tun: int, wanted: list[str]) -> list[str]:
    """Turn on what can be, the youngest feature given up first (USO came with Linux 6.2); the names, csum the last."""
    while True:
        bits = _TUN_F_CSUM
        for name in wanted:
            bits |= TUN_OFFLOADS[name]
        with suppress(OSError):
            fcntl.ioctl(tun, _TUNSETOFFLOAD, bits)
            return [*wanted, "csum"]
        if not wanted:
            return []
        wanted = wanted[:-1]


def has_udp_gso(sockets: Iterable[socket.socket]) -> bool:
    """Whether all of these sockets take runs of datagrams."""
    try:
        for sock in sockets:
            sock.getsockopt(_SOL_UDP, _UDP_SEGMENT)
    except OSError:
        return False
    return True


def set_udp_gro(sockets: Iterable[socket.socket], wanted: bool) -> bool:
    """Have all of these sockets receive runs of datagrams, or single ones; whether they return runs."""
    try:
        for sock in sockets:
            sock.setsockopt(_SOL_UDP, _UDP_GRO, int(wanted))
    except OSError:
        return False
    return wanted
