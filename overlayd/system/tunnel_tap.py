"""A TAP into which superpackets go with their outer headers on, for the kernel to forward (Linux 6.17, tunnel GSO).

    engine -> [virtio-net header | Ethernet | IP | UDP | inner superpacket] -> this TAP -> the kernel's forwarding ->
    the underlay interface, which cuts it, or another host's kernel on the same machine, which need not

It lives as long as its descriptor is open. Nothing is ever read from it.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct

from overlayd.system.errors import HostError
from overlayd.system.ethtool import features
from overlayd.system.files import read_sysctl, write_sysctl

# <linux/if_tun.h>
_TUNSETIFF, _TUNSETOFFLOAD, _TUNSETVNETHDRSZ = 0x400454CA, 0x400454D0, 0x400454D8
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_CSUM, _TSO4, _TSO6, _TSO_ECN, _TUNNEL_GSO, _TUNNEL_GSO_CSUM = 0x01, 0x02, 0x04, 0x08, 0x80, 0x100
_VNET_HEADER = 24  # struct virtio_net_hdr_v1_hash_tunnel
# <linux/sockios.h>, <linux/if.h>
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCSIFMTU, _SIOCGIFHWADDR = 0x8913, 0x8914, 0x8922, 0x8927
_IFF_UP = 1
_MTU = 9000  # of the device; a superpacket may be longer

_NEEDED = ("tx-tcp-segmentation", "tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation")
"""Features of the underlay interface without which the kernel would cut in software, slower than we do."""

_SYSCTLS = (
    ("net/ipv4/conf/{}/accept_local", "1"),  # the outer source is this host's own address
    ("net/ipv4/conf/{}/rp_filter", "0"),
    ("net/ipv6/conf/{}/addr_gen_mode", "1"),  # none
    ("net/ipv6/conf/{}/accept_ra", "0"),
)


class TunnelTap:
    """The device. Close it to remove it."""

    def __init__(self, name: str, underlay: str) -> None:
        """Make it; `underlay` is the interface that its packets leave by. Raises HostError where the kernel cannot."""
        self.name = name
        self._underlay = underlay
        self._fd = -1
        try:
            self._fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
            fcntl.ioctl(
                self._fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR)
            )
            fcntl.ioctl(self._fd, _TUNSETVNETHDRSZ, struct.pack("=i", _VNET_HEADER))
            fcntl.ioctl(self._fd, _TUNSETOFFLOAD, _CSUM | _TSO4 | _TSO6 | _TSO_ECN | _TUNNEL_GSO | _TUNNEL_GSO_CSUM)
            for sysctl, value in _SYSCTLS:
                if read_sysctl(sysctl.format(name)) is not None:  # the kernel may have no IPv6
                    write_sysctl(sysctl.format(name), value)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                ifname = name.encode().ljust(16, b"\0")
                fcntl.ioctl(sock, _SIOCSIFMTU, struct.pack("16si20x", ifname, _MTU))
                answer = fcntl.ioctl(sock, _SIOCGIFHWADDR, ifname + bytes(24))
                self.mac = answer[18:24]
                (flags,) = struct.unpack_from("=H", fcntl.ioctl(sock, _SIOCGIFFLAGS, ifname + bytes(24)), 16)
                fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH22x", ifname, flags | _IFF_UP))
        except (OSError, HostError) as error:
            self.close()
            raise HostError(f"TAP {name}: {error}; tunnel GSO needs Linux 6.17") from None

    def fileno(self) -> int:
        """The descriptor to write frames to."""
        return self._fd

    def pays(self) -> bool:
        """Whether the underlay interface cuts such superpackets itself, as it is set now."""
        try:
            return features(self._underlay).issuperset(_NEEDED)
        except OSError:
            return False

    def close(self) -> None:
        """Remove it. Safe to call twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
