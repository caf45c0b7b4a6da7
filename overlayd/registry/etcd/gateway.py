"""etcd's JSON gateway at one endpoint: bodies are posted to it, answers come back, one or a stream of them.

A token goes into `Authorization` bare. A watch on a member without a quorum is silent unless it asks for a leader.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import aiohttp

from overlayd.registry.etcd.messages import Json, UnavailableError, decode, refusal

_CONNECT = 2.0  # seconds


class Gateway:
    """Connections to the members of one cluster, kept for the next request."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    async def ask(self, endpoint: str, path: str, body: Json, token: str | None, timeout: float) -> Json:  # noqa: ASYNC109
        """POST /v3/`path`; the answer. Raises UnavailableError where there is none in time (seconds), or what etcd
        says when it refuses."""
        try:
            async with asyncio.timeout(timeout):
                async with self._post(endpoint, path, body, token) as response:
                    text = await response.text()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise UnavailableError(reason_of(error)) from None
        answer = decode(text)
        if response.status != 200 or "error" in answer:
            raise refusal(endpoint, answer, response.status)
        return answer

    async def stream(self, endpoint: str, path: str, body: Json, token: str | None) -> AsyncGenerator[Json, None]:
        """POST /v3/`path`; answers as they come, until the member ends the stream. Raises as `ask` does."""
        try:
            async with self._post(endpoint, path, body, token) as response:
                async for line in _lines(response.content):
                    answer = decode(line)
                    if response.status != 200 or "error" in answer:
                        raise refusal(endpoint, answer, response.status)
                    yield answer
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise UnavailableError(f"{endpoint}: {reason_of(error)}") from None

    def _post(self, endpoint: str, path: str, body: Json, token: str | None) -> Any:
        if self._session is None:
            # The connector's own time-out for connecting leaves time to try another address of the name.
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(socket_factory=_kept_alive),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT),
                trust_env=False,
            )
        headers = {"Grpc-Metadata-hasleader": "true"}
        if token is not None:
            headers["Authorization"] = token
        return self._session.post(
            f"{endpoint}/v3/{path}", json=body, headers=headers, ssl=self._tls if self._tls is not None else True
        )

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None


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


def _kept_alive(address: tuple[Any, ...]) -> socket.socket:
    """A socket for that address (getaddrinfo's) that notices within 14 s when nothing comes through any more: a watch
    is silent for hours, and a firewall on the way that has forgotten it says nothing either."""
    sock = socket.socket(*address[:3])
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 5), (socket.TCP_KEEPINTVL, 3), (socket.TCP_KEEPCNT, 3)):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    return sock
