"""The etcd registry: leases of a cluster, in flannel's schema.

    load ----> View <---- watch            everything under the prefix, at one revision and after
                |
    configure   PREFIX/config              what holds for the whole network
    acquire     choose, then write if nothing has changed since; else load and choose again
    secure      whenever this node's own keys change: they are as this node wants them, or it takes them back
    keep        one etcd lease, renewed; a reservation needs none

The lease stands under flannel's key in flannel's form. Beside it, in the same transaction and on the same etcd lease,
stands our own record PREFIX/overlayd/hosts/PUBLIC-IP: it says which node has that address, so that two nodes cannot
both have it, a node is known by its identity when its address changes, and a clone is told from a restart.
"""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import Any

import structlog

from overlayd.core.address import Address
from overlayd.core.allocation import AllocationError, Choice, Held, by_family, choose, fits
from overlayd.core.config import Settings
from overlayd.core.flannel import HostRecord, host_text, key_of, lease_text, parse_config
from overlayd.core.lease import Lease, LeaseEvent
from overlayd.core.node import Underlay
from overlayd.registry.base import (
    Changes,
    Moved,
    RegistryError,
    RegistryState,
    Snapshot,
    Store,
    Update,
)
from overlayd.registry.etcd.client import (
    Batch,
    CompactedError,
    Delete,
    EtcdClient,
    EtcdError,
    Event,
    KeyValue,
    Put,
    UnavailableError,
    Unchanged,
    tls_context,
)
from overlayd.registry.etcd.config import merge
from overlayd.registry.etcd.view import View

log = structlog.get_logger()

HEARTBEAT = 5.0
"""Seconds without an event after which the member behind the watch is asked whether it lives."""
_BACKOFF = 0.25, 10.0  # seconds between attempts, the first and the longest
_RACES = 100  # lost one after the other before something else must be wrong
_NAP = 300.0  # seconds; a host that was suspended looks at its clock at least this often
_SAVE_FIRST, _SAVE_EVERY = 1.0, 30.0  # seconds


def _boot_time() -> float:
    return float(time.clock_gettime(time.CLOCK_BOOTTIME))


def backoff(failures: int) -> float:
    """Seconds to wait after so many failures in a row, with a spread so that nodes do not knock all at once."""
    first, longest = _BACKOFF
    whole = min(longest, first * float(1 << min(failures, 16)))
    return whole * random.uniform(0.7, 1.0)  # noqa: S311  # no secret


