"""A small client of etcd v3 over its JSON gateway.

1. call      one request: the endpoint that answered last, else the next one; every attempt has a time-out
2. auth      a token, made anew before it runs out or when it is refused
3. verbs     range, transaction, leases
4. watch     a stream of batches from a revision on

What is odd about the gateway: 64-bit integers are strings, and what is zero or false is left out; keys and values are
base64. A token goes into `Authorization` bare. A watch whose token is bad, or whose start was compacted, is answered
with status 200 and `canceled`. A watch on a member without a quorum is silent unless it asks for a leader; a
member that hangs shows by time-outs alone.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import ssl
import time
from base64 import b64decode, b64encode
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
from pydantic import SecretStr

Json = dict[str, Any]

TIMEOUT = 5.0  # seconds for one attempt at one endpoint
_CONNECT = 2.0
_TOKEN_AGE = 200.0  # seconds; etcd's simple tokens live for 300
_PAGE = 5000  # keys in one answer
_REFUSED = {3: "invalid argument", 7: "permission denied", 16: "unauthenticated"}  # gRPC codes that no retry heals
_COMPACTED = "required revision has been compacted"


class EtcdError(Exception):
    """etcd refused; the text says what was asked and the answer, and holds no secret."""


class UnavailableError(EtcdError):
    """No endpoint answers, or etcd has no quorum: to be tried again later."""


class CompactedError(EtcdError):
    """The revision asked for is gone: read everything anew."""


class _UnauthenticatedError(EtcdError):
    """The token was refused."""


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One key as it is at some revision."""

    key: str
    value: str
    lease: int
    """The etcd lease that it lives as long as; 0 is for ever."""
    mod_revision: int
    """The revision that wrote it last."""


@dataclass(frozen=True, slots=True)
class Event:
    """One change of a key; without `kv` it was deleted."""

    key: str
    kv: KeyValue | None
    revision: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What one answer of a watch tells; everything of one revision is in one batch."""

    events: tuple[Event, ...]

    @property
    def revision(self) -> int:
        """The revision up to which everything has been told; 0 for an empty batch. Not that of the answer's header:
        while a watch catches up, that one is ahead of the events, and whoever resumed there would lose them."""
        return max((event.revision for event in self.events), default=0)


@dataclass(frozen=True, slots=True)
class Put:
    """Write a key, bound to an etcd lease or to none."""

    key: str
    value: str
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete a key."""

    key: str


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The condition that a key was last written by this revision; 0: that it does not exist."""

    key: str
    mod_revision: int


def prefix_end(prefix: str) -> str:
    """The first key after all keys with this prefix (ASCII)."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def tls_context(cafile: str | None, certfile: str | None, keyfile: str | None) -> ssl.SSLContext:
    """What https endpoints are spoken to with. Raises EtcdError with the file that is wrong."""
    try:
        context = ssl.create_default_context(cafile=cafile)
    except (OSError, ssl.SSLError) as error:
        raise EtcdError(f"etcd.cafile: {cafile}: {_reason(error)}; name a file of PEM certificates") from None
    if certfile is not None:
        try:
            context.load_cert_chain(certfile, keyfile)
        except (OSError, ssl.SSLError) as error:
            text = f"etcd.certfile: {certfile}, etcd.keyfile: {keyfile}: {_reason(error)}"
            raise EtcdError(f"{text}; name a certificate and its key as PEM") from None
    return context


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
        self._tls, self._username, self._password = tls, username, password
        self._timeout, self._now = timeout, now
        self._token: str | None = None
        self._token_made = 0.0
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

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
                return await self._post(endpoint, path, body)
            except _UnauthenticatedError as error:
                self._token = None
                if attempt == 2 or self._username is None:
                    raise EtcdError(f"etcd {endpoint}: {error}; check etcd.username and etcd.password") from None
        raise AssertionError

    async def _post(self, endpoint: str, path: str, body: Json) -> Json:
        try:
            async with asyncio.timeout(self._timeout):
                async with self._open(endpoint, path, body) as response:
                    text = await response.text()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise UnavailableError(_reason(error)) from None
        answer = _decode(text)
        if response.status != 200 or "error" in answer:
            raise _refusal(endpoint, answer, response.status)
        return answer

    def _open(self, endpoint: str, path: str, body: Json) -> Any:
        if self._session is None:
            # The connector's own time-out for connecting leaves time to try another address of the name.
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT), trust_env=False
            )
        headers = {"Grpc-Metadata-hasleader": "true"}
        if self._token is not None:
            headers["Authorization"] = self._token
        return self._session.post(
            f"{endpoint}/v3/{path}", json=body, headers=headers, ssl=self._tls if self._tls is not None else True
        )

    # --- 2. auth -----------------------------------------------------------------------------------------------------

    async def _authenticate(self, endpoint: str) -> None:
        if self._username is None or self._password is None:
            return
        if self._token is not None and self._now() - self._token_made < _TOKEN_AGE:
            return
        self._token = None
        made = self._now()
        try:
            answer = await self._post(
                endpoint,
                "auth/authenticate",
                {"name": self._username, "password": self._password.get_secret_value()},
            )
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
        answer = await self.call("kv/range", {"key": _encode(key)})
        found = [_key_value(kv) for kv in answer.get("kvs", [])]
        return found[0] if found else None, _revision(answer)

    async def range(self, prefix: str) -> tuple[list[KeyValue], int]:
        """Every key with this prefix, and the revision at which it is so. Raises CompactedError on a very slow read."""
        body: Json = {"key": _encode(prefix), "range_end": _encode(prefix_end(prefix)), "limit": str(_PAGE)}
        found: list[KeyValue] = []
        revision = 0
        while True:
            answer = await self.call("kv/range", body)
            revision = revision or _revision(answer)
            found += [_key_value(kv) for kv in answer.get("kvs", [])]
            if not answer.get("more"):
                return found, revision
            body = {**body, "key": _encode(found[-1].key + "\0"), "revision": str(revision)}

    async def transact(self, conditions: Sequence[Unchanged], *writes: Put | Delete) -> int | None:
        """Do all writes at once if all conditions hold; the revision, or None when one does not."""
        compare = [
            {"key": _encode(one.key), "target": "MOD", "mod_revision": str(one.mod_revision), "result": "EQUAL"}
            for one in conditions
        ]
        success: list[Json] = []
        for write in writes:
            if isinstance(write, Put):
                put = {"key": _encode(write.key), "value": _encode(write.value), "lease": str(write.lease)}
                success.append({"request_put": put})
            else:
                success.append({"request_delete_range": {"key": _encode(write.key)}})
        answer = await self.call("kv/txn", {"compare": compare, "success": success})
        return _revision(answer) if answer.get("succeeded") else None

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
        create = {"key": _encode(prefix), "range_end": _encode(prefix_end(prefix)), "start_revision": str(start)}
        try:
            async with self._open(endpoint, "watch", {"create_request": create}) as response:
                async for line in _lines(response.content):
                    answer = _decode(line)
                    if response.status != 200 or "error" in answer:
                        raise _refusal(endpoint, answer, response.status)
                    result = answer.get("result", {})
                    if result.get("canceled"):
                        raise self._canceled(endpoint, result)
                    events = tuple(_event(event) for event in result.get("events", []))
                    yield Batch(events)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise UnavailableError(f"{endpoint}: {_reason(error)}") from None
        except _UnauthenticatedError as error:
            self._token = None
            raise UnavailableError(f"{endpoint}: {error}") from None
        raise UnavailableError(f"{endpoint}: the watch ended")

    def _canceled(self, endpoint: str, result: Json) -> EtcdError:
        if int(result.get("compact_revision", 0)):
            return CompactedError(f"{endpoint}: revisions before {result['compact_revision']} are compacted")
        reason = str(result.get("cancel_reason", "no reason given"))
        self._token = None  # a bad token is told in no other way
        return UnavailableError(f"{endpoint}: the watch was refused: {reason}")

    def next_endpoint(self) -> None:
        """Prefer another member from now on: this one did not do what it should."""
        self.endpoint = self.endpoints[(self.endpoints.index(self.endpoint) + 1) % len(self.endpoints)]


