"""Signs that hosts are configured differently (port, VNI, public IP, lease table, NAT), which no lease shows.

1. sightings      who sends what a host configured alike would not: noted by rules (core/kernel/firewall/signs.py), and
                  in udp mode by the engine; those that keep sending are named
2. drops          packets that the engine has dropped because two hosts' leases differ
3. silent peers   something is sent to them, and nothing has ever come; of those that are probed, probes tell more

Polled every second; what is remembered is bounded, whoever sends how much. Each sign is logged when it begins and when
it ends.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from ipaddress import ip_address

from overlayd.backend.base import Backend
from overlayd.core.kernel.firewall import Sighting, Sign
from overlayd.core.leases.lease import Lease
from overlayd.core.node import Node
from overlayd.datapath.contract import Counters, Traffic
from overlayd.log import log
from overlayd.observe import mismatch_texts as texts

PERIOD = 5.0
"""Seconds over which a peer's traffic is compared."""
_SIGHTINGS = 32  # that are remembered
_PERSISTENT = 3  # polls that found the same sender: a stray datagram is no sign
_FORGET_AFTER = 10.0  # seconds without a datagram
_MANY = 3  # packets in a period: dropped, or sent without any answer


class MismatchDetector:
    """Of one daemon."""

    def __init__(self, is_probed: Callable[[str], bool], peers: Callable[[], Iterable[Lease]]) -> None:
        """`is_probed`: whether the peer with the lease of this key is. `peers`: every lease but this host's own."""
        self._is_probed, self._peers = is_probed, peers
        self._seen: dict[Sighting, tuple[int, float]] = {}
        """Polls that found it, and the last of them."""
        self._backend: Backend | None = None
        self._counters = Counters()
        self._due = 0.0
        self._silent: dict[str, int] = {}
        """Packets sent in the last period to peers of which none was received, by the lease's key."""
        self._dropped: dict[str, int] = {}
        """Packets dropped in the last period, by reason."""
        self._problems: dict[str, str] = {}

    @property
    def problems(self) -> Collection[str]:
        """What was found at the last poll, in words."""
        return self._problems.values()

    def poll(self, backend: Backend, noted: Iterable[Sighting], now: float) -> None:
        """Look once. `noted`: what rules have noted lately. `now`: seconds, from any steady clock."""
        if backend is not self._backend:  # what was seen of another mode, port or lease says nothing of this one
            self._backend, self._seen = backend, {}
        self._remember([*noted, *_unknown_sender(backend)], now)
        counters = backend.data_path.counters() if backend.data_path is not None else None
        if counters is None:
            self._counters, self._silent, self._dropped = Counters(), {}, {}
        elif now >= self._due:
            self._due = now + PERIOD
            self._compare(counters)
        self._report(dict(self._texts(backend.node)))

    def _remember(self, found: Iterable[Sighting], now: float) -> None:
        self._seen = {one: seen for one, seen in self._seen.items() if now - seen[1] < _FORGET_AFTER}
        for one in found:
            if one in self._seen or len(self._seen) < _SIGHTINGS:
                self._seen[one] = self._seen.get(one, (0, now))[0] + 1, now

    def _compare(self, counters: Counters) -> None:
        before, self._counters = self._counters, counters
        self._silent = {
            key: one.tx_packets - was.tx_packets
            for key, one in counters.peers.items()
            if (was := before.peers.get(key)) is not None and _is_silent(was, one) and not self._is_probed(key)
        }
        self._dropped = {
            reason: grown
            for reason in texts.DROPS
            if (grown := counters.rx_drops.get(reason, 0) - before.rx_drops.get(reason, 0)) >= _MANY
        }

    def _report(self, found: Mapping[str, str]) -> None:
        for key in found.keys() - self._problems.keys():
            log.warning("configuration mismatch", reason=found[key])
        for key in self._problems.keys() - found.keys():
            log.info("configuration mismatch ended", reason=self._problems[key])
        self._problems = dict(sorted(found.items()))

    def _texts(self, node: Node) -> Iterator[tuple[str, str]]:
        """What is wrong now, in words, each with what identifies it."""
        port = getattr(node.section, "port", None)
        persistent = [one for one, (polls, _) in self._seen.items() if polls >= _PERSISTENT]
        if persistent or self._silent:
            peers = list(self._peers())
            yield from _of_outer(persistent, node, peers)
            yield from _of_inner(persistent, node)
            names = {lease.key: lease.subnets[0] for lease in peers}
            for key, sent in self._silent.items():
                yield f"silent {key}", f"{names.get(key, key)}: {texts.silent(sent, PERIOD, port)}"
        for reason, count in self._dropped.items():
            yield reason, texts.dropped(reason, count, PERIOD)


def _is_silent(before: Traffic, now: Traffic) -> bool:
    return not now.rx_packets and now.tx_packets - before.tx_packets >= _MANY


def _unknown_sender(backend: Backend) -> Iterator[Sighting]:
    host = backend.data_path.unknown_sender() if backend.data_path is not None else None
    if host is not None:
        yield Sighting(Sign.UNKNOWN_PEER, ip_address(host.partition("%")[0]))


def _of_outer(found: Iterable[Sighting], node: Node, peers: Iterable[Lease]) -> Iterator[tuple[str, str]]:
    """Those whose sources are underlay addresses. A peer whose lease shows what is wrong has its problem already."""
    by_address = {public: lease for lease in peers for public in (lease.public_ip, lease.public_ipv6) if public}
    unknown = []
    for one in found:
        lease = by_address.get(one.source)
        if one.sign is Sign.UNKNOWN_PEER:
            unknown += [] if lease is not None else [str(one.source)]
        elif one.sign is Sign.REFUSED and lease is None:
            continue  # anybody can send such an error
        elif one.sign in texts.OUTER and (lease is None or node.problem(lease) is None):
            prefix = f"{lease.subnets[0]}: " if lease is not None else ""
            yield f"{one.sign} {one.source}", prefix + texts.outer(one, node.section)
    if unknown:
        yield Sign.UNKNOWN_PEER, texts.unknown(sorted(unknown))


def _of_inner(found: Iterable[Sighting], node: Node) -> Iterator[tuple[str, str]]:
    """Those whose sources are containers'."""
    for sign, remedy in texts.INNER.items():
        if ends := sorted(f"{one.source} to {one.value}" for one in found if one.sign is sign):
            yield sign, texts.inner(ends, remedy, node)
