"""What the daemon says of itself."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from typing import Any, Protocol

from overlayd import __version__
from overlayd.backend.base import Backend
from overlayd.control.reconciler import Reconciler
from overlayd.control.underlay import UnderlayFollower
from overlayd.core.lease import Lease
from overlayd.core.node import Node
from overlayd.datapath.engine import Counters, Traffic
from overlayd.registry.base import Registry, RegistryState
from overlayd.system import nft
from overlayd.system.errors import HostError
from overlayd.system.netlink import Netlink


class Running(Protocol):
    """The parts of a running daemon that its state is read from."""

    state: str
    started: float
    """Seconds since the epoch."""
    reloads: int
    reload_error: str | None
    backend: Backend
    reconciler: Reconciler
    underlay: UnderlayFollower
    netlink: Netlink

    @property
    def registry(self) -> Registry:
        """Where leases come from."""


def describe_lease(lease: Lease) -> dict[str, Any]:
    """A lease as JSON; absent things are null."""
    return {
        "name": lease.name or None,
        "subnet": _text(lease.subnet),
        "ipv6_subnet": _text(lease.ipv6_subnet),
        "public_ip": _text(lease.public_ip),
        "public_ipv6": _text(lease.public_ipv6),
        "vtep_mac": lease.vtep_mac,
        "wire": lease.wire,
        "backend": lease.backend,
        "reserved": lease.reserved,
    }


def describe_peer(node: Node, lease: Lease, counters: Counters | None, ways: list[str]) -> dict[str, Any]:
    """A peer: its lease, why it cannot be reached if so, its traffic where an engine counts it, and ways beyond
    flannel's."""
    traffic = asdict(counters.peers.get(lease.key, Traffic())) if counters is not None else None
    return {**describe_lease(lease), "problem": node.problem(lease), "traffic": traffic, "ways": ways}


def describe_waiting(daemon: Running) -> dict[str, Any]:
    """The state of a daemon that waits for its registry and has touched nothing yet."""
    registry = daemon.registry.state()
    return {
        "version": __version__,
        "pid": os.getpid(),
        "state": daemon.state,
        "uptime_seconds": round(time.time() - daemon.started, 3),
        "registry": registry.name,
        "registry_state": asdict(registry),
        "problems": [f"waiting for {registry.name}: {registry.error or 'it has not answered yet'}"],
    }


async def describe(daemon: Running) -> dict[str, Any]:
    """The whole state, for people and machines alike."""
    backend, node = daemon.backend, daemon.backend.node
    own = daemon.reconciler.table.get(node.lease.key)
    counters = backend.counters()
    ways = backend.ways()
    peers = [describe_peer(node, lease, counters, ways.get(lease.key, [])) for lease in daemon.reconciler.peers(node)]
    problems = [str(failure) for failure in daemon.reconciler.failures]
    if daemon.underlay.trouble is not None:
        problems.append(daemon.underlay.trouble)
    registry = daemon.registry.state()
    if not registry.connected or registry.stale is not None:
        problems.append(_registry_problem(registry))
    problems += [f"{key}: {text}" for key, text in registry.bad.items()]
    problems += [f"{peer['subnet'] or peer['ipv6_subnet']}: {peer['problem']}" for peer in peers if peer["problem"]]
    return {
        "version": __version__,
        "pid": os.getpid(),
        "state": daemon.state,
        "uptime_seconds": round(time.time() - daemon.started, 3),
        "mode": node.mode,
        "engine": backend.engine,
        "offloads": backend.gauges(),
        "registry": registry.name,
        "registry_state": asdict(registry),
        # Whether it is reserved is an operator's to change while the daemon runs.
        "lease": {**describe_lease(node.lease), "reserved": (own or node.lease).reserved},
        "underlay": {
            "interface": node.underlay.name,
            "mtu": node.underlay.mtu,
            "public_ip": _text(node.underlay.public_ip),
            "public_ipv6": _text(node.underlay.public_ipv6),
        },
        "overlay": {
            "interfaces": list(backend.devices),
            "mtu": node.overlay_mtu,
            "networks": [str(one.network) for one in node.ranges],
        },
        "traffic": asdict(counters.total) if counters is not None else await _device_traffic(daemon),
        "drops": {
            "tx": counters.tx_drops if counters is not None else {},
            "rx": counters.rx_drops if counters is not None else await _firewall_drops(daemon),
        },
        "icmp": {"sent": counters.icmp_sent, "limited": counters.icmp_limited} if counters is not None else None,
        "peers": peers,
        "problems": problems,
        "repairs": daemon.reconciler.repairs,
        "comparisons": daemon.reconciler.comparisons,
        "reload": {"count": daemon.reloads, "error": daemon.reload_error},
    }


async def _device_traffic(daemon: Running) -> dict[str, int] | None:
    """The kernel's counters of the overlay devices, in the engine's terms; None in host-gw mode."""
    if not daemon.backend.devices:
        return None
    total = Traffic()
    for device in daemon.backend.devices:
        counts = await daemon.netlink.statistics(device)
        total.tx_packets += counts.get("tx_packets", 0)
        total.tx_bytes += counts.get("tx_bytes", 0)
        total.rx_packets += counts.get("rx_packets", 0)
        total.rx_bytes += counts.get("rx_bytes", 0)
    return asdict(total)


async def _firewall_drops(daemon: Running) -> dict[str, int]:
    if not daemon.backend.guarded:
        return {}
    try:
        return {text: packets for text, packets in (await nft.counters()).items() if packets}
    except HostError:
        return {}


def _registry_problem(state: RegistryState) -> str:
    since = ""
    if state.stale is not None:
        since = f"; the leases are stale: this host saved them {time.time() - state.stale:.0f} s ago"
    elif state.since is not None:
        since = f", for {time.time() - state.since:.0f} s; the leases are those known then"
    return f"{state.name} is out of reach{since}: {state.error or 'not tried again yet'}"


def _text(value: object) -> str | None:
    return None if value is None else str(value)
