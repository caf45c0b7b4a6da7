"""/metrics in Prometheus' text format (version 0.0.4).

Written by hand: prometheus_client would keep an object for every series of every peer between scrapes, and all numbers
are counted elsewhere already. Names keep to Prometheus' conventions: base units, `_total` for what only grows, one
name for both directions with a label. A test reads the page with prometheus_client's parser.

How many series there are does not depend on how many peers there are beyond `metrics_peers`: then there are only sums,
and `overlayctl peer list` and `top` say which peer it is.
"""

from __future__ import annotations

import platform
import resource
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

from overlayd import __version__
from overlayd.backend.data_path import DataPath
from overlayd.core.leases.lease import Lease
from overlayd.core.offload import OFFLOADS
from overlayd.core.probing.target import ProbeTarget
from overlayd.datapath.contract import Counters, Traffic
from overlayd.observe.health import Health
from overlayd.observe.lifecycle import Lifecycle
from overlayd.observe.overlay import Overlay
from overlayd.observe.probe_counters import BUCKETS, DROP_REASONS, ProbeCounters
from overlayd.observe.prober import Prober
from overlayd.observe.status import firewall_drops
from overlayd.registry.base import RegistryState
from overlayd.system import descriptors, device

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = Mapping[str, str]
Sample = tuple[Labels, float]
MetricFamily = tuple[str, str, str, Iterable[Sample]]
"""Name, type, help, samples."""

_DIRECTIONS = ("tx", "rx")


async def exposition(lifecycle: Lifecycle, overlay: Overlay, health: Health) -> str:
    """The page."""
    state = _state(lifecycle, overlay.registry.state(), health.report())
    families = [*_process(), *_build(), *await _running(overlay), *state]
    return "".join(_text(*family) for family in families) + _round_trips(overlay.prober.counters)


def waiting_exposition(lifecycle: Lifecycle, registry: RegistryState, report: Mapping[str, Any]) -> str:
    """The page of a daemon that waits for its registry; `report` is what its health checks answer."""
    families = [*_process(), *_build(), *_state(lifecycle, registry, report)]
    return "".join(_text(*family) for family in families)


def _text(name: str, kind: str, meaning: str, samples: Iterable[Sample]) -> str:
    lines = [f"{name}{_labels(labels)} {value:.15g}\n" for labels, value in samples]
    return "".join([_head(name, kind, meaning), *lines]) if lines else ""


def _head(name: str, kind: str, meaning: str) -> str:
    return f"# HELP {name} {meaning}\n# TYPE {name} {kind}\n"


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{key}="{_escaped(value)}"' for key, value in labels.items()) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _one(name: str, kind: str, meaning: str, value: float) -> MetricFamily:
    return name, kind, meaning, [({}, value)]


# --- the process and the daemon ---------------------------------------------------------------------------------------


def _process() -> Iterator[MetricFamily]:
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    cpu = resource.getrusage(resource.RUSAGE_SELF)
    yield _one("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.", resident)
    yield _one("process_cpu_seconds_total", "counter", "Processor time, user and system.", cpu.ru_utime + cpu.ru_stime)
    yield _one("process_open_fds", "gauge", "Open file descriptors.", descriptors.open_count())


def _build() -> Iterator[MetricFamily]:
    labels = {"version": __version__, "python": platform.python_version()}
    yield "overlayd_build_info", "gauge", "Version of overlayd and of Python; always 1.", [(labels, 1)]


