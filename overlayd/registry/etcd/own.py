"""This node's own lease.

    acquire     choose, ask whether the host can hold it, then write if nothing has changed since; else read everything
                and choose again
    secure      whenever its keys change: if they are not as this node wrote them, restore them
    keep        renew its etcd lease in time; a reservation needs none

Others may change it too: an operator, who deletes it or makes it a reservation; a node that got the subnet while this
one was away; a clone with the same identity, which its session tells apart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from overlayd.core.address import Network
from overlayd.core.leases.allocation import AllocationError, Choice, Held, NoFreeSubnetError
from overlayd.core.leases.host_record import HostRecord
from overlayd.core.leases.lease import Lease
from overlayd.log import log
from overlayd.registry.base import Admit, NotYetError, RegistryError, admit_any
from overlayd.registry.etcd.claim import (
    Acquired,
    Holder,
    LeaseRequest,
    choose_for,
    claim,
    is_intact,
    is_same,
    lease_for,
    rebind,
)
from overlayd.registry.etcd.client import EtcdClient
from overlayd.registry.etcd.connectivity import Sleep, backoff, nap
from overlayd.registry.etcd.etcd_lease import EtcdLease
from overlayd.registry.etcd.local_copy import LocalCopy
from overlayd.registry.etcd.messages import EtcdError, UnavailableError
from overlayd.registry.etcd.replica import Replica

_RACES = 100  # lost in a row before something else must be wrong
_NAP = 300.0  # seconds; a host that was suspended checks its clock at least this often


class OwnLease:
    """The only writer of this node's keys, one write at a time. The replica applies each write at once; when the subnet
    has changed, its updates say so."""

    def __init__(
        self,
        client: EtcdClient,
        replica: Replica,
        copy: LocalCopy,
        etcd_lease: EtcdLease,
        holder: Holder,
        *,
        read_only: bool = False,
    ) -> None:
        """`read_only`: nothing is written."""
        self._client, self._replica, self._view, self._etcd_lease = client, replica, replica.view, etcd_lease
        self._copy, self._holder, self._read_only = copy, holder, read_only
        self._request: LeaseRequest | None = None
        self._own: Acquired | None = None
        self.invalid: dict[str, str] = {}
        """Why this node is without its lease while it runs, by the lease's key."""
        self._own_changed = asyncio.Event()
        self._replaced: set[str] = set()
        """Sessions with this node's identity that this one replaced: they must have ended."""
        self._writing = asyncio.Lock()

    @property
    def lease(self) -> Lease | None:
        """This node's lease."""
        return self._own.lease if self._own is not None else None

    @property
    def keys(self) -> set[str]:
        """The keys in etcd that this node writes."""
        if self._own is None:
            return set()
        addresses = self._request.publics if self._request is not None else ()
        return {self._view.subnet_key(self._own.key), *map(self._view.host_key, addresses)}

    # --- acquire -----------------------------------------------------------------------------------------------------

    async def acquire(self, request: LeaseRequest, former: Sequence[Network], admit: Admit = admit_any) -> Lease:
        """Get a lease, with the `former` subnets if there is none yet and they are free. Raises RegistryError, and what
        `admit` raises, which is asked before anything is written."""
        async with self._writing:
            lease = await self._acquire(request, former if self._own is None else self._own.lease.subnets, admit)
            self._request = request
            return lease

    async def _acquire(self, request: LeaseRequest, former: Sequence[Network], admit: Admit = admit_any) -> Lease:
        try:
            for attempt in range(_RACES):
                try:
                    choice, lease = await self._choose(request, former, admit)
                except AllocationError as error:
                    if attempt or not self._replica.loaded or self._read_only:
                        kind = NotYetError if isinstance(error, NoFreeSubnetError) else RegistryError
                        raise kind(str(error)) from None
                    await self._replica.load()  # the view may be a moment old: refuse only what etcd itself confirms
                    continue
                if self._read_only:
                    return lease
                if self._copy.restored is not None:
                    return self._unconfirmed(choice, lease)
                if await self._claim(request, choice, lease):
                    return lease
                log.info("lost the race for a subnet", subnet=str(lease.subnets[0]))
                await self._replica.load()
        except UnavailableError as error:
            own = self._own
            if own is not None and own.confirmed and is_same(request, self._view, own.lease, self._holder.name):
                return own.lease
            raise RegistryError(f"etcd: {error}") from None
        except EtcdError as error:
            raise RegistryError(f"etcd: {error}") from None
        finally:
            await self._etcd_lease.revoke_unused()
        raise RegistryError(f"etcd: no lease after {_RACES} attempts; other nodes won every race")

    async def _choose(self, request: LeaseRequest, former: Sequence[Network], admit: Admit) -> tuple[Choice, Lease]:
        """A lease that has been admitted, and is the choice by the view as it is at the return. Raises AllocationError,
        and what `admit` raises."""
        admitted: Lease | None = None
        while True:
            choice = choose_for(request, self._view, self._holder, self.lease, former)
            lease = lease_for(request, choice, self._holder.name, self.lease)
            if lease == admitted:
                return choice, lease
            await admit(lease)
            admitted = lease

    def _unconfirmed(self, choice: Choice, lease: Lease) -> Lease:
        if choice.held is None or choice.held.host is None:
            raise RegistryError("etcd is unreachable, and the last known leases have none for this node")
        self._have(Acquired(lease, choice.held.etcd_lease, confirmed=False))
        return lease

    async def _claim(self, request: LeaseRequest, choice: Choice, lease: Lease) -> bool:
        """Write the lease and our record, unless the keys that the choice depends on have changed."""
        chosen = claim(request, self._view, self._holder, lease, 0).conditions
        etcd_lease = 0
        if not lease.reserved:
            own, held = (one.etcd_lease if one is not None else 0 for one in (self._own, choice.held))
            etcd_lease = await self._etcd_lease.obtain(request.settings.subnet_lease_ttl, own, held)
        made = claim(request, self._view, self._holder, lease, etcd_lease)
        if made.conditions != chosen:
            return False  # the watch has brought changes since the choice
        revision = await self._client.transact(made.conditions, *made.writes)
        if revision is None:
            return False
        if self._own is None or not self._own.confirmed:
            self._replaced |= made.sessions
        if made.writes:
            log.info("lease acquired", lease=str(lease), how=choice.how, reservation=lease.reserved or None)
        self._replica.wrote(made.writes, revision)
        self._have(Acquired(lease, etcd_lease, confirmed=True))
        for old in made.abandoned:
            await self._etcd_lease.revoke_empty(old)
        return True

    def _have(self, own: Acquired) -> None:
        self._own, self.invalid = own, {}
        self._replica.checked_key = self._view.subnet_key(own.key)
        self._etcd_lease.used(own.etcd_lease)
        self._own_changed.set()

    # --- secure ------------------------------------------------------------------------------------------------------

    async def secure(self) -> None:
        """Restore this node's keys if they are not as it wrote them. Raises RegistryError when this is a clone that has
        to stop, EtcdError when etcd refuses."""
        async with self._writing:
            own, request = self._own, self._request
            if own is None or request is None:
                return
            held, found = self._view.held.get(own.key), self._view.record(request.publics[0])
            record = found[0] if found is not None else None
            if own.confirmed and held is not None and is_intact(self._view, self._holder, own.lease, held, record):
                self.invalid = {}
                if held.etcd_lease != own.etcd_lease:
                    await self._rebind(own, request, held)
                return
            if own.confirmed:
                self._not_a_clone(record if self._holder.owns(record) else held.host if held is not None else None)
                if not self.invalid:
                    log.error("own lease was changed by someone else", lease=str(own.lease), now=str(held or "nobody"))
            try:
                lease = await self._acquire(request, own.lease.subnets)
            except NotYetError as error:
                self._lose(own, f"leased to {held or 'nobody'}, not to this host; {error}")
                return
            if lease.subnets != own.lease.subnets:
                self._replica.moved(f"{own.lease} is held by {held or 'nobody'}; this host now has {lease}")
            elif own.confirmed:
                log.warning("own lease restored", lease=str(lease))

    def _lose(self, own: Acquired, reason: str) -> None:
        """The subnet is another node's, and none is free: this node goes on without a lease until etcd changes."""
        if not self.invalid:
            log.error("own lease is lost; waiting for a free subnet", lease=str(own.lease), reason=reason)
        self._have(Acquired(own.lease, 0, own.confirmed))
        self.invalid = {self._view.subnet_key(own.key): reason}

    def _not_a_clone(self, record: HostRecord | None) -> None:
        """Raises RegistryError when the record is of a session that was replaced but still runs: this is its clone."""
        if record is None or not self._holder.owns(record) or record.session == self._holder.session:
            return
        if record.session in self._replaced:
            raise RegistryError(
                f"another node runs with the same identity {self._holder.id}, and ran first: this node is its clone."
                " Remove node-id from the state_dir of the clone and start it again"
            )
        log.error("a clone runs with this node's identity; it will stop", name=record.name)

    async def _rebind(self, own: Acquired, request: LeaseRequest, held: Held) -> None:
        """An operator made this node's lease a reservation, or bound it to another etcd lease: our record follows."""
        lease = replace(own.lease, reserved=held.lease.reserved)
        conditions, put = rebind(request, self._view, held)
        revision = await self._client.transact(conditions, put)
        if revision is None:
            return  # the watch brings what has changed, and this is done again
        self._replica.wrote([put], revision)
        self._have(Acquired(lease, held.etcd_lease, confirmed=True))
        log.info("own lease is bound to another etcd lease", lease=str(lease), reservation=lease.reserved)
        if own.etcd_lease:
            await self._etcd_lease.revoke_empty(own.etcd_lease)

    # --- keep --------------------------------------------------------------------------------------------------------

    async def keep(self, sleep: Sleep) -> None:
        """Renew the etcd lease when less than the margin is left, without end."""
        failures = 0
        while True:
            self._own_changed.clear()
            own, request = self._own, self._request
            if own is None or request is None or not own.confirmed or own.etcd_lease == 0:
                await self._own_changed.wait()
                continue
            left = self._etcd_lease.left - request.settings.subnet_lease_renew_margin
            if left > 0:
                await nap(sleep(min(left, _NAP)), self._own_changed)
                continue
            try:
                ttl = await self._etcd_lease.renew(own.etcd_lease)
                if ttl == 0 and own is self._own:
                    log.error("own lease has expired in etcd", lease=str(own.lease))
                    await self._replica.load()
                    await self.secure()
                elif ttl:
                    log.debug("lease renewed", lease=str(own.lease), seconds=ttl)
                failures = 0
            except EtcdError as error:
                log.debug("lease not renewed", lease=str(own.lease), error=str(error))
                await sleep(backoff(failures))
                failures += 1
