"""A device's state and counters, cheaply: ioctl(2) and /proc.

They are those of this network namespace, and need no netlink socket, which may be busy with a dump of thousands of
routes.
"""

from __future__ import annotations

import fcntl
import socket
import struct
from collections.abc import Collection
from pathlib import Path

_SIOCGIFFLAGS = 0x8913  # netdevice(7)
_IFF_UP, _IFF_RUNNING = 0x1, 0x40
_IFREQ = struct.Struct("16sH22x")

_COUNTS = (
    *("rx_bytes", "rx_packets", "rx_errors", "rx_dropped", "rx_fifo", "rx_frame", "rx_compressed", "rx_multicast"),
    *("tx_bytes", "tx_packets", "tx_errors", "tx_dropped", "tx_fifo", "tx_collisions", "tx_carrier", "tx_compressed"),
)  # the columns of /proc/net/dev (proc(5))


def fault(device: str, *, carrier: bool = False) -> str | None:
    """What keeps the device from carrying packets, in words, or None.

    `carrier`: whether to check the carrier, too. The kernel reports its loss up to a second late (linkwatch).
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            flags: int = _IFREQ.unpack(fcntl.ioctl(sock, _SIOCGIFFLAGS, _IFREQ.pack(device.encode(), 0)))[1]
        except OSError:
            return f"{device}: the device is gone"
    if not flags & _IFF_UP:
        return f"{device}: the device is down (ip link set {device} up)"
    return f"{device}: the device has no carrier" if carrier and not flags & _IFF_RUNNING else None


def counts(devices: Collection[str]) -> dict[str, dict[str, int]]:
    """The kernel's counters of those of these devices that exist, by name."""
    found = {}
    for line in Path("/proc/self/net/dev").read_text().splitlines() if devices else ():
        name, _, numbers = line.partition(":")
        if name.strip() in devices:
            found[name.strip()] = dict(zip(_COUNTS, map(int, numbers.split()), strict=False))
    return found
