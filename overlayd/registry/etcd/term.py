"""The etcd lease that this node's keys live by: had, renewed, and ended where no key needs it, so that none leak."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from overlayd.registry.etcd.client import EtcdClient
from overlayd.registry.etcd.messages import EtcdError


class Term:
    """How long this node's keys live. Times are by `now`, seconds."""

    def __init__(self, client: EtcdClient, now: Callable[[], float]) -> None:
        self._client, self._now = client, now
        self.expires = 0.0
        """When the etcd lease that was granted or renewed last ends, if it is not renewed."""
        self._granted = 0
        """An etcd lease that was granted and holds nothing yet."""

    @property
    def left(self) -> float:
        """Seconds until it ends."""
        return self.expires - self._now()

    async def living(self, ttl: int, *candidates: int) -> int:
        """An etcd lease of that TTL, renewed just now: one of the candidates (0: none), or a new one. Raises
        EtcdError."""
        for candidate in (self._granted, *candidates):
            if candidate and (await self._client.time_to_live(candidate))[1] == ttl and await self.renew(candidate):
                return candidate
        self._granted = await self._client.grant(ttl)
        self.expires = self._now() + ttl
        return self._granted

    async def renew(self, etcd_lease: int) -> int:
        """Renew it; the seconds that it lives on, 0 when it is gone. Raises EtcdError."""
        left = await self._client.keep_alive(etcd_lease)
        if left:
            self.expires = self._now() + left
        return left

    def used(self, etcd_lease: int) -> None:
        """Keys live by it now."""
        if self._granted == etcd_lease:
            self._granted = 0

    async def end_unused(self) -> None:
        """End the etcd lease that was granted for nothing."""
        if self._granted:
            with suppress(EtcdError):  # it ends by itself when its time is over
                await self._client.revoke(self._granted)
            self._granted = 0

    async def end_empty(self, etcd_lease: int) -> None:
        """End an etcd lease that holds no key any more. Raises EtcdError."""
        if not await self._client.keys_of(etcd_lease):
            await self._client.revoke(etcd_lease)