class suppress_not_found:  # noqa: N801  # as contextlib.suppress
    """What is gone already need not be ended."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: object, trace: object) -> bool:
        return isinstance(error, EtcdError) and "lease not found" in str(error)


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[str]:
    """Lines of any length (StreamReader's own have a limit)."""
    rest = b""
    async for chunk in content.iter_any():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            if line.strip():
                yield line.decode()
    if rest.strip():
        yield rest.decode()


def _refusal(endpoint: str, answer: Json, status: int) -> EtcdError:
    """etcd's error object as an exception. Unknown codes count as passing: they are tried again."""
    details = answer.get("error", answer)
    code, text = answer.get("code"), details
    if isinstance(details, dict):  # a stream's
        code, text = details.get("grpc_code", details.get("code")), details.get("message")
    text = str(text or f"status {status}")[:200]
    if code == 16 or "invalid auth token" in text:
        return _UnauthenticatedError(text)
    if _COMPACTED in text:
        return CompactedError(f"{endpoint}: {text}")
    if code in _REFUSED or status == 404 or "lease" in text or "not enabled" in text:
        return EtcdError(text)
    return UnavailableError(text)


def _decode(text: str) -> Json:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UnavailableError(f"answers {text[:40]!r}, which is no etcd's; is it the client port, and http or https?")
    return found


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not accepted: {error.certificate_error}"
    cause = getattr(error, "os_error", None) or error
    return str(getattr(cause, "strerror", None) or cause) or type(error).__name__


def _encode(text: str) -> str:
    return b64encode(text.encode()).decode()


def _text(encoded: str) -> str:
    # What is no UTF-8 is somebody else's mistake, and becomes a value that its reader refuses.
    return b64decode(encoded).decode(errors="replace")


def _key_value(kv: Json) -> KeyValue:
    return KeyValue(
        _text(kv["key"]), _text(kv.get("value", "")), int(kv.get("lease", 0)), int(kv.get("mod_revision", 0))
    )


def _event(event: Json) -> Event:
    kv = _key_value(event["kv"])
    return Event(kv.key, None if event.get("type") == "DELETE" else kv, kv.mod_revision)


def _revision(answer: Json) -> int:
    return int(answer.get("header", {}).get("revision", 0))
