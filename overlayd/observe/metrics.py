"""/metrics in Prometheus' text format (version 0.0.4).

Written by hand: prometheus_client would keep an object for every series of every peer between scrapes, and all numbers
are counted elsewhere already. Names keep to Prometheus' conventions: base units, `_total` for what only grows, one
name for both directions with a label. A test reads the page with prometheus_client's parser.

How many series there are does not depend on how many peers there are beyond `metrics_peers`: then there are only sums,
and `overlayctl peer list` and `top` say which peer it is.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from overlayd import __version__
from overlayd.backend.data_path import DataPath
from overlayd.core.offload import OFFLOADS
from overlayd.datapath.contract import Counters
from overlayd.observe.health import Health
from overlayd.observe.lifecycle import Lifecycle
from overlayd.observe.metric_format import DIRECTIONS, MetricFamily, single, text
from overlayd.observe.overlay import Overlay
from overlayd.observe.peer_metrics import each_peer, peer_states, probes, round_trips
from overlayd.observe.status import all_drops
from overlayd.registry.base import RegistryState
from overlayd.system import descriptors, device


async def exposition(lifecycle: Lifecycle, overlay: Overlay, health: Health) -> str:
    """The page."""
    state = _state(lifecycle, overlay.registry.state(), health.report())
    families = [*_process(), *_build(), *await _running(overlay), *state]
    return "".join(text(*family) for family in families) + round_trips(overlay.prober.counters)


def waiting_exposition(lifecycle: Lifecycle, registry: RegistryState, report: Mapping[str, Any]) -> str:
    """The page of a daemon that waits for its registry; `report` is what its health checks answer."""
    families = [*_process(), *_build(), *_state(lifecycle, registry, report)]
    return "".join(text(*family) for family in families)


# --- the process and the daemon ---------------------------------------------------------------------------------------


def _process() -> Iterator[MetricFamily]:
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    cpu = resource.getrusage(resource.RUSAGE_SELF)
    yield single("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.", resident)
    yield single(
        "process_cpu_seconds_total", "counter", "Processor time, user and system.", cpu.ru_utime + cpu.ru_stime
    )
    yield single("process_open_fds", "gauge", "Open file descriptors.", descriptors.open_count())


def _build() -> Iterator[MetricFamily]:
    labels = {"version": __version__, "python": sys.version.split()[0]}
    yield "overlayd_build_info", "gauge", "Version of overlayd and of Python; always 1.", [(labels, 1)]


def _state(lifecycle: Lifecycle, registry: RegistryState, report: Mapping[str, Any]) -> Iterator[MetricFamily]:
    yield single("overlayd_start_time_seconds", "gauge", "When the daemon started, since the epoch.", lifecycle.started)
    ready = lifecycle.phase == "ready" and not report["broken"]
    yield single("overlayd_ready", "gauge", "Whether /readyz is green.", ready)
    yield single("overlayd_broken", "gauge", "Faults that stop packets being forwarded here.", len(report["broken"]))
    yield single("overlayd_problems", "gauge", "Problems as overlayctl status lists them.", len(report["problems"]))
    yield single("overlayd_reloads_total", "counter", "Configurations applied since the start.", lifecycle.reloads)
    refused = lifecycle.reload_error is not None
    yield single("overlayd_reload_refused", "gauge", "Whether the last reload was refused.", refused)
    where = {"registry": registry.name}
    connected = registry.connected and lifecycle.phase != "waiting"
    yield "overlayd_registry_connected", "gauge", "Whether the registry is reachable.", [(where, connected)]
    if registry.since is not None:
        meaning = "When overlayd_registry_connected last changed, since the epoch."
        yield "overlayd_registry_since_seconds", "gauge", meaning, [(where, registry.since)]
    stale = registry.stale is not None
    yield "overlayd_registry_stale", "gauge", "Whether leases come from this host's disk.", [(where, stale)]
    if registry.stale is not None:
        meaning = "When those leases were saved, since the epoch."
        yield "overlayd_registry_saved_seconds", "gauge", meaning, [(where, registry.stale)]
    invalid = len(registry.invalid)
    yield "overlayd_registry_invalid_entries", "gauge", "Invalid entries of the registry, ignored.", [(where, invalid)]
    if registry.revision is not None:
        meaning = "Revision of the registry that is known."
        yield "overlayd_registry_revision", "gauge", meaning, [(where, registry.revision)]
    if registry.expires is not None:
        meaning = "When this host's own lease ends unless renewed, since the epoch."
        yield single("overlayd_lease_expiry_time_seconds", "gauge", meaning, registry.expires)


async def _running(overlay: Overlay) -> list[MetricFamily]:
    backend, node, prober, reconciler = overlay.backend, overlay.node, overlay.prober, overlay.reconciler
    data_path = backend.data_path
    counters = data_path.counters() if data_path is not None else None
    peers = overlay.peers
    mode = {
        "mode": node.mode,
        "engine": (data_path.engine if data_path is not None else None) or "kernel",
        "registry": overlay.registry.name,
    }
    families = [
        ("overlayd_mode_info", "gauge", "Mode, engine and registry; always 1.", [(mode, 1)]),
        single("overlayd_overlay_mtu_bytes", "gauge", "MTU of the overlay.", node.overlay_mtu),
        single("overlayd_underlay_mtu_bytes", "gauge", "MTU of the underlay interface.", node.underlay.mtu),
        single("overlayd_leases", "gauge", "Leases known, this host's own included.", len(reconciler.table)),
        single("overlayd_repairs_total", "counter", "Kernel objects and switches repaired.", overlay.repairs),
        single(
            "overlayd_refused_operations",
            "gauge",
            "Operations that the kernel refused at the last attempt.",
            len(reconciler.failures),
        ),
        *(_engine(data_path, counters) if data_path is not None and counters is not None else ()),
        _drops(await all_drops(counters)),
        *_devices(backend.devices),
        peer_states(peers, prober),
        *probes(prober.counters),
    ]
    by_peer = len(peers) <= overlay.settings.metrics_peers
    meaning = "Whether each peer has its own series: there are at most metrics_peers peers."
    families.append(single("overlayd_peer_series", "gauge", meaning, by_peer))
    return [*families, *each_peer(peers, counters, prober)] if by_peer else families


# --- packets ----------------------------------------------------------------------------------------------------------


def _engine(data_path: DataPath, counters: Counters) -> Iterator[MetricFamily]:
    total, progress, gauges = counters.total, data_path.progress, data_path.gauges()
    both = [({"direction": one}, getattr(total, f"{one}_packets")) for one in DIRECTIONS]
    yield "overlayd_packets_total", "counter", "Packets of containers that the engine carried.", both
    both = [({"direction": one}, getattr(total, f"{one}_bytes")) for one in DIRECTIONS]
    yield "overlayd_bytes_total", "counter", "Bytes of these packets, from the IP header on.", both
    yield single("overlayd_icmp_sent_total", "counter", "ICMP errors sent to containers and peers.", counters.icmp_sent)
    meaning = "ICMP errors that the rate limit withheld."
    yield single("overlayd_icmp_limited_total", "counter", meaning, counters.icmp_limited)
    if progress is not None:
        both = [({"direction": one}, getattr(progress, f"{one}_bursts")) for one in DIRECTIONS]
        yield "overlayd_bursts_total", "counter", "Bursts that the engine handled, one per wake-up.", both
        both = [({"direction": one}, getattr(progress, f"{one}_reads")) for one in DIRECTIONS]
        yield "overlayd_reads_total", "counter", "Reads in them: a packet, a superpacket or a run of datagrams.", both
    offloads = [({"offload": name}, gauges[name]) for name in OFFLOADS if name in gauges]
    yield "overlayd_offload_enabled", "gauge", "Whether an offload is on.", offloads
    if gauges:
        refused = [({"offload": "udp_gso"}, gauges["gso_failures"]), ({"offload": "join"}, gauges["coalesce_refusals"])]
        yield "overlayd_offload_refusals_total", "counter", "Superpackets and runs that the kernel refused.", refused
        meaning = "Superpackets that left by tunnel GSO."
        yield single("overlayd_tunnelled_total", "counter", meaning, gauges["tunnelled"])
        yield single(
            "overlayd_busy_poll_seconds", "gauge", "Busy-poll time (udp.busy_poll_us).", gauges["busy_poll_us"] / 1e6
        )


def _drops(found: Mapping[str, Mapping[str, int]]) -> MetricFamily:
    samples = [
        ({"direction": direction, "reason": reason}, number)
        for direction, reasons in found.items()
        for reason, number in sorted(reasons.items())
    ]
    return "overlayd_drops_total", "counter", "Packets dropped, by reason (overlayctl counters explains each).", samples


def _devices(names: tuple[str, ...]) -> Iterator[MetricFamily]:
    """The kernel's counters of the overlay's devices: the only ones where the kernel forwards the packets."""
    counts = device.counts(names)
    for what, meaning in (
        ("packets", "Packets that the kernel counted at the device; tx is towards peers."),
        ("bytes", "Bytes that the kernel counted at the device."),
        ("errors", "Errors that the kernel counted at the device."),
        ("dropped", "Packets that the kernel dropped at the device."),
    ):
        samples = [
            ({"device": name, "direction": direction}, one[f"{direction}_{what}"])
            for name, one in counts.items()
            for direction in DIRECTIONS
        ]
        yield f"overlayd_device_{what}_total", "counter", meaning, samples
