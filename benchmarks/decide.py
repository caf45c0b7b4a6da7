"""What a decision costs, and whether it grows with the number of peers."""

from __future__ import annotations

import random
import struct
import time
from ipaddress import IPv4Address, ip_network

from rounds import interleave, show

from overlayd.core.forward import DELIVER, ForwardingTable, Peer, Send, decide_inbound, decide_outbound
from overlayd.datapath.native.table import NativeTable

PACKETS = 100_000


def table(peers: int) -> ForwardingTable:
    """A table of that many peers, each with a /24 of 10.0.0.0/8; this host's own is 10.0.0.0/24."""
    routes = [
        (ip_network(((10 << 24) + (index << 8), 24)), Peer(str(IPv4Address(index)), 8285, 4, str(index)))
        for index in range(1, peers + 1)
    ]
    own = ip_network("10.0.0.0/24")
    return ForwardingTable([own], [own[0]], 1472, routes)


def packet(source: int, destination: int) -> bytes:
    """An IPv4 packet of 64 bytes."""
    return struct.pack("!BBHHHBBHII", 0x45, 0, 64, 0, 0, 64, 17, 0, source, destination) + bytes(44)


def outbound(peers: int) -> float:
    """Nanoseconds for a decision that sends."""
    routes, sent = table(peers), packet((10 << 24) + 2, (10 << 24) + (peers << 8) + 2)
    assert isinstance(decide_outbound(sent, routes), Send)
    start = time.perf_counter()
    for _ in range(PACKETS):
        decide_outbound(sent, routes)
    return (time.perf_counter() - start) / PACKETS * 1e9


def inbound(peers: int) -> float:
    """Nanoseconds for a decision that delivers."""
    routes, received = table(peers), packet((10 << 24) + (peers << 8) + 2, (10 << 24) + 2)
    host = str(IPv4Address(peers))
    assert decide_inbound(received, host, routes) is DELIVER
    start = time.perf_counter()
    for _ in range(PACKETS):
        decide_inbound(received, host, routes)
    return (time.perf_counter() - start) / PACKETS * 1e9


def native_lookup(peers: int) -> float:
    """Nanoseconds for one of the native engine, the call from Python included, to peers at random."""
    routes = table(peers)
    compiled = NativeTable(int)
    compiled.replace(routes)
    made = compiled.made
    chosen = random.Random(1).choices(range(1, peers + 1), k=PACKETS)
    sent = [packet((10 << 24) + 2, (10 << 24) + (peer << 8) + 2) for peer in chosen]
    start = time.perf_counter()
    for one in sent:
        made.outbound(one)
    return (time.perf_counter() - start) / PACKETS * 1e9


if __name__ == "__main__":
    scenarios = {
        f"{name}, {peers:,} peers": lambda scenario=scenario, peers=peers: scenario(peers)
        for name, scenario in (("outbound", outbound), ("inbound", inbound), ("native, outbound", native_lookup))
        for peers in (2, 1_000, 10_000)
    }
    show("A decision on one packet", "ns", interleave(scenarios))
