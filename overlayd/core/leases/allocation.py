"""Which lease a node gets: flannel's rules, and the node's identity first.

 1. the one that this node held before, by its identity, whatever its address is now
 2. the one with its public IP: a reservation, or flannel's lease on this host
 3. the subnets of the last subnet.env, if they are free
 4. free ones; the search starts at a place that depends on the node, so that nodes that start together seldom collide

Pure, on etcd's state at one revision; the result is written on condition that this state lasts.
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
    """A lease in etcd."""

    lease: Lease
    etcd_lease: int
    """The etcd lease that its key is bound to; 0 for a reservation."""
    mod_revision: int
    host: HostRecord | None
    """Our record of the node that holds it; None where flannel runs, or for an unused reservation."""

    def __str__(self) -> str:
        return f"{self.host.name or self.host.id} {self.lease}" if self.host is not None else str(self.lease)


@dataclass(frozen=True, slots=True)
class Choice:
    """The subnets for a node."""

    subnets: tuple[Network, ...]
    held: Held | None
    """The existing lease to use; None to create one."""
    how: str
    """The reason, for the log."""


class AllocationError(ValueError):
    """There is no lease for this node; the text gives the reason and the remedy."""


class NoFreeSubnetError(AllocationError):
    """All subnets are leased or reserved."""


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
    for candidates, how in ((mine, "held before"), (named, "has this host's public IP")):
        for one in candidates:
            if fits(one.lease.subnets, ranges):
                return Choice(one.lease.subnets, one, how)
    own = {id(one) for one in mine}
    used = {subnet for one in held.values() if id(one) not in own for subnet in one.lease.subnets} | set(taken)
    if former and fits(former, ranges) and not any(_is_used(subnet, used) for subnet in former):
        return Choice(tuple(former), None, "in subnet.env")
    return Choice(tuple(_free(one, used, node, held) for one in ranges), None, "free")


def fits(subnets: Sequence[Network], ranges: Sequence[SubnetRange]) -> bool:
    """Whether these are one subnet of each range, in order."""
    return len(subnets) == len(ranges) and all(
        one.check(subnet) is None for one, subnet in zip(ranges, subnets, strict=True)
    )


def _is_used(subnet: Network, used: Collection[Network]) -> bool:
    return subnet in used or any(one.prefixlen != subnet.prefixlen and overlap(subnet, one) for one in used)


def _free(one: SubnetRange, used: Collection[Network], node: str, held: Mapping[str, Held]) -> Network:
    """A free subnet; the search starts at a place that depends on the node."""
    odd = [other for other in used if other.prefixlen != one.subnet_len and overlap(other, one.network)]
    start = int.from_bytes(hashlib.sha256(f"overlayd subnet {node}".encode()).digest()[:8], "big") % one.count
    for step in range(one.count):
        subnet = one[(start + step) % one.count]
        if subnet not in used and not any(overlap(subnet, other) for other in odd):
            return subnet
    reserved = sum(1 for other in held.values() if other.etcd_lease == 0)
    raise NoFreeSubnetError(
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
        f"public IP {address} belongs to another node: {name}(identity {other.host.id}) holds"
        f" {_subnets(lease.subnets)} with it; give each node its own public_ip. If that node no longer exists:"
        f" overlayctl lease release {lease.subnets[0]}"
    )


def _subnets(subnets: Sequence[Network]) -> str:
    return " and ".join(map(str, subnets))


def by_family(subnets: Sequence[Network]) -> tuple[IPv4Network | None, IPv6Network | None]:
    """The subnets as a lease has them: IPv4, IPv6."""
    v4 = next((one for one in subnets if isinstance(one, IPv4Network)), None)
    v6 = next((one for one in subnets if isinstance(one, IPv6Network)), None)
    return v4, v6
