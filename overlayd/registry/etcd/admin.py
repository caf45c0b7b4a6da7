"""The operator's commands: write the network's configuration, reserve a subnet, release a lease.

Each is one transaction, on condition that nothing has changed since it was read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

from overlayd.core.address import Address, Network
from overlayd.core.flannel.config import parse_config
from overlayd.core.flannel.lease import key_of, lease_text
from overlayd.core.leases.allocation import Held, by_family
from overlayd.core.leases.lease import Lease
from overlayd.core.settings.model import Settings
from overlayd.registry.base import RegistryError
from overlayd.registry.etcd.client import EtcdClient
from overlayd.registry.etcd.messages import Delete, Put, Unchanged
from overlayd.registry.etcd.view import View

_CHANGED = "it was changed at the same moment; check it and try again"


async def write_config(client: EtcdClient, prefix: str, text: str, model: type[Settings], *, force: bool) -> str:
    """Write PREFIX/config; returns a report. Raises RegistryError if a different one exists, unless `force`."""
    key = f"{prefix}/config"
    there, _ = await client.get(key)
    if there is not None:
        old, new = parse_config(there.value, model), parse_config(text, model)
        if isinstance(old, Settings) and old == new:
            return f"{key} has this configuration already: {there.value}"
        if not force:
            raise RegistryError(
                f"a different configuration is already at {key}: {there.value}; use --force to replace it"
            )
    if await client.transact([Unchanged(key, there.mod_revision if there else 0)], Put(key, text)) is None:
        raise RegistryError(f"{key}: {_CHANGED}")
    return f"{key} = {text}"


async def reserve(
    client: EtcdClient, prefix: str, subnets: Sequence[Network], publics: Sequence[Address], model: type[Settings]
) -> str:
    """Make an existing lease permanent, or reserve free subnets for the host with these public IPs (none: so that no
    node gets them); returns a report. Raises RegistryError."""
    view = await _read(client, prefix, model)
    held = _find(view, subnets)
    if held is None:
        return await _reserve_free(client, prefix, view, subnets, publics, model)
    lease = held.lease
    if publics and not set(publics) <= {lease.public_ip, lease.public_ipv6}:
        raise RegistryError(f"{subnets[0]} is leased to {lease}; release it first")
    if held.etcd_lease == 0:
        return f"{lease} is a reservation already"
    keys = _keys(view, prefix, held)
    conditions = [Unchanged(key, view.keys[key].mod_revision) for key in keys]
    if await client.transact(conditions, *(Put(key, view.keys[key].value) for key in keys)) is None:
        raise RegistryError(f"{subnets[0]}: {_CHANGED}")
    return f"{lease} is reserved: it never expires"


async def _reserve_free(
    client: EtcdClient,
    prefix: str,
    view: View,
    subnets: Sequence[Network],
    publics: Sequence[Address],
    model: type[Settings],
) -> str:
    config = parse_config(view.config or "", model)
    if not isinstance(config, Settings):
        raise RegistryError("\n".join(f"{prefix}/config: {problem}" for problem in config))
    ranges = config.ranges()
    if [one.version for one in subnets] != [one.network.version for one in ranges]:
        wanted = " and ".join(f"a subnet of {one.network}" for one in ranges)
        raise RegistryError(f"{' '.join(map(str, subnets))}: a lease of this network has {wanted}")
    for one, subnet in zip(ranges, subnets, strict=True):
        if wrong := one.check(subnet):
            raise RegistryError(f"{subnet} {wrong}")
    subnet4, subnet6 = by_family(subnets)
    lease = Lease(
        subnet=subnet4,
        ipv6_subnet=subnet6,
        public_ip=next((one for one in publics if isinstance(one, IPv4Address)), None),
        public_ipv6=next((one for one in publics if isinstance(one, IPv6Address)), None),
    )
    key = f"{prefix}/subnets/{key_of(lease)}"
    if await client.transact([Unchanged(key, 0)], Put(key, lease_text(lease, model.modes))) is None:
        raise RegistryError(f"{subnets[0]}: {_CHANGED}")
    return f"{lease} is reserved" if publics else f"{' '.join(map(str, subnets))} is reserved: no node gets it"


async def release(
    client: EtcdClient, prefix: str, subnets: Sequence[Network], node: str | None, model: type[Settings]
) -> str:
    """Release the lease or reservation of these subnets, or that of the node with this identity; returns a report.
    Raises RegistryError."""
    view = await _read(client, prefix, model)
    if subnets:
        held = _find(view, subnets)
        missing = f"{subnets[0]} is not leased"
    else:
        held = next((one for one in view.held.values() if one.host is not None and one.host.id == node), None)
        missing = "this host has no lease"
        if held is None and (report := await _release_records(client, view, node)):
            return report
    if held is None:
        raise RegistryError(missing)
    keys = _keys(view, prefix, held)
    conditions = [Unchanged(key, view.keys[key].mod_revision) for key in keys]
    if await client.transact(conditions, *(Delete(key) for key in keys)) is None:
        raise RegistryError(f"{held.lease}: {_CHANGED}")
    if held.etcd_lease and await client.is_empty(held.etcd_lease):
        await client.revoke(held.etcd_lease)
    return f"{held.lease} is released"


async def hand_over(client: EtcdClient, prefix: str, node: str, model: type[Settings], *, dry_run: bool) -> str:
    """Leave the lease of the node with this identity to flannel: in flannel's form, with its full time, and without our
    record; returns a report. Raises RegistryError."""
    view = await _read(client, prefix, model)
    held = next((one for one in view.held.values() if one.host is not None and one.host.id == node), None)
    if held is None:
        return (None if dry_run else await _release_records(client, view, node)) or "this host has no lease in etcd"
    subnet_key, *records = _keys(view, prefix, held)
    conditions = [Unchanged(key, view.keys[key].mod_revision) for key in (subnet_key, *records)]
    value = lease_text(replace(held.lease, wire="flannel"), model.modes)
    if not dry_run:
        put = Put(subnet_key, value, held.etcd_lease)
        if await client.transact(conditions, put, *(Delete(key) for key in records)) is None:
            raise RegistryError(f"{held.lease}: {_CHANGED}")
        if held.etcd_lease:
            await client.keep_alive(held.etcd_lease)
    return f"lease {held.lease} stays in etcd for flanneld ({subnet_key}), without overlayd's record"


async def _release_records(client: EtcdClient, view: View, node: str | None) -> str | None:
    """Delete the records of a node whose lease flannel has taken over; returns a report, None when there are none."""
    found = [(record, kv) for record, kv in view.hosts.values() if record.id == node]
    if not found:
        return None
    conditions = [Unchanged(kv.key, kv.mod_revision) for _, kv in found]
    if await client.transact(conditions, *(Delete(kv.key) for _, kv in found)) is None:
        raise RegistryError(f"{found[0][1].key}: {_CHANGED}")
    for etcd_lease in {kv.lease for _, kv in found} - {0}:
        if await client.is_empty(etcd_lease):
            await client.revoke(etcd_lease)
    held = view.held.get(found[0][0].subnet)
    now = f"{held.lease} belongs to another daemon (flanneld?) and stays" if held is not None else "it had no lease"
    return f"overlayd's record of this host is deleted; {now}"


async def _read(client: EtcdClient, prefix: str, model: type[Settings]) -> View:
    view = View(prefix, model.modes)
    view.load(*await client.range(f"{prefix}/"))
    return view


def _find(view: View, subnets: Sequence[Network]) -> Held | None:
    return next((one for one in view.held.values() if subnets[0] in one.lease.subnets), None)


def _keys(view: View, prefix: str, held: Held) -> list[str]:
    """The keys of a lease: flannel's and our record."""
    ours = [kv.key for record, kv in view.hosts.values() if record == held.host]
    return [f"{prefix}/subnets/{key_of(held.lease)}", *ours]
