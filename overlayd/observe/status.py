"""What `overlayctl status`, `peers` and `counters` show, as JSON."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from typing import Any

from overlayd import __version__
from overlayd.backend.base import Backend
from overlayd.core.leases.lease import Lease
from overlayd.core.node import Node
from overlayd.datapath.contract import Counters, Traffic
from overlayd.observe.health import Health, device_traffic, waiting_reason
from overlayd.observe.lifecycle import Lifecycle
from overlayd.observe.overlay import Overlay
from overlayd.registry.base import RegistryState
from overlayd.system import device, nft
from overlayd.system.errors import HostError


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
    """A peer: its lease, and why it is unreachable, if the lease shows that."""
    return {**describe_lease(lease), "problem": node.problem(lease)}


def describe_waiting(lifecycle: Lifecycle, registry: RegistryState) -> dict[str, Any]:
    """The state of a daemon that waits for its registry and has touched nothing yet."""
    return {
        **_process(lifecycle),
        "registry": registry.name,
        "registry_state": asdict(registry),
        "problems": [waiting_reason(registry)],
    }


def _process(lifecycle: Lifecycle) -> dict[str, Any]:
    return {
        "version": __version__,
        "pid": os.getpid(),
        "state": lifecycle.phase,
        "uptime_seconds": round(time.time() - lifecycle.started, 3),
    }


def status_line(overlay: Overlay, reload_error: str | None) -> str:
    """One line, for `systemctl status`."""
    node, registry = overlay.node, overlay.registry.state()
    leases = len(overlay.reconciler.table)
    line = f"{node.mode}: {node.lease} over {node.underlay.name}, MTU {node.overlay_mtu}, {leases} leases"
    if not registry.connected:
        line += f"; {registry.name} is unreachable"
    return f"{line}; reload refused, see the log" if reload_error else line


async def describe(lifecycle: Lifecycle, overlay: Overlay, health: Health) -> dict[str, Any]:
    """The whole state, for people and machines alike."""
    backend, node, reconciler = overlay.backend, overlay.node, overlay.reconciler
    own = reconciler.table.get(node.lease.key)
    data_path = backend.data_path
    counters = data_path.counters() if data_path is not None else None
    capabilities = data_path.capabilities() if data_path is not None else {}
    registry = overlay.registry.state()
    peers = [
        {
            **describe_peer(node, lease),
            "traffic": asdict(counters.peers.get(lease.key, Traffic())) if counters is not None else None,
            "capabilities": capabilities.get(lease.key, []),
            "probes": overlay.prober.describe(lease.key),
        }
        for lease in overlay.peers
    ]
    return {
        **_process(lifecycle),
        "mode": node.mode,
        "engine": data_path.engine if data_path is not None else None,
        "offloads": data_path.gauges() if data_path is not None else {},
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
        **await describe_traffic(backend, counters),
        "peers": peers,
        "broken": health.broken,
        "problems": list(health.problems()),
        "repairs": overlay.repairs,
        "comparisons": reconciler.comparisons,
        "reload": {"count": lifecycle.reloads, "error": lifecycle.reload_error},
    }


async def describe_traffic(backend: Backend, counters: Counters | None) -> dict[str, Any]:
    """Traffic and drops since the engine or the device was created; `counters`: the engine's, if any."""
    devices = device.counts(backend.devices)
    if counters is None:
        return {
            "traffic": asdict(device_traffic(devices.values())) if devices else None,
            "drops": await all_drops(None),
            "icmp": None,
            "bursts": None,
            "devices": devices,
        }
    progress = backend.data_path.progress if backend.data_path is not None else None
    return {
        "traffic": asdict(counters.total),
        "drops": await all_drops(counters),
        "icmp": {"sent": counters.icmp_sent, "limited": counters.icmp_limited},
        "bursts": asdict(progress) if progress is not None else None,
        "devices": devices,
    }


async def describe_counters(lifecycle: Lifecycle, overlay: Overlay, health: Health) -> dict[str, Any]:
    """The numbers that `overlayctl counters` and `top` poll."""
    backend, data_path, prober = overlay.backend, overlay.backend.data_path, overlay.prober
    counters = data_path.counters() if data_path is not None else None
    peers = counters.peers if counters is not None else {}
    return {
        "state": lifecycle.phase,
        "time": time.monotonic(),
        "mode": overlay.node.mode,
        "engine": data_path.engine if data_path is not None else None,
        "offloads": data_path.gauges() if data_path is not None else {},
        **await describe_traffic(backend, counters),
        "probes": {"counts": dict(prober.counters.events), "drops": dict(prober.counters.drops)},
        "peers": {key: [one.tx_packets, one.tx_bytes, one.rx_packets, one.rx_bytes] for key, one in peers.items()},
        "broken": health.broken,
        "repairs": overlay.repairs,
    }


async def all_drops(counters: Counters | None) -> dict[str, dict[str, int]]:
    """Packets dropped by the engine, if there is one, and by our own rules: by direction (tx, rx) and reason."""
    try:
        found = await nft.counters()
    except HostError:
        found = {"tx": {}, "rx": {}}
    if counters is not None:
        found = {"tx": {**counters.tx_drops, **found["tx"]}, "rx": {**counters.rx_drops, **found["rx"]}}
    return found


def _text(value: object) -> str | None:
    return None if value is None else str(value)
