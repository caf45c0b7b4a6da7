"""What a node asks for, and the transaction that gives it: decisions on what etcd held at one revision. All is pure.

Wanted + View --choose_for--> Choice --lease_for--> Lease --claim--> Claim      written on condition that it still holds
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from overlayd.core.address import Address, Network
from overlayd.core.flannel.lease import key_of, lease_text
from overlayd.core.leases.allocation import AllocationError, Choice, by_family, choose
from overlayd.core.leases.host_record import HostRecord, host_text
from overlayd.core.leases.lease import Lease
from overlayd.core.node import Underlay
from overlayd.core.settings.model import Settings
from overlayd.registry.etcd.messages import Delete, KeyValue, Put, Unchanged
from overlayd.registry.etcd.view import View


@dataclass(frozen=True, slots=True)
class Holder:
    """One run of a node's daemon, as its record names it."""

    id: str
    """The node's identity."""
    session: str
    name: str
    """What others call the host."""

    def owns(self, record: HostRecord | None) -> bool:
        """Whether a record is this node's, of whichever session."""
        return record is not None and record.id == self.id

    def records(self, view: View) -> Iterator[tuple[HostRecord, KeyValue]]:
        """This node's records, of whichever session."""
        return ((record, kv) for record, kv in view.hosts.values() if self.owns(record))


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a node asks for."""

    settings: Settings
    publics: tuple[Address, ...]
    """Its public IPs; by the first one our record is found."""

    @classmethod
    def on(cls, underlay: Underlay, settings: Settings) -> Wanted:
        """As flannel: the address of each family that the overlay has; where there is none, the other carries it."""
        families = {one.network.version for one in settings.ranges()}
        publics = [public for public in (underlay.public_ip, underlay.public_ipv6) if public is not None]
        return cls(settings, tuple(public for public in publics if public.version in families) or tuple(publics))


def choose_for(wanted: Wanted, view: View, holder: Holder, own: Lease | None, former: Sequence[Network]) -> Choice:
    """The lease for a node that holds `own` now and asks for `former` subnets. Raises AllocationError."""
    for public in wanted.publics:
        found = view.record(public)
        if found is not None and found[0].id != holder.id and found[0].subnet not in view.held:
            raise AllocationError(
                f"public IP {public} is another node's: {found[0].name} (identity {found[0].id});"
                " give each node a public_ip of its own"
            )
    taken = view.taken()
    if own is not None and any(record.subnet == key_of(own) for record, _ in holder.records(view)):
        taken -= set(own.subnets)  # a value of this node's own that somebody spoilt
    return choose(view.held, taken, wanted.settings.ranges(), holder.id, wanted.publics, former)


def lease_for(wanted: Wanted, choice: Choice, name: str) -> Lease:
    """The lease as the node wants it written."""
    settings = wanted.settings
    subnet, ipv6_subnet = by_family(choice.subnets)
    public_ip = next((one for one in wanted.publics if one.version == 4), None)
    public_ipv6 = next((one for one in wanted.publics if one.version == 6), None)
    return Lease(
        subnet=subnet,
        ipv6_subnet=ipv6_subnet,
        public_ip=public_ip,
        public_ipv6=public_ipv6,
        name=name,
        backend=settings.mode,
        probe_port=settings.probe.port or None,
        reserved=choice.held is not None and choice.held.etcd_lease == 0,
        **settings.spec.lease_fields(settings.section),
    )


@dataclass(frozen=True, slots=True)
class Claim:
    """A transaction that makes a lease a node's own, and what follows from it."""

    conditions: tuple[Unchanged, ...]
    writes: tuple[Put | Delete, ...]
    """None where everything stands already."""
    sessions: frozenset[str]
    """Those of the node's records, which this session takes over from."""
    abandoned: frozenset[int]
    """Etcd leases that lose keys by it."""


def claim(wanted: Wanted, view: View, holder: Holder, lease: Lease, etcd_lease: int) -> Claim:
    """The lease and our record, bound to an etcd lease (0: none), in place of whatever keys the node had, unless
    somebody has changed one of them."""
    key, address = key_of(lease), wanted.publics[0]
    subnet_key, host_key = view.subnet_key(key), view.host_key(address)
    record = HostRecord(holder.id, holder.session, key, holder.name, lease.port, lease.probe_port)
    known = view.record(address)
    conditions = [
        Unchanged(subnet_key, there.mod_revision if (there := view.keys.get(subnet_key)) else 0),
        Unchanged(host_key, known[1].mod_revision if known else 0),
    ]
    writes: list[Put | Delete] = []
    for put in (
        Put(subnet_key, lease_text(lease, wanted.settings.modes), etcd_lease),
        Put(host_key, host_text(record), etcd_lease),
    ):
        there = view.keys.get(put.key)
        if there is None or (there.value, there.lease) != (put.value, put.lease):
            writes.append(put)
    former = _former_keys(view, holder, {subnet_key, host_key})
    conditions += [Unchanged(kv.key, kv.mod_revision) for kv in former]
    writes += [Delete(kv.key) for kv in former]
    sessions = frozenset(record.session for record, _ in holder.records(view))
    replaced = (view.keys.get(write.key) for write in writes)
    abandoned = frozenset(kv.lease for kv in replaced if kv is not None) - {0, etcd_lease}
    return Claim(tuple(conditions), tuple(writes), sessions, abandoned)


def _former_keys(view: View, holder: Holder, kept: set[str]) -> list[KeyValue]:
    """The node's own keys that a new lease replaces."""
    found = []
    for record, kv in holder.records(view):
        found.append(kv)
        held = view.held.get(record.subnet)
        if held is not None and held.host == record:
            found.append(view.keys[view.subnet_key(record.subnet)])
    return [kv for kv in found if kv.key not in kept]
