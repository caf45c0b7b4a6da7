"""The attach socket bears whoever connects to it; what a packet brings is closed."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import socket
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from overlayd.api import attach_server
from overlayd.api.attach_server import AttachServer
from overlayd.core.attach.errors import AttachError
from overlayd.core.attach.request import DetachRequest, parse_answer
from overlayd.system import descriptors
from overlayd.system.errors import HostError
from support.waiting import eventually_async

DETACH = json.dumps({"call": "detach", "container": "c1"}).encode()
ATTACH = json.dumps({"call": "attach", "container": "c1", "interface": "eth0", "netns": "/proc/self/ns/net"}).encode()


class Service:
    """Detaches whatever it is asked to, one at a time as slowly as it is told."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.error: Exception | None = None
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def detach(self, request: DetachRequest) -> list[Any]:
        self.asked.append(request.container)
        await self.go_on.wait()
        if self.error is not None:
            raise self.error
        return []


class Rig:
    def __init__(self, path: Path) -> None:
        self.path, self.service = path / "attach.sock", Service()
        self.server = AttachServer(allowed=os.geteuid())
        self.server.service = self.service  # type: ignore[assignment]
        self.server.open(self.path)

    def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        client.settimeout(15)
        client.connect(str(self.path))
        return client

    def ask(self, data: bytes, *passed: int) -> list[Any]:
        with self.connect() as client:
            socket.send_fds(client, [data], list(passed))
            return parse_answer(client.recv(1 << 17))


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.service.go_on.set()
    await made.server.close()
    assert not made.path.exists()


async def in_thread(job: Callable[..., Any], *given: Any) -> Any:
    return await asyncio.to_thread(job, *given)


async def test_a_request_is_answered(rig: Rig) -> None:
    assert await in_thread(rig.ask, DETACH) == []
    assert rig.service.asked == ["c1"]
    assert rig.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("error", [AttachError("not attached", "unknown"), HostError("not written")])
async def test_what_the_service_refuses_is_said(rig: Rig, error: Exception) -> None:
    rig.service.error = error
    with pytest.raises(AttachError, match=str(error)) as refused:
        await in_thread(rig.ask, DETACH)
    assert refused.value.kind == getattr(error, "kind", "refused")


async def test_a_daemon_that_is_not_ready_says_so(rig: Rig) -> None:
    rig.server.service = None
    with pytest.raises(AttachError, match="overlayd has no lease yet") as refused:
        await in_thread(rig.ask, DETACH)
    assert refused.value.kind == "later"


@pytest.mark.parametrize(
    ("data", "count", "text"),
    [
        (b"x", 0, "request: not JSON"),
        (b"x" * 140_000, 0, "request: longer than 131072 bytes"),
        (DETACH, 1, "1 descriptors were passed, not 0"),
        (ATTACH, 0, "0 descriptors were passed, not 1"),
        (ATTACH, 3, "3 descriptors were passed, not 1"),
        (ATTACH, 9, "too many descriptors"),
        (b"x", 3, "request: not JSON"),
        (ATTACH, 1, "the descriptor passed is not a socket"),
    ],
)
async def test_garbage_is_refused_and_its_descriptors_are_closed(rig: Rig, data: bytes, count: int, text: str) -> None:
    with tempfile.TemporaryFile() as file:
        await in_thread(_refused, rig, data, [file.fileno()] * count, text)
        before = descriptors.open_count()
        for _ in range(5):
            await in_thread(_refused, rig, data, [file.fileno()] * count, text)
        await eventually_async(lambda: descriptors.open_count() <= before)


def _refused(rig: Rig, data: bytes, passed: list[int], text: str) -> None:
    with pytest.raises(AttachError, match=text):
        rig.ask(data, *passed)


async def test_a_socket_of_another_kind_is_refused(rig: Rig) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        await in_thread(_refused, rig, ATTACH, [other.fileno()], "the socket passed is not an rtnetlink socket")


async def test_only_one_user_may_ask(rig: Rig) -> None:
    rig.server._allowed = os.geteuid() + 1
    with pytest.raises(AttachError, match="only root may attach"):
        await in_thread(rig.ask, DETACH)
    assert rig.service.asked == []


async def test_who_asks_nothing_is_disconnected(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attach_server, "_IDLE", 0.05)
    with await in_thread(rig.connect) as client:
        assert await in_thread(client.recv, 1) == b""
    assert await in_thread(rig.ask, DETACH) == []


async def test_more_clients_than_there_is_room_for_wait(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.server.limit = 4
    rig.service.go_on.clear()
    asking = [asyncio.create_task(in_thread(rig.ask, DETACH)) for _ in range(12)]
    await eventually_async(lambda: len(rig.service.asked) >= 4)
    await asyncio.sleep(0.1)
    assert len(rig.service.asked) == 4
    rig.service.go_on.set()
    assert await asyncio.gather(*asking) == [[]] * 12


async def test_silent_clients_keep_nobody_out(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attach_server, "_IDLE", 0.1)
    rig.server.limit = 4
    with ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(await in_thread(rig.connect))
        assert await in_thread(rig.ask, DETACH) == []


async def test_without_a_descriptor_to_spare_clients_wait(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attach_server, "_IDLE", 0.1)
    client = rig.connect()
    with descriptors_exhausted():
        await asyncio.sleep(0.05)
    with client:
        client.send(DETACH)
        assert parse_answer(await in_thread(client.recv, 1 << 17)) == []


@contextmanager
def descriptors_exhausted() -> Iterator[None]:
    """No file can be opened meanwhile."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_a_client_that_leaves_is_forgotten(rig: Rig) -> None:
    before = descriptors.open_count()
    for _ in range(20):
        (await in_thread(rig.connect)).close()
    rig.service.go_on.clear()
    with await in_thread(rig.connect) as client:
        client.send(DETACH)
        await eventually_async(lambda: rig.service.asked == ["c1"])
    rig.service.go_on.set()
    await eventually_async(lambda: descriptors.open_count() <= before)
    assert threading.active_count() < 50
