"""Everything under the prefix as leases: fed with keys, it gives the leases that may have changed.

Keys are judged one by one: an invalid one is noted with its fault, and affects nobody else's. Nothing is compared with
what was there before: that is the lease table's. No I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

from overlayd.core.address import Address, Network, within
from overlayd.core.flannel.form import FormatError
from overlayd.core.flannel.lease import parse_key, parse_lease
from overlayd.core.leases.allocation import Held
from overlayd.core.leases.host_record import HostRecord, parse_host
from overlayd.core.leases.lease import Lease
from overlayd.core.leases.subnets import SubnetRange
from overlayd.core.mode import ModeSpec
from overlayd.registry.etcd.messages import Event, KeyValue


class View:
    """The keys under one prefix at one revision."""

    def __init__(self, prefix: str, modes: Mapping[str, ModeSpec[Any]]) -> None:
        self.prefix, self.modes = prefix, modes
        self.config_key = f"{prefix}/config"
        self._subnets = f"{prefix}/subnets/"
        self._hosts = f"{prefix}/overlayd/hosts/"
        self.revision = 0
        self.keys: dict[str, KeyValue] = {}
        """As received; this is what is saved on disk."""
        self.held: dict[str, Held] = {}
        """Every valid lease, by its key in etcd without the prefix."""
        self.hosts: dict[str, tuple[HostRecord, KeyValue]] = {}
        """Our records, by the public IP in their key."""
        self.invalid: dict[str, str] = {}
        """Invalid keys, and the fault of each."""
        self._claims: dict[Network, list[str]] = {}
        """The keys with valid values that claim a subnet; the first in order has it."""
        self._claimed: dict[str, tuple[Network, ...]] = {}
        """The subnets that a key claims."""
        self._networks: tuple[Network, ...] = ()
        self._judged: set[str] = set()
        """Keys judged since the last `apply` or `load`."""
        self._dropped: set[str] = set()
        """Lease keys that were valid before the keys in `_judged` were judged."""

    # --- the keys ----------------------------------------------------------------------------------------------------

    def subnet_key(self, key: str) -> str:
        """The key of a lease with its prefix."""
        return self._subnets + key

    def host_key(self, address: Address) -> str:
        """The key of our record of the node with this public IP."""
        return f"{self._hosts}{address}"

    # --- reading -----------------------------------------------------------------------------------------------------

    @property
    def config(self) -> str | None:
        """The network's configuration as it was written."""
        kv = self.keys.get(self.config_key)
        return None if kv is None else kv.value

    def leases(self) -> tuple[Lease, ...]:
        """Every valid lease."""
        return tuple(one.lease for one in self.held.values())

    def taken(self) -> set[Network]:
        """The subnets of keys with invalid values: not free either."""
        found: set[Network] = set()
        for key in self.invalid:
            if key.startswith(self._subnets):
                try:
                    found.update(subnet for subnet in parse_key(key.removeprefix(self._subnets)) if subnet is not None)
                except FormatError:
                    continue
        return found

    def record(self, address: Address) -> tuple[HostRecord, KeyValue] | None:
        """Our record of the node with this public IP."""
        return self.hosts.get(str(address))

    # --- writing -----------------------------------------------------------------------------------------------------

    def use_ranges(self, ranges: Iterable[SubnetRange]) -> None:
        """Judge leases by this network from now on, and again those that are known."""
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
                self._judge_with_rivals(key)

    def load(self, keys: Iterable[KeyValue], revision: int) -> None:
        """Replace everything."""
        keys = list(keys)
        self.keys, self.held, self.hosts, self.invalid = {}, {}, {}, {}
        self._claims, self._claimed = {}, {}
        for kv in sorted(keys, key=lambda kv: not kv.key.startswith(self._hosts)):  # records before their leases
            self._apply_event(Event(kv.key, kv, kv.mod_revision))
        self._judged, self._dropped = set(), set()
        self.revision = revision

    def apply(self, events: Iterable[Event], revision: int) -> Mapping[str, Lease | None]:
        """Apply changes of keys up to `revision`; the leases that may have changed, by `Lease.key`: removed ones (None)
        first. Costs what the events cost."""
        for event in events:
            known = self.keys.get(event.key)
            if known is None or known.mod_revision < event.revision:  # else older than this node's own write
                self._apply_event(event)
        self.revision = max(self.revision, revision)
        left = [self.held[key].lease for key in sorted(self._judged) if key in self.held]
        gone = self._dropped.difference(lease.key for lease in left)
        self._judged, self._dropped = set(), set()
        return {**dict.fromkeys(sorted(gone)), **{lease.key: lease for lease in left}}

    def _apply_event(self, event: Event) -> None:
        if event.kv is None:
            self.keys.pop(event.key, None)
        else:
            self.keys[event.key] = event.kv
        self.invalid.pop(event.key, None)
        if event.key.startswith(self._subnets):
            self._judge_with_rivals(event.key.removeprefix(self._subnets))
        elif event.key.startswith(self._hosts):
            self._apply_record(event.key.removeprefix(self._hosts), event.kv)

    def _judge_with_rivals(self, key: str) -> None:
        """Judge a key again, and the others that claim the same subnet."""
        before = self._claimed.get(key, ())
        self._judge(key)
        claimed = self._claimed.get(key, ())
        for subnet in {*before, *claimed} if before else claimed:
            for rival in self._claims.get(subnet, ()):
                if rival != key:
                    self._judge(rival)

    def _judge(self, key: str) -> None:
        """Whether this key, as it is now, is a lease."""
        self._judged.add(key)
        before = self.held.pop(key, None)
        if before is not None:
            self._dropped.add(before.lease.key)
        self.invalid.pop(self._subnets + key, None)
        kv = self.keys.get(self._subnets + key)
        lease: Lease | None = None
        try:
            if kv is not None:
                lease = parse_lease(key, kv.value, self.modes)
                self._check(lease)
        except FormatError as error:
            lease, self.invalid[self._subnets + key] = None, str(error)
        self._claim(key, lease.subnets if lease is not None else ())
        if kv is None or lease is None:
            return
        for subnet in lease.subnets:
            first = self._claims[subnet][0]
            if first != key:
                self.invalid[kv.key] = f"{subnet} is leased by the key {first} already; delete one of them"
                return
        host = self._host_of(key, lease, kv.lease)
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

    def _host_of(self, key: str, lease: Lease, etcd_lease: int) -> HostRecord | None:
        """Our record of the node that holds the lease, unless the lease has moved to another address since, or flannel
        has taken it over: then the two are bound to different etcd leases. (An operator's reservation unbinds one.)"""
        for public in (lease.public_ip, lease.public_ipv6):
            record, kv = self.hosts.get(str(public), (None, None))
            if record is not None and kv is not None and record.subnet == key and etcd_lease in (0, kv.lease):
                return record
        return None

    def _check(self, lease: Lease) -> None:
        """Raises FormatError for a lease that must not become a route here."""
        for subnet in lease.subnets:
            network = next((one for one in self._networks if one.version == subnet.version), None)
            if self._networks and (network is None or not within(subnet, network) or subnet == network):
                raise FormatError(f"{subnet} is not part of the network {', '.join(map(str, self._networks))}")
        for public in (lease.public_ip, lease.public_ipv6):
            if public is not None and any(public in one for one in self._networks if one.version == public.version):
                raise FormatError(f"its public IP {public} lies inside the overlay's own network")

    def _apply_record(self, address: str, kv: KeyValue | None) -> None:
        old = self.hosts.pop(address, None)
        if old is not None:
            self._judge_with_rivals(old[0].subnet)
        if kv is None:
            return
        try:
            record = parse_host(kv.value)
            _parse_address(address)
        except FormatError as error:
            self.invalid[kv.key] = str(error)
            return
        self.hosts[address] = (record, kv)
        self._judge_with_rivals(record.subnet)


def _parse_address(text: str) -> Address:
    try:
        return ip_address(text)
    except ValueError:
        raise FormatError("its key is not a valid public IP") from None
