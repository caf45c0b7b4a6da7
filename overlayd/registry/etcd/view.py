"""What etcd holds under the prefix, as far as this client knows: fed with keys, it says which leases changed.

Keys are judged one by one: one that makes no sense is noted with what is wrong with it, and loses nobody else's.
Nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

from overlayd.core.address import Address, Network, within
from overlayd.core.flannel.form import FormatError
from overlayd.core.flannel.lease import parse_key, parse_lease
from overlayd.core.leases.allocation import Held
from overlayd.core.leases.host_record import HostRecord, parse_host
from overlayd.core.leases.lease import Lease, LeaseEvent
from overlayd.core.leases.subnets import SubnetRange
from overlayd.core.mode import ModeSpec
from overlayd.registry.etcd.messages import Event, KeyValue


class View:
    """The keys under one prefix at one revision."""

    def __init__(self, prefix: str, modes: Mapping[str, ModeSpec[Any]]) -> None:
        self.modes = modes
        """By name, those whose leases make sense."""
        self.config_key = f"{prefix}/config"
        self._subnets = f"{prefix}/subnets/"
        self._hosts = f"{prefix}/overlayd/hosts/"
        self.revision = 0
        self.keys: dict[str, KeyValue] = {}
        """As they came; what is kept on disk."""
        self.held: dict[str, Held] = {}
        """Every sound lease, by its key in etcd without the prefix."""
        self.hosts: dict[str, tuple[HostRecord, KeyValue]] = {}
        """Our records, by the public IP that is their key."""
        self.bad: dict[str, str] = {}
        """Keys that make no sense, and what is wrong with each."""
        self._claims: dict[Network, list[str]] = {}
        """The keys that claim a subnet, each by a sound lease; where there are several, the first in order has it."""
        self._claimed: dict[str, tuple[Network, ...]] = {}
        """The subnets that a key claims."""
        self._networks: tuple[Network, ...] = ()

    # --- the keys ----------------------------------------------------------------------------------------------------

    def subnet_key(self, key: str) -> str:
        """The key of a lease with its prefix."""
        return self._subnets + key

    def host_key(self, address: Address) -> str:
        """The key of our record of whoever has this public IP."""
        return f"{self._hosts}{address}"

    # --- what it knows -----------------------------------------------------------------------------------------------

    @property
    def config(self) -> str | None:
        """The network's configuration as it was written."""
        kv = self.keys.get(self.config_key)
        return None if kv is None else kv.value

    def leases(self) -> tuple[Lease, ...]:
        """Every sound lease."""
        return tuple(one.lease for one in self.held.values())

    def taken(self) -> set[Network]:
        """The subnets of keys whose values make no sense: somebody holds them all the same."""
        found: set[Network] = set()
        for key in self.bad:
            if key.startswith(self._subnets):
                try:
                    found.update(subnet for subnet in parse_key(key.removeprefix(self._subnets)) if subnet is not None)
                except FormatError:
                    continue
        return found

    def record(self, address: Address) -> tuple[HostRecord, KeyValue] | None:
        """Our record of whoever has this public IP."""
        return self.hosts.get(str(address))

    # --- what it is told ---------------------------------------------------------------------------------------------

    def use_ranges(self, ranges: Iterable[SubnetRange]) -> None:
        """Judge leases by this network from now on; those known already are judged again."""
        networks = tuple(one.network for one in ranges)
        if networks == self._networks:
            return
        first, self._networks = not self._networks, networks
        if not first:
            self.load(list(self.keys.values()), self.revision)
            return
        for key, held in list(self.held.items()):
            try:
                self._check(held.lease)
            except FormatError:
                self._take_lease(key)

    def load(self, keys: Iterable[KeyValue], revision: int) -> None:
        """Forget everything and know this instead."""
        keys = list(keys)
        self.keys, self.held, self.hosts, self.bad = {}, {}, {}, {}
        self._claims, self._claimed = {}, {}
        for kv in sorted(keys, key=lambda kv: not kv.key.startswith(self._hosts)):  # records before what they are of
            self._take(Event(kv.key, kv, kv.mod_revision))
        self.revision = revision

    def apply(self, events: Iterable[Event], revision: int) -> list[LeaseEvent]:
        """Take changes of keys up to `revision`; what they change in leases, one event for each lease."""
        before: dict[str, Lease | None] = {}
        for event in events:
            known_kv = self.keys.get(event.key)
            if known_kv is not None and known_kv.mod_revision >= event.revision:
                continue  # older than what this node wrote itself and knows already
            for touched in self._touched(event):
                for key in (touched, *self._rivals(touched)):
                    known = self.held.get(key)
                    before.setdefault(key, known.lease if known else None)
            self._take(event)
        self.revision = max(self.revision, revision)
        changes = []
        for key, old in before.items():
            now = self.held.get(key)
            new = now.lease if now else None
            if old != new:
                changes.append(LeaseEvent(old, new))
        return changes

    def _touched(self, event: Event) -> Iterator[str]:
        """The keys of leases that an event is about."""
        if event.key.startswith(self._subnets):
            yield event.key.removeprefix(self._subnets)
        elif event.key.startswith(self._hosts):
            old = self.hosts.get(event.key.removeprefix(self._hosts))
            if old is not None:
                yield old[0].subnet
            if event.kv is not None:
                try:
                    yield parse_host(event.kv.value).subnet
                except FormatError:
                    return

    def _take(self, event: Event) -> None:
        if event.kv is None:
            self.keys.pop(event.key, None)
        else:
            self.keys[event.key] = event.kv
        self.bad.pop(event.key, None)
        if event.key.startswith(self._subnets):
            self._take_lease(event.key.removeprefix(self._subnets))
        elif event.key.startswith(self._hosts):
            self._take_host(event.key.removeprefix(self._hosts), event.kv)

    def _take_lease(self, key: str) -> None:
        """Judge a key anew, and whoever claims the same subnet."""
        before = self._claimed.get(key, ())
        self._judge(key)
        for subnet in {*before, *self._claimed.get(key, ())}:
            for rival in self._claims.get(subnet, ()):
                if rival != key:
                    self._judge(rival)

    def _judge(self, key: str) -> None:
        """Whether this key, as it is now, is a lease."""
        self.held.pop(key, None)
        self.bad.pop(self._subnets + key, None)
        kv = self.keys.get(self._subnets + key)
        lease: Lease | None = None
        try:
            if kv is not None:
                lease = parse_lease(key, kv.value, self.modes)
                self._check(lease)
        except FormatError as error:
            lease, self.bad[self._subnets + key] = None, str(error)
        self._claim(key, lease.subnets if lease is not None else ())
        if kv is None or lease is None:
            return
        for subnet in lease.subnets:
            first = self._claims[subnet][0]
            if first != key:
                self.bad[kv.key] = f"{subnet} is leased by the key {first} already; delete one of them"
                return
        host = self._host_of(key, lease)
        if host is not None or kv.lease == 0:
            name, port, probe = (host.name, host.port, host.probe) if host is not None else ("", None, None)
            lease = replace(lease, name=name, port=port, probe_port=probe, reserved=kv.lease == 0)
        self.held[key] = Held(lease, kv.lease, kv.mod_revision, host)

    def _claim(self, key: str, subnets: tuple[Network, ...]) -> None:
        former = self._claimed.pop(key, ())
        if subnets:
            self._claimed[key] = subnets
        if subnets == former:
            return
        for subnet in former:
            self._claims[subnet].remove(key)
            if not self._claims[subnet]:
                del self._claims[subnet]
        for subnet in subnets:
            self._claims[subnet] = sorted([*self._claims.get(subnet, ()), key])

    def _rivals(self, key: str) -> list[str]:
        """Other keys that claim a subnet of this key's."""
        try:
            subnets = [subnet for subnet in parse_key(key) if subnet is not None]
        except FormatError:
            return []
        return [other for subnet in subnets for other in self._claims.get(subnet, ()) if other != key]

    def _host_of(self, key: str, lease: Lease) -> HostRecord | None:
        """Our record of the node that holds the lease, unless the lease has passed to another address since."""
        records = (self.hosts.get(str(public)) for public in (lease.public_ip, lease.public_ipv6) if public is not None)
        return next((found[0] for found in records if found is not None and found[0].subnet == key), None)

    def _check(self, lease: Lease) -> None:
        """Raises FormatError for a lease that must not become a route here."""
        for subnet in lease.subnets:
            network = next((one for one in self._networks if one.version == subnet.version), None)
            if self._networks and (network is None or not within(subnet, network) or subnet == network):
                raise FormatError(f"{subnet} is no part of the network {', '.join(map(str, self._networks))}")
        for public in (lease.public_ip, lease.public_ipv6):
            if public is not None and any(public in one for one in self._networks if one.version == public.version):
                raise FormatError(f"its public IP {public} lies inside the overlay's own network")

    def _take_host(self, address: str, kv: KeyValue | None) -> None:
        old = self.hosts.pop(address, None)
        if old is not None:
            self._take_lease(old[0].subnet)
        if kv is None:
            return
        try:
            record = parse_host(kv.value)
            _parse_address(address)
        except FormatError as error:
            self.bad[kv.key] = str(error)
            return
        self.hosts[address] = (record, kv)
        self._take_lease(record.subnet)


def _parse_address(text: str) -> Address:
    try:
        return ip_address(text)
    except ValueError:
        raise FormatError("its key is no public IP") from None
