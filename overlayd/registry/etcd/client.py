"""A small client of etcd v3 over its JSON gateway.

1. call      one request: the endpoint that answered last, else the next one; every attempt has a time-out
2. auth      a token, made anew before it runs out or when it is refused
3. verbs     range, transaction, leases
4. watch     a stream of batches from a revision on

What is said is in `messages`, how it is sent in `gateway`. A member that hangs shows by time-outs alone; a watch whose
token is bad is answered as one that was canceled.
"""

from __future__ import annotations

import secrets
import ssl
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from pydantic import SecretStr

from overlayd.registry.etcd.gateway import Gateway
from overlayd.registry.etcd.messages import (
    Batch,
    CompactedError,
    Delete,
    EtcdError,
    Json,
    KeyValue,
    Put,
    UnauthenticatedError,
    UnavailableError,
    Unchanged,
    batch_of,
    cancellation,
    every_key,
    key_values,
    next_page,
    one_key,
    revision_of,
    transaction,
)

TIMEOUT = 5.0  # seconds for one attempt at one endpoint
_TOKEN_AGE = 200.0  # seconds; etcd's simple tokens live for 300
_PAGE = 5000  # keys in one answer


class EtcdClient:
    """Speaks to one etcd cluster through whichever member answers."""

    def __init__(
        self,
        endpoints: Sequence[str],
        tls: ssl.SSLContext | None = None,
        username: str | None = None,
        password: SecretStr | None = None,
        *,
        timeout: float = TIMEOUT,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.endpoints = tuple(endpoints)
        self.endpoint = self.endpoints[0]
        """The member that answered last."""
        self._gateway, self._timeout, self._now = Gateway(tls), timeout, now
        self._username, self._password = username, password
        self._token: str | None = None
        self._token_made = 0.0

    async def close(self) -> None:
        """Close all connections."""
        await self._gateway.close()

    # --- 1. call -----------------------------------------------------------------------------------------------------

    async def call(self, path: str, body: Json) -> Json:
        """POST /v3/`path`. Raises UnavailableError when no endpoint does it, EtcdError when etcd refuses."""
        failures: list[str] = []
        start = self.endpoints.index(self.endpoint)
        for endpoint in (*self.endpoints[start:], *self.endpoints[:start]):
            try:
                answer = await self._authorized(endpoint, path, body)
            except UnavailableError as error:
                failures.append(f"{endpoint}: {error}")
                continue
            self.endpoint = endpoint
            return answer
        raise UnavailableError("; ".join(failures))

    async def _authorized(self, endpoint: str, path: str, body: Json) -> Json:
        for attempt in (1, 2):
            await self._authenticate(endpoint)
            try:
                return await self._gateway.ask(endpoint, path, body, self._token, self._timeout)
            except UnauthenticatedError as error:
                self._token = None
                if attempt == 2 or self._username is None:
                    raise EtcdError(f"etcd {endpoint}: {error}; check etcd.username and etcd.password") from None
        raise AssertionError

    # --- 2. auth -----------------------------------------------------------------------------------------------------

    async def _authenticate(self, endpoint: str) -> None:
        if self._username is None or self._password is None:
            return
        if self._token is not None and self._now() - self._token_made < _TOKEN_AGE:
            return
        self._token = None
        made = self._now()
        try:
            user = {"name": self._username, "password": self._password.get_secret_value()}
            answer = await self._gateway.ask(endpoint, "auth/authenticate", user, None, self._timeout)
        except UnavailableError:
            raise
        except EtcdError as error:
            if "authentication is not enabled" in str(error):
                return
            raise EtcdError(
                f"etcd {endpoint}: user {self._username}: {error}; check etcd.username and etcd.password"
            ) from None
        self._token, self._token_made = str(answer.get("token", "")), made

    # --- 3. verbs ----------------------------------------------------------------------------------------------------

    async def get(self, key: str) -> tuple[KeyValue | None, int]:
        """One key, and the revision at which it is so. Linearizable: a member without a quorum does not answer."""
        answer = await self.call("kv/range", one_key(key))
        found = key_values(answer)
        return found[0] if found else None, revision_of(answer)

    async def range(self, prefix: str) -> tuple[list[KeyValue], int]:
        """Every key with this prefix, and the revision at which it is so. Raises CompactedError on a very slow read."""
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
        """A new etcd lease that lives `ttl` seconds. Its id is chosen here, so that a request sent twice makes one."""
        chosen = secrets.randbits(62) + 1
        try:
            await self.call("lease/grant", {"TTL": str(int(ttl)), "ID": str(chosen)})
        except EtcdError as error:
            if "lease already exists" not in str(error):
                raise
        return chosen

    async def keep_alive(self, lease: int) -> int:
        """Renew an etcd lease; the seconds that it lives on, 0 when it is gone."""
        answer = await self.call("lease/keepalive", {"ID": str(lease)})
        return int(answer.get("result", {}).get("TTL", 0))

    async def time_to_live(self, lease: int) -> tuple[int, int]:
        """The seconds that an etcd lease has left, and those that it was granted; (0, 0) when it is gone."""
        answer = await self.call("lease/timetolive", {"ID": str(lease)})
        left = int(answer.get("TTL", 0))
        return (left, int(answer.get("grantedTTL", 0))) if left > 0 else (0, 0)

    async def keys_of(self, lease: int) -> int:
        """How many keys live by an etcd lease; 1 for one that is gone, which needs no ending either."""
        answer = await self.call("lease/timetolive", {"ID": str(lease), "keys": True})
        return len(answer.get("keys", [])) if int(answer.get("TTL", 0)) > 0 else 1

    async def revoke(self, lease: int) -> None:
        """End an etcd lease, and every key that lives by it."""
        with suppress_not_found():
            await self.call("lease/revoke", {"ID": str(lease)})

    # --- 4. watch ----------------------------------------------------------------------------------------------------

    async def watch(self, prefix: str, start: int, endpoint: str | None = None) -> AsyncGenerator[Batch, None]:
        """What happens to the keys with this prefix from revision `start` on, as one member tells it; the first batch,
        without events, says that the watch stands. Ends only with CompactedError or UnavailableError.

        The caller finds out with a time-out of its own whether a silent member still lives.
        """
        endpoint = endpoint or self.endpoint
        await self._authenticate(endpoint)
        create = {**every_key(prefix), "start_revision": str(start)}
        try:
            async with aclosing(
                self._gateway.stream(endpoint, "watch", {"create_request": create}, self._token)
            ) as told:
                async for answer in told:
                    result = answer.get("result", {})
                    if result.get("canceled"):
                        raise self._canceled(endpoint, result)
                    yield batch_of(result)
        except UnauthenticatedError as error:
            self._token = None
            raise UnavailableError(f"{endpoint}: {error}") from None
        raise UnavailableError(f"{endpoint}: the watch ended")

    def _canceled(self, endpoint: str, result: Json) -> EtcdError:
        error = cancellation(endpoint, result)
        if not isinstance(error, CompactedError):
            self._token = None  # a bad token is told in no other way
        return error

    def next_endpoint(self) -> None:
        """Prefer another member from now on: this one did not do what it should."""
        self.endpoint = self.endpoints[(self.endpoints.index(self.endpoint) + 1) % len(self.endpoints)]


class suppress_not_found:  # noqa: N801  # as contextlib.suppress
    """What is gone already need not be ended."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: object, trace: object) -> bool:
        return isinstance(error, EtcdError) and "lease not found" in str(error)
