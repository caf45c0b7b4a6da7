"""The attach socket: one request, one answer, one packet each (`core.attach.request`).

SOCK_SEQPACKET keeps a packet and the descriptor that comes with it together, and tells who sent it. Root alone may ask:
it can do all of this by itself; and it has to enter the container's namespace, which overlayd may not.

1. accept    while there is room: others wait in the listener's queue; whoever asks nothing is disconnected
2. request   the packet and its descriptor, which is closed whatever comes of it
3. answer    who is gone by then gets no attachment: a container runtime has given up, and would not detach it
"""

from __future__ import annotations

import array
import asyncio
import os
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol

from overlayd.api.clients import connection_limit
from overlayd.core.attach.errors import AttachError
from overlayd.core.attach.model import Attachment
from overlayd.core.attach.request import (
    PACKET_MAX,
    AttachRequest,
    DetachRequest,
    RefreshRequest,
    answer,
    parse_request,
    refusal,
)
from overlayd.core.errors import ReportedError
from overlayd.log import log
from overlayd.system.errors import HostError
from overlayd.system.netlink import ContainerNamespace

_IDLE = 5.0  # seconds that a client may take to ask
_LAST_ANSWERS = 2.0  # seconds for what is being done when the server closes
_DESCRIPTORS = 4  # that a packet may bring; more are closed by the kernel
_UCRED = struct.Struct("=iII")  # pid, uid, gid (unix(7))
_ROOT = 0


class AttachService(Protocol):
    """Does what is asked. Every method raises AttachError or HostError."""

    async def attach(self, request: AttachRequest, namespace: ContainerNamespace) -> Attachment:
        """Attach a container."""

    async def detach(self, request: DetachRequest) -> list[Attachment]:
        """Detach a container; what it was attached by."""

    async def refresh(self, request: RefreshRequest, namespace: ContainerNamespace) -> Attachment:
        """Give an attachment the addresses and the MTU of now."""


class _Packet(NamedTuple):
    data: bytes
    descriptors: list[int]
    whole: bool


