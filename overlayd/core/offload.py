"""Offloads: what the kernel does for a packet engine, by name. Each is probed, and can be left out."""

from __future__ import annotations

OFFLOADS = {
    "tso4": "the TUN gives and takes TCP superpackets of IPv4",
    "tso6": "and of IPv6",
    "tso_ecn": "and such that carry ECN's CWR",
    "uso": "the TUN gives and takes UDP superpackets (Linux 6.2)",
    "udp_gso": "a run of datagrams is one send",
    "udp_gro": "a run of datagrams is one receive",
    "join_tcp": "TCP packets that came apart are joined for the TUN; needs tso4 and tso6",
    "join_udp": "and UDP packets; needs uso",
    "tunnel_gso": "a superpacket leaves whole, with its outer headers (Linux 6.17; between hosts with wire: overlayd)",
}
