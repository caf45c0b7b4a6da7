"""This node's own lease.

    acquire     choose, then write if nothing has changed since; else read everything and choose again
    secure      whenever its keys change: they are as this node wants them, or it takes them back
    keep        its etcd lease is renewed in time; a reservation needs none

Who else has a hand in it: an operator, who may delete it, or make it a reservation; a node that was given the subnet
while this one was away; a clone, which has the same identity, and of which the first one is told by the sessions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

import structlog

from overlayd.core.address import Network
from overlayd.core.flannel.lease import key_of, lease_text
from overlayd.core.leases.allocation import AllocationError, Choice, Held
from overlayd.core.leases.host_record import HostRecord
from overlayd.core.leases.lease import Lease
from overlayd.registry.base import RegistryError
from overlayd.registry.etcd.claim import Holder, Wanted, choose_for, claim, lease_for
from overlayd.registry.etcd.client import EtcdClient
from overlayd.registry.etcd.messages import EtcdError, UnavailableError
from overlayd.registry.etcd.reach import backoff
from overlayd.registry.etcd.replica import Replica
from overlayd.registry.etcd.term import Term

log = structlog.get_logger()

_RACES = 100  # lost one after the other before something else must be wrong
_NAP = 300.0  # seconds; a host that was suspended looks at its clock at least this often


@dataclass(frozen=True, slots=True)
class Own:
    """What this node has."""

    lease: Lease
    etcd_lease: int
    confirmed: bool
    """False for a lease from the snapshot on disk, which etcd has not seen this session hold."""

    @property
    def key(self) -> str:
        """Its key in etcd without the prefix."""
        return key_of(self.lease)


class OwnLease:
    """Whoever writes this node's keys does it here, one at a time. The replica knows at once what was written; when the
    subnet is another than it was, the updates say so."""

    def __init__(
        self, client: EtcdClient, replica: Replica, term: Term, holder: Holder, *, read_only: bool = False
    ) -> None:
        """`read_only`: nothing is written."""
        self._client, self._replica, self._view, self._term = client, replica, replica.view, term
        self._holder, self._read_only = holder, read_only
        self._wanted: Wanted | None = None
        self._own: Own | None = None
        self._own_changed = asyncio.Event()
        self._replaced: set[str] = set()
        """Sessions of this node's own identity that this one took over from: they must be dead."""
        self._writing = asyncio.Lock()

    @property
    def etcd_lease(self) -> int:
        """What its keys live by; 0 where they live for ever, or there are none."""
        return self._own.etcd_lease if self._own is not None else 0

    @property
    def lease(self) -> Lease | None:
        """The lease that this node has."""
        return self._own.lease if self._own is not None else None

    @property
    def keys(self) -> set[str]:
        """The keys in etcd that are this node's, or would be."""
        if self._own is None:
            return set()
        addresses = self._wanted.publics if self._wanted is not None else ()
        return {self._view.subnet_key(self._own.key), *map(self._view.host_key, addresses)}

    # --- acquire -----------------------------------------------------------------------------------------------------

    async def acquire(self, wanted: Wanted, former: Sequence[Network]) -> Lease:
        """Have a lease; `former` subnets are asked for where there is none yet. Raises RegistryError."""
        async with self._writing:
            lease = await self._acquire(wanted, former if self._own is None else self._own.lease.subnets)
            self._wanted = wanted
            return lease

    async def _acquire(self, wanted: Wanted, former: Sequence[Network]) -> Lease:
        try:
            for attempt in range(_RACES):
                try:
                    choice = choose_for(wanted, self._view, self._holder, self.lease, former)
                except AllocationError as error:
                    if attempt or not self._replica.loaded or self._read_only:
                        raise RegistryError(str(error)) from None
                    await self._replica.load()  # what is known may be a moment old: a refusal wants to be sure
                    continue
                lease = lease_for(wanted, choice, self._holder.name)
                if self._read_only:
                    return lease
                if self._replica.stale is not None:
                    return self._unconfirmed(choice, lease)
                if await self._claim(wanted, choice, lease):
                    return lease
                log.info("another node was faster", subnet=str(lease.subnets[0]))
                await self._replica.load()
        except UnavailableError as error:
            if self._own is not None and self._own.confirmed:
                same = lease_for(wanted, Choice(self._own.lease.subnets, None, ""), self._holder.name)
                if lease_text(same, self._view.modes) == lease_text(self._own.lease, self._view.modes):
                    return self._own.lease
            raise RegistryError(f"etcd: {error}") from None
        except EtcdError as error:
            raise RegistryError(f"etcd: {error}") from None
        finally:
            await self._term.end_unused()
        raise RegistryError(f"etcd: no lease after {_RACES} attempts: other nodes were faster each time")

    def _unconfirmed(self, choice: Choice, lease: Lease) -> Lease:
        if choice.held is None or choice.held.host is None:
            raise RegistryError("etcd is out of reach, and the leases last known hold none for this node")
        self._have(Own(lease, choice.held.etcd_lease, confirmed=False))
        return lease

    async def _claim(self, wanted: Wanted, choice: Choice, lease: Lease) -> bool:
        """Write the lease and our record, unless somebody has changed what the choice rests on."""
        chosen = claim(wanted, self._view, self._holder, lease, 0).conditions
        etcd_lease = 0
        if not lease.reserved:
            own, held = (one.etcd_lease if one is not None else 0 for one in (self._own, choice.held))
            etcd_lease = await self._term.living(wanted.settings.subnet_lease_ttl, own, held)
        made = claim(wanted, self._view, self._holder, lease, etcd_lease)
        if made.conditions != chosen:
            return False  # the watch has brought what the choice did not know of
        revision = await self._client.transact(made.conditions, *made.writes)
        if revision is None:
            return False
        if self._own is None or not self._own.confirmed:
            self._replaced |= made.sessions
        if made.writes:
            log.info("lease acquired", lease=str(lease), how=choice.how, reservation=lease.reserved or None)
        self._replica.wrote(made.writes, revision)
        self._have(Own(lease, etcd_lease, confirmed=True))
        for old in made.abandoned:
            await self._term.end_empty(old)
        return True

    def _have(self, own: Own) -> None:
        self._own = own
        self._term.used(own.etcd_lease)
        self._own_changed.set()

    # --- secure ------------------------------------------------------------------------------------------------------

    async def secure(self) -> None:
        """See that this node's own keys are as they should be. Raises RegistryError when it is the clone that must go,
        EtcdError when etcd does not let it."""
        async with self._writing:
            own, wanted = self._own, self._wanted
            if own is None or wanted is None:
                return
            held, found = self._view.held.get(own.key), self._view.record(wanted.publics[0])
            record = found[0] if found is not None else None
            if own.confirmed and held is not None and self._intact(own, held, record):
                if held.etcd_lease != own.etcd_lease:
                    await self._rebind(own, held)
                return
            if own.confirmed:
                self._not_a_clone(record if self._holder.owns(record) else held.host if held is not None else None)
                log.error("own lease was changed by somebody else", lease=str(own.lease), now=_seen(held))
            subnets = own.lease.subnets
            lease = await self._acquire(wanted, subnets)
            if lease.subnets != subnets:
                self._replica.updates.moved(
                    f"{subnets[0]} is held by {_seen(held)}; this host has {lease.subnets[0]} now"
                )
            elif own.confirmed:
                log.warning("own lease taken back", lease=str(lease))

    def _intact(self, own: Own, held: Held, record: HostRecord | None) -> bool:
        if record is None or (record.id, record.session) != (self._holder.id, self._holder.session):
            return False
        modes = self._view.modes
        return record.subnet == own.key and lease_text(held.lease, modes) == lease_text(own.lease, modes)

    def _not_a_clone(self, record: HostRecord | None) -> None:
        """Raises RegistryError when this record's session was there before this node's own, and is alive."""
        if record is None or not self._holder.owns(record) or record.session == self._holder.session:
            return
        if record.session in self._replaced:
            raise RegistryError(
                f"another node runs with this node's identity {self._holder.id}, and it was there first: this one is"
                " its clone. Remove node-id from the clone's state_dir and start it again"
            )
        log.error("another node runs with this node's identity: a clone; it is told to stop", name=record.name)

    async def _rebind(self, own: Own, held: Held) -> None:
        """Somebody made this node's lease a reservation, or bound it to another etcd lease."""
        lease = replace(own.lease, reserved=held.lease.reserved)
        self._have(Own(lease, held.etcd_lease, confirmed=True))
        log.info("own lease is bound to another etcd lease", lease=str(lease), reservation=lease.reserved)
        if own.etcd_lease:
            await self._term.end_empty(own.etcd_lease)

    # --- keep --------------------------------------------------------------------------------------------------------

    async def keep(self, sleep: Callable[[float], Awaitable[None]]) -> None:
        """Renew the etcd lease when less than the margin is left of it, without end."""
        failures = 0
        while True:
            self._own_changed.clear()
            own, wanted = self._own, self._wanted
            if own is None or wanted is None or not own.confirmed or own.etcd_lease == 0:
                await self._own_changed.wait()
                continue
            left = self._term.left - wanted.settings.subnet_lease_renew_margin
            if left > 0:
                await self._nap(sleep(min(left, _NAP)))
                continue
            try:
                ttl = await self._term.renew(own.etcd_lease)
                if ttl == 0 and own is self._own:
                    log.error("own lease has expired in etcd", lease=str(own.lease))
                    await self._replica.load()
                    self._replica.updates.wake()
                    await self.secure()
                elif ttl:
                    log.debug("lease renewed", lease=str(own.lease), seconds=ttl)
                failures = 0
            except EtcdError as error:
                log.debug("lease not renewed", lease=str(own.lease), error=str(error))
                await sleep(backoff(failures))
                failures += 1

    async def _nap(self, sleep: Awaitable[None]) -> None:
        """Sleep, but no longer than until this node's own lease is another."""
        sleeping = [asyncio.ensure_future(sleep), asyncio.ensure_future(self._own_changed.wait())]
        try:
            await asyncio.wait(sleeping, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in sleeping:
                one.cancel()


def _seen(held: Held | None) -> str:
    if held is None:
        return "nobody"
    return f"{held.host.name or held.host.id} {held.lease}" if held.host is not None else str(held.lease)
