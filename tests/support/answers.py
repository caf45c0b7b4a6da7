"""What a daemon answers on its control socket, and how the commands show it."""

from __future__ import annotations

from typing import Any

from overlayd.cli.terminal import Block, Terminal

TRAFFIC = {"tx_packets": 0, "tx_bytes": 0, "rx_packets": 0, "rx_bytes": 0}
PROBE: dict[str, Any] = {
    "address": "192.0.2.2",
    "state": "reachable",
    "seconds": 60.0,
    "rtt": {"last": 0.0004, "min": 0.0003, "avg": 0.00052},
    "asked": 20,
    "loss": 0.05,
    "path_mtu": 1400,
    "version": "0.1.0",
    "mode": "udp",
    "overlay_mtu": 1472,
    "problem": None,
    "notes": ["the path MTU is 1400 bytes"],
}
PEER: dict[str, Any] = {
    "name": "host-b",
    "subnet": "10.1.2.0/24",
    "ipv6_subnet": "fd00::/64",
    "public_ip": "192.0.2.2",
    "public_ipv6": None,
    "problem": None,
    "probes": [PROBE],
}
COUNTERS: dict[str, Any] = {
    "state": "ready",
    "time": 100.0,
    "mode": "udp",
    "engine": "native",
    "offloads": {"tso4": 1, "run_segments": 128},
    "traffic": TRAFFIC,
    "drops": {"tx": {}, "rx": {}},
    "icmp": {"sent": 0, "limited": 0},
    "bursts": {"tx_bursts": 0, "tx_reads": 0, "rx_bursts": 0, "rx_reads": 0},
    "devices": {},
    "probes": {"counts": {}, "drops": {}},
    "peers": {},
    "broken": [],
    "repairs": 0,
}
CARRIED = {"tx_packets": 3, "tx_bytes": 1_500, "rx_packets": 4, "rx_bytes": 2_000_000}
LEASE: dict[str, Any] = {
    "name": "host-b",
    "subnet": "10.1.2.0/24",
    "ipv6_subnet": None,
    "public_ip": "192.0.2.2",
    "public_ipv6": None,
    "vtep_mac": "06:47:0f:9c:01:2a",
    "backend": None,
    "reserved": False,
    "problem": None,
    "traffic": CARRIED,
    "ways": [],
    "probes": [],
}
REGISTRY: dict[str, Any] = {
    "name": "static",
    "connected": True,
    "since": None,
    "stale": None,
    "error": None,
    "endpoint": None,
    "revision": None,
    "invalid": {},
}
STATE: dict[str, Any] = {
    "version": "0.1.0",
    "pid": 77,
    "state": "ready",
    "uptime_seconds": 90_061.5,
    "mode": "udp",
    "engine": "python",
    "registry": "static",
    "registry_state": REGISTRY,
    "lease": {**LEASE, "name": "host-a", "subnet": "10.1.1.0/24", "ipv6_subnet": "fd00:10:1:1::/64"},
    "underlay": {"interface": "eth0", "mtu": 1500, "public_ip": "192.0.2.1", "public_ipv6": None},
    "overlay": {"interfaces": ["ovl0"], "mtu": 1472, "networks": ["10.1.0.0/16"]},
    "traffic": CARRIED,
    "drops": {"tx": {"no_route": 2}, "rx": {"not_a_peer": 5}},
    "icmp": {"sent": 1, "limited": 0},
    "peers": [LEASE],
    "problems": [],
    "repairs": 0,
    "reload": {"count": 0, "error": None},
}


def text(*blocks: Block, width: int | None = None) -> str:
    """The blocks as they are shown."""
    return "\n".join(Terminal(width).lines(blocks))