class AttachServer:
    """Serves one service, once there is one."""

    def __init__(self, allowed: int = _ROOT) -> None:
        """`allowed`: the user who may ask."""
        self.service: AttachService | None = None
        self.limit = connection_limit()
        self._allowed = allowed
        self._listener: socket.socket | None = None
        self._path = Path()
        self._waiting: dict[socket.socket, asyncio.TimerHandle] = {}
        """Clients that have not asked yet."""
        self._answering: set[asyncio.Task[None]] = set()

    def open(self, path: Path) -> None:
        """Listen. Raises HostError."""
        kind = socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._listener, self._path = socket.socket(socket.AF_UNIX, kind), path
        try:
            path.unlink(missing_ok=True)  # a killed daemon's; the lock says that none is alive
            self._listener.bind(str(path))
            path.chmod(0o600)
            self._listener.listen(self.limit)
        except OSError as error:
            self._listener.close()
            raise HostError(f"{path}: {error.strerror or error}; check the directory, or set control_socket") from None
        self._listen()

    async def close(self) -> None:
        """Listen no more, and let what is being done end."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._path.unlink(missing_ok=True)
        for client in list(self._waiting):
            self._forget(client).close()
        if self._answering:
            await asyncio.wait(self._answering, timeout=_LAST_ANSWERS)

    # --- 1. accept ----------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Accept while there is room."""
        if self._listener is None or self._listener.fileno() < 0:
            return
        loop = asyncio.get_running_loop()
        if len(self._waiting) + len(self._answering) < self.limit:
            loop.add_reader(self._listener, self._accept)
        else:
            loop.remove_reader(self._listener)

    def _accept(self) -> None:
        assert self._listener is not None
        loop = asyncio.get_running_loop()
        try:
            client, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):  # gone already
            return
        except OSError:  # no descriptor is left
            loop.remove_reader(self._listener)
            loop.call_later(_IDLE, self._listen)
            return
        client.setblocking(False)
        self._waiting[client] = loop.call_later(_IDLE, self._disconnect, client)
        loop.add_reader(client, self._on_request, client)
        self._listen()

    def _disconnect(self, client: socket.socket) -> None:
        self._forget(client).close()
        self._listen()

    def _forget(self, client: socket.socket) -> socket.socket:
        """A client that no packet is expected from any more."""
        self._waiting.pop(client).cancel()
        asyncio.get_running_loop().remove_reader(client)
        return client

    @staticmethod
    def _peer(client: socket.socket) -> int:
        credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        return int(_UCRED.unpack(credentials)[1])

    # --- 2. request ---------------------------------------------------------------------------------------------------

    def _on_request(self, client: socket.socket) -> None:
        try:
            packet = _receive(client)
        except BlockingIOError:
            return
        except OSError:
            packet = _Packet(b"", [], True)
        self._forget(client)
        if not packet.data:
            _close(packet.descriptors)
            client.close()
            self._listen()
            return
        task = asyncio.get_running_loop().create_task(self._respond(client, packet))
        self._answering.add(task)
        task.add_done_callback(self._answered)

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._answering.discard(task)
        self._listen()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("attach request failed", error=repr(error))

    async def _respond(self, client: socket.socket, packet: _Packet) -> None:
        with client:
            try:
                made, done = await self._do(packet, self._peer(client))
            except AttachError as error:
                self._send(client, refusal(error))
                return
            except ReportedError as error:
                self._send(client, refusal(AttachError(str(error), "refused")))
                return
            if not self._send(client, answer(done)) and made is not None and self.service is not None:
                log.warning("container detached: who attached it is gone", container=made.container)
                with suppress(ReportedError):
                    await self.service.detach(DetachRequest(container=made.container, interface=made.interface))

    async def _do(self, packet: _Packet, user: int) -> tuple[Attachment | None, list[Attachment]]:
        """What was attached by it, and what it was about. Raises AttachError, HostError."""
        try:
            if user != self._allowed:
                raise AttachError("only root may attach and detach containers")
            request, service = self._parse(packet), self.service
        except AttachError:
            _close(packet.descriptors)
            raise
        if service is None:
            _close(packet.descriptors)
            raise AttachError("overlayd has no lease yet: see overlayctl status; try again", "later")
        if isinstance(request, DetachRequest):
            return None, await service.detach(request)
        with ContainerNamespace(packet.descriptors[0]) as namespace:
            if isinstance(request, RefreshRequest):
                return None, [await service.refresh(request, namespace)]
            made = await service.attach(request, namespace)
            return made, [made]

    @staticmethod
    def _parse(packet: _Packet) -> AttachRequest | DetachRequest | RefreshRequest:
        if not packet.whole:
            raise AttachError(f"request: longer than {PACKET_MAX} bytes, or with too many descriptors")
        request = parse_request(packet.data)
        wanted = 0 if isinstance(request, DetachRequest) else 1
        if len(packet.descriptors) != wanted:
            raise AttachError(f"request: {len(packet.descriptors)} descriptors were passed, not {wanted}")
        return request

    # --- 3. answer ----------------------------------------------------------------------------------------------------

    @staticmethod
    def _send(client: socket.socket, data: bytes) -> bool:
        """Whether the client got it."""
        try:
            client.send(data)
        except OSError:
            return False
        return True


def _receive(client: socket.socket) -> _Packet:
    """The next packet; without data, and with no descriptors, where the client is gone. Raises OSError."""
    found = array.array("i")
    space = socket.CMSG_SPACE(_DESCRIPTORS * found.itemsize)
    data, ancillary, flags, _ = client.recvmsg(PACKET_MAX, space, socket.MSG_CMSG_CLOEXEC)
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(content[: len(content) - len(content) % found.itemsize])
    return _Packet(data, found.tolist(), not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC))


def _close(descriptors: list[int]) -> None:
    for one in descriptors:
        os.close(one)
