"""The control API: HTTP on a unix socket (`curl --unix-socket SOCKET http://overlayd/v1/status`), health on TCP.

GET  /v1/status      the daemon's state as JSON
GET  /v1/leases      every lease, then every change of one, a JSON object a line, for as long as the reader stays
POST /v1/reload      reads the configuration again; 400 with the error when it is refused
GET  /healthz        200 when ready, else 503
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

from aiohttp import web

from overlayd.system.errors import HostError


class ControlServer:
    """Serves what `status`, `reload` and `leases` answer."""

    def __init__(
        self,
        status: Callable[[], Awaitable[dict[str, Any]]],
        reload: Callable[[], Awaitable[str | None]],
        leases: Callable[[], AsyncIterator[dict[str, Any]]],
    ) -> None:
        self._status, self._reload, self._leases = status, reload, leases
        self._runners: list[web.AppRunner] = []
        self._path: Path | None = None

    async def open(self, path: Path) -> None:
        """Serve the whole API on a unix socket that only root and the daemon's user may use. Raises HostError."""
        application = web.Application()
        application.router.add_get("/v1/status", self._get_status)
        application.router.add_get("/v1/leases", self._get_leases)
        application.router.add_post("/v1/reload", self._post_reload)
        application.router.add_get("/healthz", self._get_health)
        runner = await self._runner(application)
        try:
            path.unlink(missing_ok=True)  # noqa: ASYNC240  # a killed daemon's; the lock says that none is alive
            await web.UnixSite(runner, str(path)).start()
            path.chmod(0o660)  # noqa: ASYNC240
        except OSError as error:
            raise HostError(f"{path}: {error.strerror or error}; check the directory, or set control_socket") from None
        self._path = path

    async def open_health(self, host: str, port: int) -> None:
        """Serve the health check, and nothing else, on TCP. Raises HostError."""
        application = web.Application()
        application.router.add_get("/healthz", self._get_health)
        runner = await self._runner(application)
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise HostError(f"health check on {host} port {port}: {error.strerror}; set healthz_port") from None

    async def _runner(self, application: web.Application) -> web.AppRunner:
        runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=0.5)
        await runner.setup()
        self._runners.append(runner)
        return runner

    async def close(self) -> None:
        """Stop serving and remove the socket."""
        for runner in self._runners:
            await runner.cleanup()
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink()

    async def _get_status(self, _: web.Request) -> web.Response:
        return web.json_response(await self._status())

    async def _get_leases(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        async with aclosing(self._leases()) as events:  # type: ignore[type-var]
            async for event in events:
                try:
                    await response.write(json.dumps(event).encode() + b"\n")
                except OSError:  # the reader has left
                    break
        return response

    async def _post_reload(self, _: web.Request) -> web.Response:
        error = await self._reload()
        return web.json_response({"error": error}, status=400 if error else 200)

    async def _get_health(self, _: web.Request) -> web.Response:
        state = (await self._status())["state"]
        return web.json_response({"state": state}, status=200 if state == "ready" else 503)