def _state(lifecycle: Lifecycle, registry: RegistryState, report: Mapping[str, Any]) -> Iterator[MetricFamily]:
    yield _one("overlayd_start_time_seconds", "gauge", "When the daemon started, since the epoch.", lifecycle.started)
    ready = lifecycle.phase == "ready" and not report["broken"]
    yield _one("overlayd_ready", "gauge", "Whether /readyz is green.", ready)
    yield _one("overlayd_broken", "gauge", "Faults that keep packets from being forwarded here.", len(report["broken"]))
    yield _one("overlayd_problems", "gauge", "Problems as overlayctl status lists them.", len(report["problems"]))
    yield _one("overlayd_reloads_total", "counter", "Configurations applied since the start.", lifecycle.reloads)
    refused = lifecycle.reload_error is not None
    yield _one("overlayd_reload_refused", "gauge", "Whether the last reload was refused.", refused)
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
        yield _one("overlayd_lease_expiry_time_seconds", "gauge", meaning, registry.expires)


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
    rules = {} if counters is not None else await firewall_drops(backend)
    families = [
        ("overlayd_mode_info", "gauge", "Mode, engine and registry; always 1.", [(mode, 1)]),
        _one("overlayd_overlay_mtu_bytes", "gauge", "MTU of the overlay.", node.overlay_mtu),
        _one("overlayd_underlay_mtu_bytes", "gauge", "MTU of the underlay interface.", node.underlay.mtu),
        _one("overlayd_leases", "gauge", "Leases known, this host's own included.", len(reconciler.table)),
        _one("overlayd_repairs_total", "counter", "Kernel objects and forwarding switches repaired.", overlay.repairs),
        _one(
            "overlayd_refused_operations",
            "gauge",
            "Operations that the kernel refused at the last attempt.",
            len(reconciler.failures),
        ),
        *(_engine(data_path, counters) if data_path is not None and counters is not None else ()),
        _drops(counters, rules),
        *_devices(backend.devices),
        _peer_states(peers, prober),
        *_probes(prober.counters),
    ]
    single = len(peers) <= overlay.settings.metrics_peers
    meaning = "Whether each peer has its own series: there are at most metrics_peers peers."
    families.append(_one("overlayd_peer_series", "gauge", meaning, single))
    return [*families, *_each_peer(peers, counters, prober)] if single else families


# --- packets ----------------------------------------------------------------------------------------------------------


def _engine(data_path: DataPath, counters: Counters) -> Iterator[MetricFamily]:
    total, progress, gauges = counters.total, data_path.progress, data_path.gauges()
    both = [({"direction": one}, getattr(total, f"{one}_packets")) for one in _DIRECTIONS]
    yield "overlayd_packets_total", "counter", "Packets of containers that the engine carried.", both
    both = [({"direction": one}, getattr(total, f"{one}_bytes")) for one in _DIRECTIONS]
    yield "overlayd_bytes_total", "counter", "Bytes of these packets, from the IP header on.", both
    yield _one("overlayd_icmp_sent_total", "counter", "ICMP errors sent to containers and peers.", counters.icmp_sent)
    meaning = "ICMP errors that the rate limit withheld."
    yield _one("overlayd_icmp_limited_total", "counter", meaning, counters.icmp_limited)
    if progress is not None:
        both = [({"direction": one}, getattr(progress, f"{one}_bursts")) for one in _DIRECTIONS]
        yield "overlayd_bursts_total", "counter", "Bursts that the engine handled, one per wake-up.", both
        both = [({"direction": one}, getattr(progress, f"{one}_reads")) for one in _DIRECTIONS]
        yield "overlayd_reads_total", "counter", "Reads in them: a packet, a superpacket or a run of datagrams.", both
    offloads = [({"offload": name}, gauges[name]) for name in OFFLOADS if name in gauges]
    yield "overlayd_offload_enabled", "gauge", "Whether an offload is on.", offloads
    if gauges:
        refused = [({"offload": "udp_gso"}, gauges["gso_failures"]), ({"offload": "join"}, gauges["coalesce_refusals"])]
        yield "overlayd_offload_refusals_total", "counter", "Superpackets and runs that the kernel refused.", refused
        meaning = "Superpackets that left by tunnel GSO."
        yield _one("overlayd_tunnelled_total", "counter", meaning, gauges["tunnelled"])
        yield _one(
            "overlayd_busy_poll_seconds", "gauge", "Busy-poll time (udp.busy_poll_us).", gauges["busy_poll_us"] / 1e6
        )


def _drops(counters: Counters | None, rules: Mapping[str, int]) -> MetricFamily:
    found = {"tx": counters.tx_drops, "rx": counters.rx_drops} if counters is not None else {"rx": rules}
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
            for direction in _DIRECTIONS
        ]
        yield f"overlayd_device_{what}_total", "counter", meaning, samples


