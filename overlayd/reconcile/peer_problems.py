"""Why peers cannot be reached, as their leases show it: logged once when it begins and once when it ends."""

from __future__ import annotations

from collections.abc import Iterable

from overlayd.core.leases.lease import Lease
from overlayd.core.leases.table import LeaseEvent
from overlayd.core.node import Node
from overlayd.log import log


class PeerProblems:
    """By the lease's key."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def replace(self, node: Node, peers: Iterable[Lease]) -> None:
        """All peers as this node sees them."""
        known = {peer.key: peer for peer in peers}
        for key in self.texts.keys() - known.keys():
            del self.texts[key]
        for key, peer in known.items():
            self._update(key, node.problem(peer))

    def apply(self, node: Node, events: Iterable[LeaseEvent]) -> None:
        """Changes of peers since."""
        for event in events:
            if event.new is None:
                self.texts.pop(event.lease.key, None)
            else:
                self._update(event.lease.key, node.problem(event.new))

    def _update(self, key: str, problem: str | None) -> None:
        if problem is not None and self.texts.get(key) != problem:
            log.error("peer cannot be reached", lease=key, reason=problem)
            self.texts[key] = problem
        elif problem is None and self.texts.pop(key, None) is not None:
            log.info("peer can be reached", lease=key)
