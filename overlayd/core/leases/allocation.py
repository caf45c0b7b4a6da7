"""Which lease a node gets: flannel's rules, and whose a lease is besides.

 1. the one that this node held before, by its identity, whatever its address is now
 2. the one that names its public IP: a reservation, or what flannel left on this host
 3. the subnets of the last subnet.env, if nobody has them
 4. free ones; where the search begins depends on the node, so that many that start at once seldom want the same

All of it is pure, on what etcd held at one revision: the result is written on condition that this is still so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from overlayd.core.address import Address, Network, overlap
from overlayd.core.leases.host_record import HostRecord
from overlayd.core.leases.lease import Lease
from overlayd.core.leases.subnets import SubnetRange


@dataclass(frozen=True, slots=True)
class Held:
    """A lease as etcd holds it."""

    lease: Lease
    etcd_lease: int
    """The etcd lease that it lives by; 0 for a reservation."""
    mod_revision: int
    host: HostRecord | None
    """Our record of the node that holds it; none where flannel runs, or for a reservation not taken up."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The subnets that a node is to have."""

    subnets: tuple[Network, ...]
    held: Held | None
    """The lease to take over; None to make a new one."""
    how: str
    """Why this one, for the log."""


class AllocationError(ValueError):
    """No lease can be had; the text says why and what to do."""


def choose(
    held: Mapping[str, Held],
    taken: Collection[Network],
    ranges: Sequence[SubnetRange],
    node: str,
    publics: Collection[Address],
    former: Sequence[Network] = (),
) -> Choice:
    """The lease for the node with identity `node` and these public IPs. Raises AllocationError.

    `held`: every lease by key; `taken`: subnets that are not free for other reasons; `former`: those of subnet.env.
    """
    mine = [one for one in held.values() if one.host is not None and one.host.id == node]
    named = [one for one in held.values() if one.lease.public_ip in publics or one.lease.public_ipv6 in publics]
    for other in named:
        if other.host is not None and other.host.id != node:
            raise AllocationError(_claimed(other, publics))
    for candidates, how in ((mine, "held before"), (named, "names this host's public IP")):
        for one in candidates:
            if fits(one.lease.subnets, ranges):
                return Choice(one.lease.subnets, one, how)
    own = {id(one) for one in mine}
    used = {subnet for one in held.values() if id(one) not in own for subnet in one.lease.subnets} | set(taken)
    if former and fits(former, ranges) and not any(_is_used(subnet, used) for subnet in former):
        return Choice(tuple(former), None, "from subnet.env")
    return Choice(tuple(_free(one, used, node, held) for one in ranges), None, "free")


def fits(subnets: Sequence[Network], ranges: Sequence[SubnetRange]) -> bool:
    """Whether these are one subnet of each range."""
    return len(subnets) == len(ranges) and all(
        one.check(subnet) is None for one, subnet in zip(ranges, subnets, strict=True)
    )


def _is_used(subnet: Network, used: Collection[Network]) -> bool:
    return subnet in used or any(one.prefixlen != subnet.prefixlen and overlap(subnet, one) for one in used)


def _free(one: SubnetRange, used: Collection[Network], node: str, held: Mapping[str, Held]) -> Network:
    """A free subnet, sought from a place that depends on the node."""
    odd = [other for other in used if other.prefixlen != one.subnet_len and overlap(other, one.network)]
    start = int.from_bytes(hashlib.sha256(f"overlayd subnet {node}".encode()).digest()[:8], "big") % one.count
    for step in range(one.count):
        subnet = one[(start + step) % one.count]
        if subnet not in used and not any(overlap(subnet, other) for other in odd):
            return subnet
    reserved = sum(1 for other in held.values() if other.etcd_lease == 0)
    raise AllocationError(
        f"the network {one.network} is exhausted: all {one.count} subnets (/{one.subnet_len}) from {one.first[0]} to"
        f" {one.last[0]} are taken, {len(held) - reserved} by leases and {reserved} by reservations; release one"
        " (overlayctl lease release SUBNET), or widen the network"
    )


def _claimed(other: Held, publics: Collection[Address]) -> str:
    assert other.host is not None
    lease = other.lease
    address = next(one for one in (lease.public_ip, lease.public_ipv6) if one in publics)
    name = f"{other.host.name} " if other.host.name else ""
    return (
        f"public IP {address} is another node's: {name}(identity {other.host.id}) holds {_subnets(lease.subnets)} with"
        " it; give each node a public_ip of its own. If that node is no more:"
        f" overlayctl lease release {lease.subnets[0]}"
    )


def _subnets(subnets: Sequence[Network]) -> str:
    return " and ".join(map(str, subnets))


def by_family(subnets: Sequence[Network]) -> tuple[IPv4Network | None, IPv6Network | None]:
    """The subnets as a lease has them: IPv4, IPv6."""
    v4 = next((one for one in subnets if isinstance(one, IPv4Network)), None)
    v6 = next((one for one in subnets if isinstance(one, IPv6Network)), None)
    return v4, v6