# --- peers ------------------------------------------------------------------------------------------------------------


def _state_of(targets: list[ProbeTarget]) -> str:
    """The state of a peer with several addresses: the worst of theirs."""
    states = {one.state for one in targets}
    return next((state for state in ("unreachable", "unknown", "reachable") if state in states), "not_probed")


def _peer_states(peers: list[Lease], prober: Prober) -> MetricFamily:
    states = Counter(_state_of(prober.targets_of(lease.key)) for lease in peers)
    samples = [({"state": state}, states[state]) for state in ("reachable", "unreachable", "unknown", "not_probed")]
    return "overlayd_peers", "gauge", "Peers by their state, as probes show it.", samples


def _probes(counters: ProbeCounters) -> Iterator[MetricFamily]:
    counts = counters.events
    yield _one("overlayd_probes_sent_total", "counter", "Probes sent to peers.", counts["sent"])
    yield _one("overlayd_probes_answered_total", "counter", "Probes of peers that were answered.", counts["answered"])
    drops = [({"reason": reason}, counters.drops[reason]) for reason in DROP_REASONS]
    yield "overlayd_probe_drops_total", "counter", "Datagrams on the probe port that were ignored, by reason.", drops


def _round_trips(counters: ProbeCounters) -> str:
    name = "overlayd_probe_rtt_seconds"
    bounds, sums = [f"{bound:g}" for bound in BUCKETS] + ["+Inf"], list(accumulate(counters.histogram))
    lines = [f'{name}_bucket{{le="{bound}"}} {number}\n' for bound, number in zip(bounds, sums, strict=True)]
    tail = f"{name}_sum {counters.rtt_sum:.15g}\n{name}_count {sums[-1]}\n"
    return _head(name, "histogram", "Round-trip times of probes to all peers.") + "".join(lines) + tail


def _each_peer(peers: list[Lease], counters: Counters | None, prober: Prober) -> Iterator[MetricFamily]:
    names = {lease.key: ",".join(map(str, lease.subnets)) for lease in peers}
    if counters is not None:
        for what, meaning in (("packets", "Packets of containers."), ("bytes", "Their bytes.")):
            samples = [
                ({"peer": name, "direction": direction}, getattr(own, f"{direction}_{what}"))
                for key, name in names.items()
                for own in (counters.peers.get(key, Traffic()),)
                for direction in _DIRECTIONS
            ]
            yield f"overlayd_peer_{what}_total", "counter", f"{meaning} By peer.", samples
    targets = [
        ({"peer": names[lease.key], "address": one.endpoint.host}, one)
        for lease in peers
        for one in prober.targets_of(lease.key)
    ]
    reachable = [(labels, one.state == "reachable") for labels, one in targets if one.state != "unknown"]
    yield "overlayd_peer_reachable", "gauge", "Whether the peer answers probes.", reachable
    averages = [(labels, sum(rtts) / len(rtts)) for labels, one in targets if (rtts := one.rtts)]
    yield "overlayd_peer_rtt_seconds", "gauge", "Average round-trip time of the last probes.", averages
    least = [(labels, min(rtts)) for labels, one in targets if (rtts := one.rtts)]
    yield "overlayd_peer_rtt_min_seconds", "gauge", "Minimum round-trip time of the last probes.", least
    loss = [(labels, one.loss) for labels, one in targets if one.asked]
    yield "overlayd_peer_loss_ratio", "gauge", "Fraction of the last probes that was not answered, 0 to 1.", loss
    sizes = [(labels, one.path.mtu) for labels, one in targets if one.path.mtu is not None]
    yield "overlayd_peer_path_mtu_bytes", "gauge", "Path MTU to the peer, by probes.", sizes
    told = [
        ({**labels, "name": lease.name, "version": one.sender.release, "mode": prober.mode_of(one) or "unknown"}, 1)
        for lease in peers
        for one in prober.targets_of(lease.key)
        if one.sender is not None
        for labels in ({"peer": names[lease.key], "address": one.endpoint.host},)
    ]
    yield "overlayd_peer_info", "gauge", "Name, version and mode of the peer; always 1.", told
