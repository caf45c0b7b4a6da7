"""The forwarding table of a node: leases in, routes to peers out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain

from overlayd.core.address import Family, Network
from overlayd.core.forward import Change, ForwardingTable, Peer
from overlayd.core.leases.lease import Lease
from overlayd.core.leases.table import LeaseEvent
from overlayd.core.node import Node

Routes = list[tuple[Network, Peer]]


class PeerTable:
    """Kept lease by lease, so that an event costs what its own routes cost."""

    def __init__(self, node: Node, port_over: Callable[[Family], int]) -> None:
        """`port_over`: the port on an underlay address of that family, of peers whose leases do not tell."""
        self._port_over = port_over
        self.replace(node, ())

    def replace(self, node: Node, peers: Iterable[Lease]) -> None:
        """This host and all its peers."""
        self._node = node
        self._routes = {lease.key: self._routes_to(lease) for lease in peers}
        """By the lease's key."""
        routes, own = chain.from_iterable(self._routes.values()), node.lease.subnets
        self.table = ForwardingTable(own, [subnet.network_address for subnet in own], node.overlay_mtu, routes)

    def apply(self, events: Sequence[LeaseEvent]) -> Change:
        """Changes of peers since; what they change in the table."""
        gone = [route for event in events for route in self._routes.pop(event.lease.key, ())]
        new = {event.lease.key: self._routes_to(event.new) for event in events if event.new is not None}
        self._routes.update(new)
        change = Change(gone, [route for routes in new.values() for route in routes])
        self.table = self.table.changed(change)
        return change

    def _routes_to(self, lease: Lease) -> Routes:
        made: dict[str, Peer] = {}  # one peer for both of a lease's subnets where one underlay family takes both
        routes: Routes = []
        announced = self._node.lease.wire == lease.wire == "overlayd"
        for subnet, public in self._node.reachable(lease):
            host = str(public)
            port = lease.port_over(public.version) or self._port_over(public.version)
            key = lease.public_key or "" if self._node.spec.keyed else ""
            peer = Peer(host, port, public.version, lease.key, announced, key)
            peer = made.setdefault(host, peer)
            routes.append((subnet, peer))
        return routes
