"""Whether somebody else serves this host's subnet already: a bridge of Docker's, or one that was made by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from overlayd.core.address import Network
from overlayd.core.underlay import HostInterface


def conflict(interfaces: Iterable[HostInterface], subnets: Sequence[Network]) -> str | None:
    """Which interface that is not overlayd's has an address that only overlayd's bridge may have, and what to do."""
    for one in interfaces:
        for own in one.addresses if not one.ours else ():
            if any(own.ip in subnet for subnet in subnets):
                return f"interface {one.name} has {own}, an address of this host's subnet{_remedy(one.name)}"
    return None


def _remedy(name: str) -> str:
    if name == "docker0":
        return (
            ": Docker gives its containers addresses from there (docker-opts); leave containers to Docker, or start"
            " dockerd without these options and remove docker0 (ip link delete docker0)"
        )
    return f", and overlayd did not make it; remove it (ip link delete {name}), or its address"