def make_client(settings: Settings) -> EtcdClient:
    """A client for these settings. Raises RegistryError when a certificate cannot be used."""
    etcd = settings.etcd
    tls = None
    if etcd.endpoints.startswith("https:"):
        try:
            tls = tls_context(etcd.cafile, etcd.certfile, etcd.keyfile)
        except EtcdError as error:
            raise RegistryError(str(error)) from None
    return EtcdClient(etcd.urls, tls, etcd.username, etcd.password)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What this node asks for."""

    settings: Settings
    publics: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class _Own:
    """What this node has."""

    lease: Lease
    etcd_lease: int
    confirmed: bool
    """False for a lease from the snapshot on disk, which etcd has not seen this session hold."""

    @property
    def key(self) -> str:
        return key_of(self.lease)


class EtcdRegistry:
    """See `registry.base.Registry`."""

    name = "etcd"

    def __init__(
        self,
        settings: Settings,
        store: Store,
        name: str = "",
        *,
        read_only: bool = False,
        now: Callable[[], float] = _boot_time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        heartbeat: float = HEARTBEAT,
    ) -> None:
        """`name` is what others call this host. `read_only`: nothing is written, nothing is waited for.

        `now` is in seconds, from a clock that runs on while the host is suspended. Raises RegistryError.
        """
        self.client = make_client(settings)
        self._prefix, self._name = settings.etcd.prefix, name
        self._store, self._read_only = store, read_only
        self._now, self._sleep, self._heartbeat = now, sleep, heartbeat
        self._node, self._session = store.node_id(), secrets.token_hex(8)
        self._replaced: set[str] = set()
        """Sessions of this node's own identity that this one took over from: they must be dead."""
        self.view = View(self._prefix)
        self._config: str | None = None
        """PREFIX/config as `configure` used it last."""
        self._seen_config: str | None = None
        """PREFIX/config as it was looked at last."""
        self._wanted: _Wanted | None = None
        self._own: _Own | None = None
        self._expires = 0.0
        """When the etcd lease ends, by `now`."""
        self._granted = 0
        """An etcd lease that was granted and holds nothing yet."""
        self._own_changed = asyncio.Event()
        self._writing = asyncio.Lock()
        self._loaded = False
        self._stale: float | None = None
        self._connected: bool | None = None
        self._since: float | None = None
        self._error: str | None = None
        self._snapshot_due = False
        self._changed: dict[str, Lease | None] = {}
        """Leases that changed since the last update, by key, as they were then."""
        self._moved: str | None = None
        self._due = asyncio.Event()
        self._unsaved = asyncio.Event()

    # --- configure ---------------------------------------------------------------------------------------------------

    async def configure(self, settings: Settings) -> Settings:
        if self._own is None:
            await self._first_look()
            self._config = self._seen_config = self.view.config
        elif self._safe(self.view.config):
            self._config = self.view.config
        if self._config is None:
            raise RegistryError(self._missing)
        merged = merge(settings, self._config, f"{self._prefix}/config")
        self.view.use_ranges(merged.ranges())
        return merged

    @property
    def _missing(self) -> str:
        return f"{self._prefix}/config is not there; write it: overlayctl etcd init --network ... --backend ..."

    async def _first_look(self) -> None:
        """Know what etcd holds, or held when this node last saw it. Waits for etcd and for the configuration in it."""
        failures = 0
        while True:
            try:
                await self._load()
                if self.view.config is not None or self._read_only:
                    return
                reason = self._missing
            except UnavailableError as error:
                reason = str(error)
                if self._read_only:
                    raise RegistryError(f"etcd: {error}; check etcd.endpoints") from None
                if self._restore():
                    self._lost(error)
                    return
            except EtcdError as error:
                raise RegistryError(f"etcd: {error}") from None
            if self._error != reason:
                log.error("no leases yet: waiting for etcd", reason=reason, endpoints=",".join(self.client.endpoints))
            self._error = reason
            await self._sleep(backoff(failures))
            failures += 1

    async def _load(self) -> None:
        keys, revision = await self.client.range(f"{self._prefix}/")
        self.view.load(keys, revision)
        self._say_bad()
        self._loaded, self._stale, self._snapshot_due = True, None, True
        self._unsaved.set()

    # --- the snapshot on disk ----------------------------------------------------------------------------------------

    def _restore(self) -> bool:
        """Know what was saved on disk, if this node's own lease is in it."""
        text = self._store.load()
        if text is None:
            return False
        try:
            saved = json.loads(text)
            if saved["prefix"] != self._prefix:
                return False
            keys = [KeyValue(str(key), str(value), int(lease), int(mod)) for key, value, lease, mod in saved["keys"]]
            stale, revision = float(saved["saved"]), int(saved["revision"])
        except (ValueError, TypeError, KeyError):
            log.warning("the saved leases make no sense and are not used")
            return False
        self.view.load(keys, revision)
        if self.view.config is None or all(record.id != self._node for record, _ in self.view.hosts.values()):
            self.view.load((), 0)
            return False
        self._stale = stale
        log.warning(
            "etcd is out of reach: the leases last known are used",
            saved=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(stale)),
            leases=len(self.view.held),
        )
        return True

    async def _save(self) -> None:
        await self._unsaved.wait()
        await self._sleep(_SAVE_FIRST)
        while True:
            await self._unsaved.wait()
            await asyncio.to_thread(self._store.save, self._saved_text())
            await self._sleep(_SAVE_EVERY)

    def _saved_text(self) -> str:
        self._unsaved.clear()
        keys = [(kv.key, kv.value, kv.lease, kv.mod_revision) for kv in self.view.keys.values()]
        return json.dumps(
            {"prefix": self._prefix, "saved": time.time(), "revision": self.view.revision, "keys": keys},
            separators=(",", ":"),
        )

    # --- acquire -----------------------------------------------------------------------------------------------------

    async def acquire(self, settings: Settings, underlay: Underlay) -> Lease:
        families = {one.network.version for one in settings.ranges()}
        publics = [public for public in (underlay.public_ip, underlay.public_ipv6) if public is not None]
        # As flannel: the address of each family that the overlay has; where there is none, the other carries it.
        named = tuple(public for public in publics if public.version in families) or tuple(publics)
        wanted = _Wanted(settings, named)
        async with self._writing:
            former = self._store.former_subnets() if self._own is None else self._own.lease.subnets
            lease = await self._acquire(wanted, former)
            self._wanted = wanted
            return lease

    async def _acquire(self, wanted: _Wanted, former: Sequence[Any]) -> Lease:
        try:
            for attempt in range(_RACES):
                try:
                    choice = self._choose(wanted, former)
                except AllocationError as error:
                    if attempt or not self._loaded or self._read_only:
                        raise RegistryError(str(error)) from None
                    await self._load()  # what is known may be a moment old: a refusal wants to be sure
                    continue
                lease = self._lease(wanted, choice)
                if self._read_only:
                    return lease
                if self._stale is not None:
                    return self._unconfirmed(choice, lease)
                if await self._claim(wanted, choice, lease):
                    return lease
                log.info("another node was faster", subnet=str(lease.subnets[0]))
                await self._load()
        except UnavailableError as error:
            if self._own is not None and self._own.confirmed:
                same = self._lease(wanted, Choice(self._own.lease.subnets, None, ""))
                if lease_text(same) == lease_text(self._own.lease):
                    return self._own.lease
            raise RegistryError(f"etcd: {error}") from None
        except EtcdError as error:
            raise RegistryError(f"etcd: {error}") from None
        finally:
            await self._end_granted()
        raise RegistryError(f"etcd: no lease after {_RACES} attempts: other nodes were faster each time")

    def _choose(self, wanted: _Wanted, former: Sequence[Any]) -> Choice:
        for public in wanted.publics:
            found = self.view.record(public)
            if found is not None and found[0].id != self._node and found[0].subnet not in self.view.held:
                raise AllocationError(
                    f"public IP {public} is another node's: {found[0].name} (identity {found[0].id});"
                    " give each node a public_ip of its own"
                )
        taken = self.view.taken()
        if self._own is not None and any(record.subnet == self._own.key for record in self._mine()):
            taken -= set(self._own.lease.subnets)  # a value of this node's own that somebody spoilt
        return choose(self.view.held, taken, wanted.settings.ranges(), self._node, wanted.publics, former)

    def _mine(self) -> list[HostRecord]:
        """This node's own records."""
        return [record for record, _ in self.view.hosts.values() if self._is_mine(record)]

    def _lease(self, wanted: _Wanted, choice: Choice) -> Lease:
        """The lease as this node wants it written."""
        settings = wanted.settings
        subnet, ipv6_subnet = by_family(choice.subnets)
        public_ip = next((one for one in wanted.publics if one.version == 4), None)
        public_ipv6 = next((one for one in wanted.publics if one.version == 6), None)
        return Lease(
            subnet=subnet,
            ipv6_subnet=ipv6_subnet,
            public_ip=public_ip,
            public_ipv6=public_ipv6,
            name=self._name,
            backend=settings.mode,
            vni=settings.vxlan.vni if settings.mode == "vxlan" else None,
            port=port_of(settings),
            wire=settings.udp.wire if settings.mode == "udp" else "flannel",
            probe_port=settings.probe.port or None,
            reserved=choice.held is not None and choice.held.etcd_lease == 0,
        )

    def _unconfirmed(self, choice: Choice, lease: Lease) -> Lease:
        if choice.held is None or choice.held.host is None:
            raise RegistryError("etcd is out of reach, and the leases last known hold none for this node")
        self._have(_Own(lease, choice.held.etcd_lease, confirmed=False))
        return lease

    async def _claim(self, wanted: _Wanted, choice: Choice, lease: Lease) -> bool:
        """Write the lease and our record, unless somebody has changed what the choice rests on."""
        key, held = key_of(lease), choice.held
        etcd_lease = 0 if lease.reserved else await self._living_lease(held, wanted.settings.subnet_lease_ttl)
        subnet_key = f"{self._prefix}/subnets/{key}"
        host_key = f"{self._prefix}/overlayd/hosts/{wanted.publics[0]}"
        record = HostRecord(self._node, self._session, key, self._name, lease.port, lease.probe_port)
        known = self.view.record(wanted.publics[0])
        conditions = [
            Unchanged(subnet_key, there.mod_revision if (there := self.view.keys.get(subnet_key)) else 0),
            Unchanged(host_key, known[1].mod_revision if known else 0),
        ]
        writes: list[Put | Delete] = []
        for put in (Put(subnet_key, lease_text(lease), etcd_lease), Put(host_key, host_text(record), etcd_lease)):
            there = self.view.keys.get(put.key)
            if there is None or (there.value, there.lease) != (put.value, put.lease):
                writes.append(put)
        former = self._former_keys({subnet_key, host_key})
        conditions += [Unchanged(kv.key, kv.mod_revision) for kv in former]
        writes += [Delete(kv.key) for kv in former]
        revision = await self.client.transact(conditions, *writes)
        if revision is None:
            return False
        if self._own is None or not self._own.confirmed:
            self._replaced |= {record.session for record in self._mine()}
        if writes:
            log.info("lease acquired", lease=str(lease), how=choice.how, reservation=lease.reserved or None)
        abandoned = {kv.lease for kv in (*former, *(self.view.keys.get(put.key) for put in writes)) if kv is not None}
        self._wrote(writes, revision)
        self._have(_Own(lease, etcd_lease, confirmed=True))
        for old in abandoned - {0, etcd_lease}:
            await self._end_empty(old)
        return True

    def _former_keys(self, kept: set[str]) -> list[KeyValue]:
        """This node's own keys that a new lease replaces."""
        found = []
        for record, kv in self.view.hosts.values():
            if self._is_mine(record):
                found.append(kv)
                held = self.view.held.get(record.subnet)
                if held is not None and held.host == record:
                    found.append(self.view.keys[f"{self._prefix}/subnets/{record.subnet}"])
        return [kv for kv in found if kv.key not in kept]

    def _is_mine(self, record: HostRecord | None) -> bool:
        return record is not None and record.id == self._node

    async def _living_lease(self, held: Held | None, ttl: int) -> int:
        """An etcd lease of the right TTL, renewed just now: one that is there, or a new one."""
        for candidate in (self._granted, self._own.etcd_lease if self._own else 0, held.etcd_lease if held else 0):
            if candidate and (await self.client.time_to_live(candidate))[1] == ttl:
                left = await self.client.keep_alive(candidate)
                if left:
                    self._expires = self._now() + left
                    return candidate
        self._granted = await self.client.grant(ttl)
        self._expires = self._now() + ttl
        return self._granted

    async def _end_granted(self) -> None:
        """End the etcd lease that was granted for nothing."""
        if self._granted:
            with suppress(EtcdError):  # it ends by itself when its time is over
                await self.client.revoke(self._granted)
            self._granted = 0

    async def _end_empty(self, etcd_lease: int) -> None:
        """End an etcd lease that holds no key any more, so that none leak."""
        if not await self.client.keys_of(etcd_lease):
            await self.client.revoke(etcd_lease)

    def _wrote(self, writes: Iterable[Put | Delete], revision: int) -> None:
        """Know at once what this node wrote; the watch will say it again."""
        events = [
            Event(
                write.key,
                KeyValue(write.key, write.value, write.lease, revision) if isinstance(write, Put) else None,
                revision,
            )
            for write in writes
        ]
        self._note(self.view.apply(events, self.view.revision))

    def _have(self, own: _Own) -> None:
        self._own = own
        if self._granted == own.etcd_lease:
            self._granted = 0
        self._own_changed.set()

    # --- secure ------------------------------------------------------------------------------------------------------

    async def _secure(self) -> None:
        """See that this node's own keys are as they should be. Raises RegistryError when it is the clone that must go,
        EtcdError when etcd does not let it."""
        async with self._writing:
            own, wanted = self._own, self._wanted
            if own is None or wanted is None:
                return
            held, found = self.view.held.get(own.key), self.view.record(wanted.publics[0])
            record = found[0] if found is not None else None
            if own.confirmed and held is not None and self._intact(own, held, record):
                if held.etcd_lease != own.etcd_lease:
                    await self._rebind(own, held)
                return
            holder = record if self._is_mine(record) else held.host if held is not None else None
            if own.confirmed and holder is not None and self._is_mine(holder) and holder.session != self._session:
                if holder.session in self._replaced:
                    raise RegistryError(
                        f"another node runs with this node's identity {self._node}, and it was there first: this one is"
                        " its clone. Remove node-id from the clone's state_dir and start it again"
                    )
                log.error("another node runs with this node's identity: a clone; it is told to stop", name=holder.name)
            subnets = own.lease.subnets
            if own.confirmed:
                log.error("own lease was changed by somebody else", lease=str(own.lease), now=_seen(held))
            lease = await self._acquire(wanted, subnets)
            if lease.subnets != subnets:
                reason = f"{subnets[0]} is held by {_seen(held)}; this host has {lease.subnets[0]} now"
                self._moved = reason
                self._due.set()
            elif own.confirmed:
                log.warning("own lease taken back", lease=str(lease))

    def _intact(self, own: _Own, held: Held, record: HostRecord | None) -> bool:
        if record is None or (record.id, record.session) != (self._node, self._session):
            return False
        return record.subnet == own.key and lease_text(held.lease) == lease_text(own.lease)

    async def _rebind(self, own: _Own, held: Held) -> None:
        """Somebody made this node's lease a reservation, or bound it to another etcd lease."""
        lease = replace(own.lease, reserved=held.lease.reserved)
        self._have(_Own(lease, held.etcd_lease, confirmed=True))
        log.info("own lease is bound to another etcd lease", lease=str(lease), reservation=lease.reserved)
        if own.etcd_lease:
            await self._end_empty(own.etcd_lease)

    # --- keep --------------------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Renew the etcd lease when less than the margin is left of it."""
        failures = 0
        while True:
            self._own_changed.clear()
            own, wanted = self._own, self._wanted
            if own is None or wanted is None or not own.confirmed or own.etcd_lease == 0:
                await self._own_changed.wait()
                continue
            left = self._expires - self._now() - wanted.settings.subnet_lease_renew_margin
            if left > 0:
                await self._nap(min(left, _NAP))
                continue
            try:
                ttl = await self.client.keep_alive(own.etcd_lease)
                if ttl == 0 and own is self._own:
                    log.error("own lease has expired in etcd", lease=str(own.lease))
                    await self._load()
                    self._due.set()
                    await self._secure()
                elif ttl:
                    self._expires = self._now() + ttl
                    log.debug("lease renewed", lease=str(own.lease), seconds=ttl)
                failures = 0
            except EtcdError as error:
                log.debug("lease not renewed", lease=str(own.lease), error=str(error))
                await self._sleep(backoff(failures))
                failures += 1

    async def _nap(self, seconds: float) -> None:
        """Sleep, but no longer than until this node's own lease is another."""
        sleeping = [asyncio.ensure_future(self._sleep(seconds)), asyncio.ensure_future(self._own_changed.wait())]
        try:
            await asyncio.wait(sleeping, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in sleeping:
                one.cancel()

    # --- follow ------------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        """Watch without end, through outages, compaction and members that hang."""
        failures = 0
        while True:
            try:
                if not self._loaded:
                    await self._load()
                    await self._settled()
                endpoint = self.client.endpoint
                watch = self.client.watch(f"{self._prefix}/", self.view.revision + 1, endpoint)
                async with aclosing(watch) as stream, aclosing(self._lively(stream, endpoint)) as batches:
                    async for batch in batches:
                        if not batch.events:  # the watch stands
                            self._back()
                            failures = 0
                        await self._take(batch)
            except CompactedError as error:
                log.info("leases are read anew", reason=str(error))
                self._loaded = False
            except EtcdError as error:
                self._lost(error)
                self.client.next_endpoint()
                await self._sleep(backoff(failures))
                failures += 1

    async def _lively(self, stream: AsyncIterator[Batch], endpoint: str) -> AsyncGenerator[Batch, None]:
        """The batches, while the member that sends them answers. Raises UnavailableError when it does not."""
        pending = asyncio.ensure_future(anext(stream))
        try:
            while True:
                await asyncio.wait({pending}, timeout=self._heartbeat)
                if pending.done():
                    batch = pending.result()
                    pending = asyncio.ensure_future(anext(stream))
                    yield batch
                    continue
                await self.client.get(f"{self._prefix}/config")
                if self.client.endpoint != endpoint and not pending.done():
                    raise UnavailableError(f"{endpoint}: does not answer; {self.client.endpoint} does")
        finally:
            pending.cancel()
            await asyncio.gather(pending, return_exceptions=True)

    async def _take(self, batch: Batch) -> None:
        known = set(self.view.bad)
        self._note(self.view.apply(batch.events, batch.revision))
        if batch.events:
            self._unsaved.set()
        self._say_bad(known)
        own = self._own
        if own is None:
            return
        addresses = self._wanted.publics if self._wanted is not None else ()
        mine = {f"{self._prefix}/subnets/{own.key}", *(f"{self._prefix}/overlayd/hosts/{one}" for one in addresses)}
        if any(event.key in mine for event in batch.events):
            await self._secure()
        if any(event.key == f"{self._prefix}/config" for event in batch.events):
            self._look_at_config()

    async def _settled(self) -> None:
        """After everything was read anew: whatever concerns this node itself."""
        self._due.set()
        await self._secure()
        self._look_at_config()

    def _look_at_config(self) -> None:
        text = self.view.config
        if text not in (self._config, self._seen_config) and self._safe(text, say=True):
            self._moved = "the network's configuration in etcd changed"
            self._due.set()
        self._seen_config = text

    def _safe(self, text: str | None, *, say: bool = False) -> bool:
        """Whether a configuration of the network can be gone over to while containers run: it is valid, and this
        host's subnet is part of it."""
        key, reasons = f"{self._prefix}/config", []
        found = parse_config(text) if text is not None else None
        if found is None:
            reasons = ["it was deleted; write it again"]
        elif not isinstance(found, Settings):
            reasons = [str(problem) for problem in found]
        elif self._own is not None and not fits(self._own.lease.subnets, found.ranges()):
            reasons = [
                f"this host's subnet {self._own.lease.subnets[0]} is no part of it; takes effect at the next start"
            ]
        for reason in reasons if say else ():
            log.error("the network's new configuration is not followed, the old one stays", key=key, reason=reason)
        return not reasons

    def _note(self, events: Iterable[LeaseEvent]) -> None:
        for event in events:
            self._changed.setdefault(key_of(event.lease), event.old)
            self._due.set()

    def _say_bad(self, known: Iterable[str] = ()) -> None:
        for key in self.view.bad.keys() - set(known):
            log.warning("an entry in etcd makes no sense and is left out", key=key, reason=self.view.bad[key])

    async def updates(self) -> AsyncIterator[Update]:
        self._snapshot_due = True
        self._due.set()
        while True:
            await self._due.wait()
            self._due.clear()
            changed, self._changed = self._changed, {}
            if self._snapshot_due:
                self._snapshot_due = False
                yield Snapshot(self.view.leases())
            elif changed:
                events = []
                for key, old in changed.items():
                    held = self.view.held.get(key)
                    new = held.lease if held is not None else None
                    if old != new:
                        events.append(LeaseEvent(old, new))
                yield Changes(tuple(events))
            if self._moved is not None:
                reason, self._moved = self._moved, None
                yield Moved(reason)

    # --- how it is ---------------------------------------------------------------------------------------------------

    def _lost(self, error: EtcdError) -> None:
        self._error = str(error)
        if self._connected is not False:
            self._connected, self._since = False, time.time()
            log.error("etcd is lost; leases stay as last known", error=str(error))

    def _back(self) -> None:
        if self._connected is False:
            away = time.time() - self._since if self._since is not None else 0.0
            log.info("etcd is back", endpoint=self.client.endpoint, after=f"{away:.1f}s")
        if not self._connected:
            self._connected, self._since = True, time.time()
        self._error = None

    def leases(self, settings: Settings) -> tuple[Lease, ...]:
        return self.view.leases()

    def tasks(self) -> Sequence[Coroutine[Any, Any, None]]:
        return (self._follow(), self._keep(), self._save())

    def state(self) -> RegistryState:
        return RegistryState(
            name=self.name,
            connected=self._connected is not False,
            since=self._since,
            stale=self._stale,
            error=self._error,
            endpoint=self.client.endpoint,
            revision=self.view.revision,
            expires=time.time() + self._expires - self._now() if self._own and self._own.etcd_lease else None,
            bad=dict(self.view.bad),
        )

    async def close(self) -> None:
        if self._unsaved.is_set() and self._loaded and not self._read_only:
            self._store.save(self._saved_text())
        await self.client.close()


def port_of(settings: Settings) -> int | None:
    """The UDP port of the mode."""
    if settings.mode == "udp":
        return settings.udp.port
    return settings.vxlan.port if settings.mode == "vxlan" else None


def _seen(held: Held | None) -> str:
    if held is None:
        return "nobody"
    return f"{held.host.name or held.host.id} {held.lease}" if held.host is not None else str(held.lease)
