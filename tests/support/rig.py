"""An engine between sockets that a test reads and writes in place of the TUN and the underlay.

Importing it skips the test module where the native engine is not built.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address, ip_network

import pytest

from overlayd.core.forward import ForwardingTable, Peer
from overlayd.core.offload import OFFLOADS
from overlayd.datapath.contract import Engine
from overlayd.datapath.python import PythonEngine
from overlayd.datapath.settings import UdpSettings
from support.native import ACK, PSH, Super, tcp
from support.packets import packet

NativeEngine = pytest.importorskip(
    "overlayd.datapath.native.engine", reason="the native engine is not built: needs a C compiler"
).NativeEngine

MTU = 1472
OWN = [ip_network("10.1.1.0/24"), ip_network("fd00:1::/64")]
PLAIN = bytes(10)


class Rig:
    """An engine with its surroundings."""

    def __init__(self, kind: str, **options: object) -> None:
        self.tun, self._inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        for one in (self.tun, self._inner):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        self.local = self._udp("127.0.0.1")
        self.peer, self.stranger = self._udp("127.0.0.2"), self._udp("127.0.0.3")
        self.alpha = Peer("127.0.0.2", self.peer.getsockname()[1], 4, "alpha")
        self.beta = Peer("127.0.0.9", self.peer.getsockname()[1], 4, "beta")
        self.table = ForwardingTable(
            OWN,
            [ip_address("10.1.1.0"), ip_address("fd00:1::")],
            MTU,
            [(ip_network(net), self.alpha) for net in ("10.1.2.0/24", "fd00:2::/64")]
            + [(ip_network("10.1.3.0/24"), self.beta)],
        )
        self.vnet = kind == "native"
        self.engine: Engine
        if kind == "python":
            self.engine = PythonEngine(self._inner.fileno(), {4: self.local}, self.table)
        else:
            self.vnet = bool(options.pop("vnet_header", True))
            self.engine = NativeEngine(
                self._inner.fileno(), {4: self.local}, self.table, vnet_header=self.vnet, **options
            )

    def _udp(self, host: str) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.bind((host, 0))
        return sock

    def read_tun(self) -> list[tuple[bytes, bytes]]:
        """(virtio-net header, packet), as far as there are any."""
        found = []
        while True:
            try:
                data = self.tun.recv(70000)
            except BlockingIOError:
                return found
            found.append((data[:10], data[10:]) if self.vnet else (PLAIN, data))

    def read_peer(self) -> list[bytes]:
        found = []
        while True:
            try:
                found.append(self.peer.recv(70000))
            except BlockingIOError:
                return found

    def send_tun(self, data: bytes, header: bytes = PLAIN) -> None:
        self.tun.send(header + data if self.vnet else data)

    def outbound(self) -> None:
        while self.engine.outbound() > 0:
            pass

    def inbound(self) -> None:
        while self.engine.inbound(4) > 0:
            pass

    def close(self) -> None:
        for one in (self.tun, self._inner, self.local, self.peer, self.stranger):
            one.close()


KINDS: dict[str, dict[str, object]] = {
    "python": {},
    "native": {},
    "native without offloads": {"settings": UdpSettings(without_offloads=",".join(OFFLOADS))},
    "native without a virtio-net header": {"vnet_header": False},
    "native that polls": {"settings": UdpSettings(busy_poll_us="200")},
}


def small(n: int, source: str = "10.1.1.2", destination: str = "10.1.2.3") -> bytes:
    return packet(source, destination, struct.pack("!I", n) * 10)


def superpacket(payload: bytes, size: int = 1420) -> Super:
    return Super(4, payload, size, ACK, b"\1\1\x08\x0a" + bytes(8), b"", 5)


def inbound_flow(count: int, size: int) -> list[bytes]:
    """Packets of one TCP flow to this host; the last one has PSH. Sums stay right as the ends are swapped."""
    flow = [
        tcp(bytes([n]) * size, sequence=n * size, dont_fragment=True, flags=ACK | (PSH if n == count - 1 else 0))
        for n in range(count)
    ]
    return [one[:12] + one[16:20] + one[12:16] + one[20:] for one in flow]
