"""A small client of etcd v3: reads, transactions and leases, over `connection`; and how settings make one."""

from __future__ import annotations

import secrets
import ssl
from collections.abc import Sequence
from contextlib import suppress

from overlayd.core.settings.model import Settings
from overlayd.registry.base import RegistryError
from overlayd.registry.etcd.connection import EtcdConnection, reason_of
from overlayd.registry.etcd.messages import (
    Delete,
    Json,
    KeyValue,
    LeaseExistsError,
    LeaseNotFoundError,
    Put,
    Unchanged,
    every_key,
    key_values,
    next_page,
    one_key,
    revision_of,
    transaction,
)

_PAGE = 5000  # keys in one answer


class EtcdClient(EtcdConnection):
    """One etcd cluster. Every method raises as `call` does."""

    async def get(self, key: str) -> tuple[KeyValue | None, int]:
        """One key, and the revision of the answer. Linearizable: a member without a quorum does not answer."""
        answer = await self.call("kv/range", one_key(key))
        found = key_values(answer)
        return found[0] if found else None, revision_of(answer)

    async def range(self, prefix: str) -> tuple[list[KeyValue], int]:
        """Every key with this prefix at one revision, and that revision. Raises CompactedError on a very slow read."""
        body: Json = {**every_key(prefix), "limit": str(_PAGE)}
        found: list[KeyValue] = []
        revision = 0
        while True:
            answer = await self.call("kv/range", body)
            revision = revision or revision_of(answer)
            found += key_values(answer)
            if not answer.get("more"):
                return found, revision
            body = next_page(body, found[-1], revision)

    async def transact(self, conditions: Sequence[Unchanged], *writes: Put | Delete) -> int | None:
        """Do all writes at once if all conditions hold; the revision, or None when one does not."""
        answer = await self.call("kv/txn", transaction(conditions, writes))
        return revision_of(answer) if answer.get("succeeded") else None

    async def grant(self, ttl: int) -> int:
        """A new etcd lease of `ttl` seconds. Its ID is chosen here, so that a request sent twice grants one."""
        chosen = secrets.randbits(62) + 1
        with suppress(LeaseExistsError):
            await self.call("lease/grant", {"TTL": str(int(ttl)), "ID": str(chosen)})
        return chosen

    async def keep_alive(self, lease: int) -> int:
        """Renew an etcd lease; the seconds until it expires, 0 when it is gone."""
        answer = await self.call("lease/keepalive", {"ID": str(lease)})
        return int(answer.get("result", {}).get("TTL", 0))

    async def time_to_live(self, lease: int) -> tuple[int, int]:
        """The seconds that an etcd lease has left, and those that it was granted; (0, 0) when it is gone."""
        answer = await self.call("lease/timetolive", {"ID": str(lease)})
        left = int(answer.get("TTL", 0))
        return (left, int(answer.get("grantedTTL", 0))) if left > 0 else (0, 0)

    async def is_empty(self, lease: int) -> bool:
        """Whether an etcd lease exists and no key is bound to it."""
        answer = await self.call("lease/timetolive", {"ID": str(lease), "keys": True})
        return int(answer.get("TTL", 0)) > 0 and not answer.get("keys")

    async def revoke(self, lease: int) -> None:
        """End an etcd lease, and delete every key bound to it; one that is gone already is ignored."""
        with suppress(LeaseNotFoundError):
            await self.call("lease/revoke", {"ID": str(lease)})


def make_client(settings: Settings) -> EtcdClient:
    """A client for these settings. Raises RegistryError when a certificate cannot be used."""
    etcd = settings.etcd
    tls = _tls_context(etcd.cafile, etcd.certfile, etcd.keyfile) if etcd.urls[0].startswith("https:") else None
    return EtcdClient(etcd.urls, tls, etcd.username, etcd.password)


def _tls_context(cafile: str | None, certfile: str | None, keyfile: str | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=cafile)
    except (OSError, ssl.SSLError) as error:
        raise RegistryError(f"etcd.cafile: {cafile}: {reason_of(error)}; name a file of PEM certificates") from None
    if certfile is not None:
        try:
            context.load_cert_chain(certfile, keyfile)
        except (OSError, ssl.SSLError) as error:
            text = f"etcd.certfile: {certfile}, etcd.keyfile: {keyfile}: {reason_of(error)}"
            raise RegistryError(f"{text}; name a certificate and its key as PEM") from None
    return context
