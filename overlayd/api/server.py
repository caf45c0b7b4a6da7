"""The control API: HTTP on a unix socket (`curl --unix-socket SOCKET http://overlayd/v1/status`), health on TCP.

GET  /v1/status      the daemon's state as JSON
GET  /v1/counters    its counters alone
GET  /v1/leases      every lease, then every change of one, one JSON object per line, until the client disconnects
GET  /v1/attachments the containers that overlayd has attached
POST /v1/reload      reads the configuration again; 400 with the error when it is refused
GET  /healthz        503 while packets are not being forwarded here, with the reasons; else 200
GET  /readyz         200 when ready and nothing is broken, else 503
GET  /metrics        in Prometheus' text format

TCP has the last three only. The number of clients of either is limited (clients.py).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any, Protocol

from overlayd.api.clients import Clients
from overlayd.api.routes import Answer, Handler, Routes
from overlayd.observe.lifecycle import Lifecycle
from overlayd.observe.metric_format import CONTENT_TYPE
from overlayd.system.errors import HostError
from overlayd.system.tcp_socket import health_refusal

_FRESH = 1.0  # seconds for which an answer is given again


class Service(Protocol):
    """What the API gives access to: a daemon that waits for its registry, or one that runs."""

    def health_report(self) -> dict[str, Any]:
        """The body of /healthz and /readyz: state, well, broken, problems."""

    async def status(self) -> dict[str, Any]:
        """The whole state."""

    async def counters(self) -> dict[str, Any]:
        """The counters alone."""

    async def metrics(self) -> str:
        """The state in Prometheus' text format."""

    async def reload(self) -> str | None:
        """Read the configuration again; what is wrong with it."""

    def attachments(self) -> list[dict[str, Any]]:
        """Every attachment."""

    def leases(self) -> AsyncIterator[dict[str, Any]]:
        """Every lease, then every change of one."""


class ControlServer:
    """Serves one service at a time."""

    def __init__(self, lifecycle: Lifecycle, service: Service) -> None:
        self._lifecycle = lifecycle
        self.service = service
        """What answers; may be replaced while the server is open."""
        self._metrics: tuple[float, str] = -1.0, ""
        self._report: tuple[float, dict[str, Any]] = -1.0, {}
        self._collecting = asyncio.Lock()
        self._clients: list[Clients] = []
        self._listeners: list[asyncio.Server] = []
        self._path: Path | None = None

    async def open(self, path: Path) -> None:
        """Serve the whole API on a unix socket that only root and the daemon's user may use. Raises HostError."""
        clients = self._make_clients("control socket", self._routes() | self._health_routes())
        try:
            path.unlink(missing_ok=True)  # noqa: ASYNC240  # a killed daemon's; the lock says that none is alive
            loop = asyncio.get_running_loop()
            self._listeners.append(await loop.create_unix_server(clients, str(path), backlog=clients.limit))
            path.chmod(0o660)  # noqa: ASYNC240
        except OSError as error:
            raise HostError(f"{path}: {error.strerror or error}; check the directory, or set control_socket") from None
        self._path = path

    async def open_health(self, host: str, port: int) -> None:
        """Serve the health checks and metrics, and nothing else, on TCP. Raises HostError."""
        clients = self._make_clients("health port", self._health_routes())
        try:
            loop = asyncio.get_running_loop()
            self._listeners.append(await loop.create_server(clients, host, port, backlog=clients.limit))
        except OSError as error:
            raise health_refusal(host, port, error) from None

    def _make_clients(self, name: str, routes: Routes) -> Clients:
        self._clients.append(clients := Clients(name, routes))
        return clients

    def _routes(self) -> dict[tuple[str, str], Handler]:
        return {
            ("GET", "/v1/status"): self._get_status,
            ("GET", "/v1/counters"): self._get_counters,
            ("GET", "/v1/attachments"): self._get_attachments,
            ("GET", "/v1/leases"): self._get_leases,
            ("POST", "/v1/reload"): self._post_reload,
        }

    def _health_routes(self) -> dict[tuple[str, str], Handler]:
        return {
            ("GET", "/healthz"): self._get_health,
            ("GET", "/readyz"): self._get_ready,
            ("GET", "/metrics"): self._get_metrics,
        }

    async def close(self) -> None:
        """Stop serving and remove the socket."""
        for listener in self._listeners:
            listener.close()
        for clients in self._clients:
            await clients.close()
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink()

    async def _get_status(self) -> Answer:
        return _json(await self.service.status())

    async def _get_counters(self) -> Answer:
        return _json(await self.service.counters())

    async def _get_attachments(self) -> Answer:
        return _json({"attachments": self.service.attachments()})

    async def _get_leases(self) -> Answer:
        return Answer(self._lease_lines(), "application/x-ndjson")

    async def _lease_lines(self) -> AsyncGenerator[bytes, None]:
        async with aclosing(self.service.leases()) as events:  # type: ignore[type-var]
            async for event in events:
                yield json.dumps(event).encode() + b"\n"

    async def _post_reload(self) -> Answer:
        error = await self.service.reload()
        overridden = [] if error else list(self._lifecycle.overridden)
        return _json({"error": error, "overridden": overridden}, status=400 if error else 200)

    async def _get_health(self) -> Answer:
        report = self._health()
        red = report["broken"] or report["state"] == "stopping"
        return _json(report, status=503 if red else 200)

    def _health(self) -> dict[str, Any]:
        """The report, at most _FRESH seconds old: with thousands of problems it takes a while to make."""
        at, report = self._report
        if not report or time.monotonic() - at >= _FRESH or report["state"] != self._lifecycle.phase:
            report = self.service.health_report()
            self._report = time.monotonic(), report
        return report

    async def _get_ready(self) -> Answer:
        report = self._health()
        red = report["broken"] or report["state"] != "ready"
        return _json(report, status=503 if red else 200)

    async def _get_metrics(self) -> Answer:
        async with self._collecting:  # whoever asks more often than once a second gets what was collected then
            at, text = self._metrics
            if not text or time.monotonic() - at >= _FRESH:
                text = await self.service.metrics()
                self._metrics = time.monotonic(), text
        return Answer(text.encode(), CONTENT_TYPE)


def _json(content: dict[str, Any], status: int = 200) -> Answer:
    return Answer(json.dumps(content).encode(), "application/json; charset=utf-8", status)
