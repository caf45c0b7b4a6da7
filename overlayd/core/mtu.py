"""Every MTU that overlayd speaks of, and the two converters between them. All are bytes of IP packet.

underlay_mtu   the largest IP packet that the underlay interface carries (1500 on plain Ethernet)
overhead       what a backend wraps around a container's packet on the underlay
overlay_mtu    underlay_mtu - overhead: for the TUN or VXLAN device, the bridge and the containers alike
"""

from __future__ import annotations

from overlayd.core.address import Family, Mode

IP_HEADER = {4: 20, 6: 40}
UDP_HEADER = 8
VXLAN_HEADER = 8  # RFC 7348
ETHERNET_HEADER = 14

MINIMUM = {4: 576, 6: 1280}
"""What every IP host must accept (RFC 791) and every IPv6 link must carry (RFC 8200)."""
MAXIMUM = 65535


def overhead(mode: Mode, underlay: Family) -> int:
    """Bytes around each container packet on an underlay of this family: 28/48 for udp, 50/70 for vxlan, 0."""
    if mode == "host-gw":
        return 0
    outer = IP_HEADER[underlay] + UDP_HEADER
    return outer if mode == "udp" else outer + VXLAN_HEADER + ETHERNET_HEADER


def overlay_mtu(underlay_mtu: int, mode: Mode, underlay: Family) -> int:
    """The largest container packet that crosses the underlay unfragmented."""
    return min(underlay_mtu, MAXIMUM) - overhead(mode, underlay)


def narrowed(path: int | None, mode: Mode, underlay: Family, inner: Family, overlay: int) -> int | None:
    """The largest container packet of family `inner` for a path of this MTU, where that is less than the overlay MTU;
    None where nothing is known of the path, or nothing bad."""
    if path is None or overlay_mtu(path, mode, underlay) >= overlay:
        return None
    return max(overlay_mtu(path, mode, underlay), MINIMUM[inner])
