"""Which connections have to be forgotten when published ports change.

What a port leads to is decided by the first packet of a connection, and a connection of UDP lasts as long as packets
come: a client that goes on sending would reach a container that is gone, or the host itself, for ever.

    port published    connections to it that ended at this host itself are stale
    port taken back   those that lead to the container are
    port moved        both
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from overlayd.core.address import Address
from overlayd.core.kernel.diff import Operation
from overlayd.core.kernel.kinds import PortElement
from overlayd.wire.netlink.conntrack import ConntrackEntry, Endpoint

_Targets = dict[tuple[int, int], list[tuple[Address | None, Endpoint]]]
"""By IP version and port: the host's address, None for all, and the container's."""


class MovedPorts:
    """UDP ports that operations on elements have changed."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        self._former: _Targets = {}
        self._current: _Targets = {}
        for step in operations:
            element = step.object
            if isinstance(element, PortElement) and element.protocol == "udp":
                targets = self._former if step.verb == "delete" else self._current
                place = element.target.version, element.port
                target = element.address, Endpoint(element.target, element.target_port)
                targets.setdefault(place, []).append(target)

    def by_version(self) -> dict[int, set[int]]:
        """The ports of each IP version."""
        found: dict[int, set[int]] = {}
        for version, port in (*self._former, *self._current):
            found.setdefault(version, set()).add(port)
        return found

    def is_stale(self, entry: ConntrackEntry, is_local: Callable[[Address], bool]) -> bool:
        """Whether this UDP connection goes elsewhere than it would if it began now; `is_local` tells this host's
        addresses. Others' translations are none of our business."""
        to, answering = entry.destination, entry.answering
        former, current = (_at(targets, to) for targets in (self._former, self._current))
        if answering in current:
            return False
        return answering in former or (bool(current) and answering == to and is_local(to.address))


def _at(targets: _Targets, to: Endpoint) -> list[Endpoint]:
    held = targets.get((to.address.version, to.port), ())
    return [target for address, target in held if address is None or address == to.address]
