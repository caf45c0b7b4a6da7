"""What the daemon says of itself."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from typing import Any, Protocol

from overlayd import __version__
from overlayd.backend.base import Backend
from overlayd.core.leases.lease import Lease
from overlayd.core.node import Node
from overlayd.datapath.contract import Counters, Traffic
from overlayd.observe.health import Health, device_traffic
from overlayd.observe.prober import Prober
from overlayd.reconcile.reconciler import Reconciler
from overlayd.reconcile.underlay import UnderlayFollower
from overlayd.registry.base import Registry
from overlayd.system import device, nft
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
    prober: Prober
    health: Health

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


def describe_peer(node: Node, lease: Lease) -> dict[str, Any]:
    """A peer: its lease, and why it cannot be reached, if the lease itself says so."""
    return {**describe_lease(lease), "problem": node.problem(lease)}


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
    registry = daemon.registry.state()
    peers = [
        {
            **describe_peer(node, lease),
            "traffic": asdict(counters.peers.get(lease.key, Traffic())) if counters is not None else None,
            "ways": ways.get(lease.key, []),
            "probes": daemon.prober.describe(lease.key),
        }
        for lease in daemon.reconciler.peers(node)
    ]
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
        **await describe_traffic(daemon, counters),
        "peers": peers,
        "broken": daemon.health.broken,
        "problems": list(daemon.health.problems()),
        "repairs": daemon.reconciler.repairs,
        "comparisons": daemon.reconciler.comparisons,
        "reload": {"count": daemon.reloads, "error": daemon.reload_error},
    }


async def describe_traffic(daemon: Running, counters: Counters | None) -> dict[str, Any]:
    """What was carried and what was not, since the engine or the device was made; `counters`: the engine's, if any."""
    devices = device.counts(daemon.backend.devices)
    if counters is None:
        return {
            "traffic": asdict(device_traffic(devices.values())) if devices else None,
            "drops": {"tx": {}, "rx": await firewall_drops(daemon)},
            "icmp": None,
            "bursts": None,
            "devices": devices,
        }
    progress = daemon.backend.progress
    return {
        "traffic": asdict(counters.total),
        "drops": {"tx": counters.tx_drops, "rx": counters.rx_drops},
        "icmp": {"sent": counters.icmp_sent, "limited": counters.icmp_limited},
        "bursts": asdict(progress) if progress is not None else None,
        "devices": devices,
    }


async def describe_counters(daemon: Running) -> dict[str, Any]:
    """What `overlayctl counters` and `top` ask for again and again: no more than numbers."""
    if daemon.state == "waiting":
        return describe_waiting(daemon)
    counters = daemon.backend.counters()
    peers = counters.peers if counters is not None else {}
    return {
        "state": daemon.state,
        "time": time.monotonic(),
        "mode": daemon.backend.node.mode,
        "engine": daemon.backend.engine,
        "offloads": daemon.backend.gauges(),
        **await describe_traffic(daemon, counters),
        "probes": {"counts": dict(daemon.prober.counts), "drops": dict(daemon.prober.drops)},
        "peers": {key: [one.tx_packets, one.tx_bytes, one.rx_packets, one.rx_bytes] for key, one in peers.items()},
        "broken": daemon.health.broken,
        "repairs": daemon.reconciler.repairs,
    }


async def firewall_drops(daemon: Running) -> dict[str, int]:
    """Packets that our own rules refused, by the rule's text."""
    if not daemon.backend.guarded:
        return {}
    try:
        return {text: packets for text, packets in (await nft.counters()).items() if packets}
    except HostError:
        return {}


def _text(value: object) -> str | None:
    return None if value is None else str(value)
