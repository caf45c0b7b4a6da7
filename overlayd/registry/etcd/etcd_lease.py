"""The etcd lease that this node's keys are bound to: granted, renewed, and revoked when empty, so that none leak."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from overlayd.registry.etcd.client import EtcdClient
from overlayd.registry.etcd.messages import EtcdError


class EtcdLease:
    """Times are by `now`, seconds."""

    def __init__(self, client: EtcdClient, now: Callable[[], float]) -> None:
        self._client, self._now = client, now
        self.expires = 0.0
        """When the etcd lease that was granted or renewed last expires."""
        self._granted = 0
        """An etcd lease that was granted, with no key bound to it yet."""

    @property
    def left(self) -> float:
        """Seconds until it expires."""
        return self.expires - self._now()

    async def obtain(self, ttl: int, *candidates: int) -> int:
        """An etcd lease of that TTL, just renewed: one of the candidates (0: none), or a new one. Raises EtcdError."""
        for candidate in (self._granted, *candidates):
            if candidate and (await self._client.time_to_live(candidate))[1] == ttl and await self.renew(candidate):
                return candidate
        self._granted = await self._client.grant(ttl)
        self.expires = self._now() + ttl
        return self._granted

    async def renew(self, etcd_lease: int) -> int:
        """Renew it; the seconds until it expires, 0 when it is gone. Raises EtcdError."""
        left = await self._client.keep_alive(etcd_lease)
        if left:
            self.expires = self._now() + left
        return left

    def used(self, etcd_lease: int) -> None:
        """Keys are bound to it now."""
        if self._granted == etcd_lease:
            self._granted = 0

    async def revoke_unused(self) -> None:
        """Revoke the etcd lease that was granted and never used."""
        if self._granted:
            with suppress(EtcdError):  # it expires anyway
                await self._client.revoke(self._granted)
            self._granted = 0

    async def revoke_empty(self, etcd_lease: int) -> None:
        """Revoke an etcd lease unless a key is bound to it. Raises EtcdError."""
        if await self._client.is_empty(etcd_lease):
            await self._client.revoke(etcd_lease)
