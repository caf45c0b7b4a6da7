"""Offloads: what the kernel does for a packet engine, by name. Each is probed, and can be left out."""

from __future__ import annotations

OFFLOADS = {
    "tso4": "the TUN passes IPv4 TCP superpackets",
    "tso6": "the TUN passes IPv6 TCP superpackets",
    "tso_ecn": "the TUN passes TCP superpackets that carry ECN's CWR flag",
    "uso": "the TUN passes UDP superpackets (Linux 6.2)",
    "udp_gso": "one send hands the kernel a whole run of datagrams",
    "udp_gro": "one receive returns a whole run of datagrams",
    "coalesce_tcp": "received TCP segments are coalesced for the TUN; needs tso4 and tso6",
    "coalesce_udp": "received UDP datagrams are coalesced for the TUN; needs uso",
    "tunnel_gso": "a superpacket is sent whole, with its outer headers (Linux 6.17; between hosts with wire: overlayd)",
}
