"""A node's request for a lease, and the transaction that grants it: decided on etcd's state at one revision. Pure.

LeaseRequest + View --choose_for--> Choice --lease_for--> Lease --claim--> Claim      valid while that state lasts
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from overlayd.core.address import Address, Network
from overlayd.core.flannel.lease import key_of, lease_text
from overlayd.core.leases.allocation import AllocationError, Choice, Held, by_family, choose
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
        """Whether a record is this node's, from any session."""
        return record is not None and record.id == self.id

    def records(self, view: View) -> Iterator[tuple[HostRecord, KeyValue]]:
        """This node's records, from any session."""
        return ((record, kv) for record, kv in view.hosts.values() if self.owns(record))


@dataclass(frozen=True, slots=True)
class LeaseRequest:
    """What a node asks for."""

    settings: Settings
    publics: tuple[Address, ...]
    """Its public IPs; the first one is the key of our record."""

    @classmethod
    def on(cls, underlay: Underlay, settings: Settings) -> LeaseRequest:
        """As flannel: the address of each family that the overlay has; if it has neither, all of them."""
        families = {one.network.version for one in settings.ranges()}
        publics = [public for public in (underlay.public_ip, underlay.public_ipv6) if public is not None]
        return cls(settings, tuple(public for public in publics if public.version in families) or tuple(publics))


@dataclass(frozen=True, slots=True)
class Acquired:
    """The lease that this node has."""

    lease: Lease
    etcd_lease: int
    confirmed: bool
    """False for a lease from the copy on disk, which this session has not written to etcd."""

    @property
    def key(self) -> str:
        """Its key in etcd without the prefix."""
        return key_of(self.lease)


def choose_for(
    request: LeaseRequest, view: View, holder: Holder, own: Lease | None, former: Sequence[Network]
) -> Choice:
    """The lease for a node that holds `own` now and asks for `former` subnets. Raises AllocationError."""
    for public in request.publics:
        found = view.record(public)
        if found is not None and found[0].id != holder.id and found[0].subnet not in view.held:
            raise AllocationError(
                f"public IP {public} belongs to another node: {found[0].name} (identity {found[0].id});"
                " give each node its own public_ip"
            )
    taken = view.taken()
    if own is not None and any(record.subnet == key_of(own) for record, _ in holder.records(view)):
        taken -= set(own.subnets)  # this node's own, with a value that is invalid now
    return choose(view.held, taken, request.settings.ranges(), holder.id, request.publics, former)


def lease_for(request: LeaseRequest, choice: Choice, name: str, own: Lease | None = None) -> Lease:
    """The lease as the node writes it. VTEP MACs stay as the node's `own` lease has them, or as they are in etcd: peers
    send to them, and the device has them (flannel's are random)."""
    settings = request.settings
    subnet, ipv6_subnet = by_family(choice.subnets)
    public_ip = next((one for one in request.publics if one.version == 4), None)
    public_ipv6 = next((one for one in request.publics if one.version == 6), None)
    known = own
    if own is None or own.subnets != choice.subnets:
        known = choice.held.lease if choice.held is not None else None
    has_macs = known is not None and known.backend == settings.mode
    return Lease(
        written_mac=known.written_mac if known is not None and has_macs else None,
        written_mac_v6=known.written_mac_v6 if known is not None and has_macs else None,
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
    """A transaction that gives a lease to a node, and its consequences."""

    conditions: tuple[Unchanged, ...]
    writes: tuple[Put | Delete, ...]
    """Empty where etcd holds everything already."""
    sessions: frozenset[str]
    """The sessions in the node's records, which this one replaces."""
    abandoned: frozenset[int]
    """Etcd leases from which it unbinds keys."""


def claim(request: LeaseRequest, view: View, holder: Holder, lease: Lease, etcd_lease: int) -> Claim:
    """Write the lease and our record, bound to an etcd lease (0: none), instead of the keys the node had, unless one of
    them has changed."""
    key, address = key_of(lease), request.publics[0]
    subnet_key, host_key = view.subnet_key(key), view.host_key(address)
    record = HostRecord(holder.id, holder.session, key, holder.name, lease.port, lease.probe_port)
    known = view.record(address)
    conditions = [
        Unchanged(subnet_key, there.mod_revision if (there := view.keys.get(subnet_key)) else 0),
        Unchanged(host_key, known[1].mod_revision if known else 0),
    ]
    writes: list[Put | Delete] = []
    for put in (
        Put(subnet_key, lease_text(lease, request.settings.modes), etcd_lease),
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


def rebind(request: LeaseRequest, view: View, held: Held) -> tuple[tuple[Unchanged, ...], Put]:
    """Bind our record to the etcd lease that the lease is bound to now, unless either has changed since."""
    record, subnet_key = view.keys[view.host_key(request.publics[0])], view.subnet_key(key_of(held.lease))
    conditions = Unchanged(record.key, record.mod_revision), Unchanged(subnet_key, held.mod_revision)
    return conditions, Put(record.key, record.value, held.etcd_lease)


def _former_keys(view: View, holder: Holder, kept: set[str]) -> list[KeyValue]:
    """The node's own keys that the new lease replaces."""
    found = []
    for record, kv in holder.records(view):
        found.append(kv)
        held = view.held.get(record.subnet)
        if held is not None and held.host == record:
            found.append(view.keys[view.subnet_key(record.subnet)])
    return [kv for kv in found if kv.key not in kept]


def is_same(request: LeaseRequest, view: View, lease: Lease, name: str) -> bool:
    """Whether a node that holds a lease and asks for its subnets again has nothing to write."""
    same = lease_for(request, Choice(lease.subnets, None, ""), name, lease)
    return lease_text(same, view.modes) == lease_text(lease, view.modes)


def is_intact(view: View, holder: Holder, lease: Lease, held: Held, record: HostRecord | None) -> bool:
    """Whether etcd holds a lease and its record as this session wrote them."""
    if record is None or (record.id, record.session) != (holder.id, holder.session):
        return False
    return record.subnet == key_of(lease) and lease_text(held.lease, view.modes) == lease_text(lease, view.modes)
