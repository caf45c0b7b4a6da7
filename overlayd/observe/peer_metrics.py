"""Metrics of peers and probes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import accumulate

from overlayd.core.leases.lease import Lease
from overlayd.core.probing.target import ProbeTarget
from overlayd.datapath.contract import Counters, Traffic
from overlayd.observe.metric_format import DIRECTIONS, MetricFamily, head, single
from overlayd.observe.probe_counters import BUCKETS, DROP_REASONS, ProbeCounters
from overlayd.observe.prober import Prober


def _state_of(targets: list[ProbeTarget]) -> str:
    """The state of a peer with several addresses: the worst of theirs."""
    states = {one.state for one in targets}
    return next((state for state in ("unreachable", "unknown", "reachable") if state in states), "not_probed")


def peer_states(peers: list[Lease], prober: Prober) -> MetricFamily:
    """How many peers are in each state."""
    states = Counter(_state_of(prober.targets_of(lease.key)) for lease in peers)
    samples = [({"state": state}, states[state]) for state in ("reachable", "unreachable", "unknown", "not_probed")]
    return "overlayd_peers", "gauge", "Peers by their state, as probes show it.", samples


def probes(counters: ProbeCounters) -> Iterator[MetricFamily]:
    """What the prober counts."""
    counts = counters.events
    yield single("overlayd_probes_sent_total", "counter", "Probes sent to peers.", counts["sent"])
    yield single("overlayd_probes_answered_total", "counter", "Probes of peers that were answered.", counts["answered"])
    drops = [({"reason": reason}, counters.drops[reason]) for reason in DROP_REASONS]
    yield "overlayd_probe_drops_total", "counter", "Datagrams on the probe port that were ignored, by reason.", drops


def round_trips(counters: ProbeCounters) -> str:
    """The histogram of round-trip times, as text."""
    name = "overlayd_probe_rtt_seconds"
    bounds, sums = [f"{bound:g}" for bound in BUCKETS] + ["+Inf"], list(accumulate(counters.histogram))
    lines = [f'{name}_bucket{{le="{bound}"}} {number}\n' for bound, number in zip(bounds, sums, strict=True)]
    tail = f"{name}_sum {counters.rtt_sum:.15g}\n{name}_count {sums[-1]}\n"
    return head(name, "histogram", "Round-trip times of probes to all peers.") + "".join(lines) + tail


def each_peer(peers: list[Lease], counters: Counters | None, prober: Prober) -> Iterator[MetricFamily]:
    """The series of each peer; `counters`: the engine's, if any."""
    names = {lease.key: ",".join(map(str, lease.subnets)) for lease in peers}
    if counters is not None:
        for what, meaning in (("packets", "Packets of containers."), ("bytes", "Their bytes.")):
            samples = [
                ({"peer": name, "direction": direction}, getattr(own, f"{direction}_{what}"))
                for key, name in names.items()
                for own in (counters.peers.get(key, Traffic()),)
                for direction in DIRECTIONS
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
    infos = [
        ({**labels, "name": lease.name, "version": one.sender.release, "mode": prober.mode_of(one) or "unknown"}, 1)
        for lease in peers
        for one in prober.targets_of(lease.key)
        if one.sender is not None
        for labels in ({"peer": names[lease.key], "address": one.endpoint.host},)
    ]
    yield "overlayd_peer_info", "gauge", "Name, version and mode of the peer; always 1.", infos
