"""etcd's JSON gateway: requests to whichever member answers, and watches of one member.

1. call      one request: the member that answered last, else the next one; every attempt has a time-out
2. watch     a stream of batches from a revision on
3. auth      a token, renewed before it expires or when it is refused
4. HTTP      POST to one endpoint, one answer or a stream of them

A member that hangs shows by time-outs alone, and a watch on a member without a quorum is silent unless it asks for a
leader. A token goes into `Authorization` bare; a watch with a bad token is answered as one that was canceled.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any

import aiohttp

from overlayd.core.settings.values import Secret
from overlayd.registry.etcd.messages import (
    AuthDisabledError,
    Batch,
    CompactedError,
    EtcdError,
    Json,
    UnauthenticatedError,
    UnavailableError,
    batch_of,
    cancellation,
    cluster_of,
    decode,
    every_key,
    refusal,
)

TIMEOUT = 5.0  # seconds for one attempt at one endpoint
_CONNECT = 2.0  # seconds
_TOKEN_AGE = 200.0  # seconds; etcd's simple tokens live for 300


class EtcdConnection:
    """Connections to the members of one cluster, kept for the next request."""

    def __init__(
        self,
        endpoints: Sequence[str],
        tls: ssl.SSLContext | None = None,
        username: str | None = None,
        password: Secret | None = None,
        *,
        timeout: float = TIMEOUT,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.endpoints = tuple(endpoints)
        self.endpoint = self.endpoints[0]
        """The member that answered last."""
        self.cluster: str | None = None
        """The ID of the cluster that answered last."""
        self._tls, self._timeout, self._now = tls, timeout, now
        self._username, self._password = username, password
        self._token: str | None = None
        self._token_made = 0.0
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close all connections; a later request opens new ones."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def next_endpoint(self) -> None:
        """Prefer another member from now on."""
        self.endpoint = self.endpoints[(self.endpoints.index(self.endpoint) + 1) % len(self.endpoints)]

    # --- 1. call -----------------------------------------------------------------------------------------------------

    async def call(self, path: str, body: Json) -> Json:
        """POST /v3/`path`. Raises UnavailableError when no endpoint answers, EtcdError when etcd refuses."""
        failures: list[str] = []
        start = self.endpoints.index(self.endpoint)
        for endpoint in (*self.endpoints[start:], *self.endpoints[:start]):
            try:
                answer = await self._authorized(endpoint, path, body)
            except UnavailableError as error:
                failures.append(f"{endpoint}: {error}")
                continue
            self.endpoint, self.cluster = endpoint, cluster_of(answer)
            return answer
        raise UnavailableError("; ".join(failures))

    async def _authorized(self, endpoint: str, path: str, body: Json) -> Json:
        for attempt in (1, 2):
            await self._authenticate(endpoint)
            try:
                return await self._request(endpoint, path, body)
            except UnauthenticatedError as error:
                self._token = None
                if attempt == 2 or self._username is None:
                    raise EtcdError(f"etcd {endpoint}: {error}; check etcd.username and etcd.password") from None
        raise AssertionError

    # --- 2. watch ----------------------------------------------------------------------------------------------------

    async def watch(self, prefix: str, start: int, endpoint: str | None = None) -> AsyncGenerator[Batch, None]:
        """Events of the keys with this prefix from revision `start` on, from one member; the first batch, without
        events, confirms the watch. Ends only with CompactedError or UnavailableError.

        The caller needs a time-out of its own to notice that a silent member is dead.
        """
        endpoint = endpoint or self.endpoint
        await self._authenticate(endpoint)
        create = {**every_key(prefix), "start_revision": str(start)}
        try:
            async with aclosing(self._stream(endpoint, "watch", {"create_request": create})) as answers:
                async for answer in answers:
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
            self._token = None  # nothing else shows that the token is bad
        return error

    # --- 3. auth -----------------------------------------------------------------------------------------------------

    async def _authenticate(self, endpoint: str) -> None:
        if self._username is None or self._password is None:
            return
        if self._token is not None and self._now() - self._token_made < _TOKEN_AGE:
            return
        self._token = None
        made = self._now()
        try:
            user = {"name": self._username, "password": self._password.reveal()}
            answer = await self._request(endpoint, "auth/authenticate", user)
        except AuthDisabledError:
            return
        except UnavailableError:
            raise
        except EtcdError as error:
            raise EtcdError(
                f"etcd {endpoint}: user {self._username}: {error}; check etcd.username and etcd.password"
            ) from None
        self._token, self._token_made = str(answer.get("token", "")), made

    # --- 4. HTTP -----------------------------------------------------------------------------------------------------

    async def _request(self, endpoint: str, path: str, body: Json) -> Json:
        """The answer. Raises UnavailableError where there is none in time, or the error that etcd answers with."""
        try:
            async with asyncio.timeout(self._timeout):
                async with self._post(endpoint, path, body) as response:
                    text = await response.text()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise UnavailableError(reason_of(error)) from None
        return _checked(endpoint, text, response.status)

    async def _stream(self, endpoint: str, path: str, body: Json) -> AsyncGenerator[Json, None]:
        """Answers as they arrive, until the member ends the stream. Raises as `_request` does."""
        try:
            async with self._post(endpoint, path, body) as response:
                async for line in _lines(response.content):
                    yield _checked(endpoint, line, response.status)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise UnavailableError(f"{endpoint}: {reason_of(error)}") from None

    def _post(self, endpoint: str, path: str, body: Json) -> Any:
        if self._session is None:
            # The connector's own time-out for connecting leaves time to try another address of the name.
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(socket_factory=_keep_alive_socket),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT),
                trust_env=False,
            )
        headers = {"Grpc-Metadata-hasleader": "true"}
        if self._token is not None:
            headers["Authorization"] = self._token
        return self._session.post(
            f"{endpoint}/v3/{path}", json=body, headers=headers, ssl=self._tls if self._tls is not None else True
        )


def _checked(endpoint: str, text: str, status: int) -> Json:
    answer = decode(text)
    if status != 200 or "error" in answer:
        raise refusal(endpoint, answer, status)
    return answer


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


def reason_of(error: BaseException) -> str:
    """Why a connection failed, in a few words."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not accepted: {error.certificate_error}"
    cause = getattr(error, "os_error", None) or error
    return str(getattr(cause, "strerror", None) or cause) or type(error).__name__


def _keep_alive_socket(address: tuple[Any, ...]) -> socket.socket:
    """A socket for that address (getaddrinfo's) that notices a dead path within 14 s: a watch is silent for hours, and
    a firewall that has dropped its connection sends nothing."""
    sock = socket.socket(*address[:3])
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 5), (socket.TCP_KEEPINTVL, 3), (socket.TCP_KEEPCNT, 3)):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    return sock
