"""Which addresses of which peers are probed: those of leases that announce a probe port, so never a flannel node's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from overlayd.core.leases.lease import Lease
from overlayd.core.leases.table import LeaseEvent
from overlayd.core.mtu import MAXIMUM
from overlayd.core.node import Node
from overlayd.core.probing.schedule import ProbeSchedule
from overlayd.core.probing.target import Endpoint, ProbeTarget


class ProbedPeers:
    """Keeps a schedule's targets as the leases and the node call for."""

    def __init__(self, schedule: ProbeSchedule) -> None:
        self._schedule = schedule
        self._hosts: dict[str, tuple[str, ...]] = {}
        """The addresses of each lease that are probed, by its key."""
        self._unprobed: set[str] = set()
        """The keys of leases that packets go to and that announce no probe port."""

    def replace(self, node: Node, peers: Iterable[Lease], now: float) -> None:
        """All peers as they are now, and this host."""
        self._hosts, self._unprobed = {}, set()
        endpoints: list[Endpoint] = []
        for lease in peers:
            found = list(_endpoints(node, lease))
            endpoints += found
            self._note(node, lease, found)
        self._schedule.replace(endpoints, min(node.underlay.mtu, MAXIMUM), now)

    def apply(self, node: Node, events: Iterable[LeaseEvent], now: float) -> None:
        """What has changed in them since."""
        for event in events:
            key, new = event.lease.key, event.new
            if key == node.lease.key:
                continue
            endpoints = [] if new is None else list(_endpoints(node, new))
            before = self._hosts.pop(key, ())
            self._unprobed.discard(key)
            if new is not None:
                self._note(node, new, endpoints)
            for host in set(before) - set(self._hosts.get(key, ())):
                self._schedule.remove(host)
            for endpoint in endpoints:
                self._schedule.add(endpoint, now)

    def _note(self, node: Node, lease: Lease, endpoints: Sequence[Endpoint]) -> None:
        if endpoints:
            self._hosts[lease.key] = tuple(one.host for one in endpoints)
        elif lease.probe_port is None and any(node.reachable(lease)):
            self._unprobed.add(lease.key)

    def targets_of(self, key: str) -> list[ProbeTarget]:
        """The addresses of the lease with this key."""
        known = self._schedule.targets
        return [known[host] for host in self._hosts.get(key, ()) if host in known]

    def silent(self) -> bool:
        """Whether all peers that packets go to are probed, and none of them answers."""
        return not self._unprobed and {one.state for one in self._schedule.targets.values()} == {"unreachable"}


def _endpoints(node: Node, lease: Lease) -> Iterator[Endpoint]:
    if lease.probe_port is not None:
        for public in dict.fromkeys(public for _, public in node.reachable(lease)):
            yield Endpoint(str(public), lease.probe_port, public.version, lease.key)
