"""Every MTU that overlayd speaks of, and the two converters between them. All are bytes of IP packet.

underlay_mtu   the largest IP packet that the underlay interface carries (1500 on plain Ethernet)
overhead       what a mode wraps around a container's packet on the underlay (`ModeSpec.overhead`)
overlay_mtu    underlay_mtu - overhead: for the TUN or VXLAN device, the bridge and the containers alike
"""

from __future__ import annotations

from overlayd.core.address import Family

IP_HEADER: dict[Family, int] = {4: 20, 6: 40}
UDP_HEADER = 8
VXLAN_HEADER = 8  # RFC 7348
ETHERNET_HEADER = 14

UDP_OVERHEAD: dict[Family, int] = {family: header + UDP_HEADER for family, header in IP_HEADER.items()}
"""Of an IP packet in UDP, by underlay family: 28 and 48."""

MINIMUM = {4: 576, 6: 1280}
"""What every IP host must accept (RFC 791) and every IPv6 link must carry (RFC 8200)."""
MAXIMUM = 65535


def overlay_mtu(underlay_mtu: int, overhead: int) -> int:
    """The largest container packet that crosses the underlay unfragmented."""
    return min(underlay_mtu, MAXIMUM) - overhead


def narrowed(path: int | None, overhead: int, inner: Family, overlay: int) -> int | None:
    """The largest container packet of family `inner` for a path of this MTU, where that is less than the overlay MTU;
    None where the path is as wide as that, or unknown."""
    if path is None or overlay_mtu(path, overhead) >= overlay:
        return None
    return max(overlay_mtu(path, overhead), MINIMUM[inner])
