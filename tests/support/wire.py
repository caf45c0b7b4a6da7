"""What tests on the wire need: packets made by hand, datagrams sent from inside a namespace, frames captured there.

Packets are built by `support.packets`, with struct alone and independently of overlayd.wire.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import struct
import subprocess
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import pytest

from overlayd.core.address import Address
from overlayd.lab import Host, Namespace
from support.packets import ICMP, ICMPV6, UDP, ipv4, ipv6, packet, rfc1071

__all__ = ["ICMP", "ICMPV6", "UDP", "ipv4", "ipv6", "packet", "rfc1071"]

FAMILIES = (4, 6)
MODES = ("udp", "vxlan", "host-gw")
ENGINES = ("native", "python")
UDP_PORT, VXLAN_PORT = 8285, 8472

_ETH_P_ALL = 0x0003  # <linux/if_ether.h>
_PACKET_OUTGOING = 4  # <linux/if_packet.h>
_SO_RCVBUFFORCE = 33
_LINKTYPE_ETHERNET = 1  # pcap

T = TypeVar("T")


# --- conversations ----------------------------------------------------------------------------------------------------


def ping_text(node: Namespace, address: Address | str, *options: str, wait: float = 3) -> str:
    """What `ping` of one packet prints, ICMP errors included."""
    return node.run("ping", "-n", "-c", "1", "-W", f"{wait}", *options, str(address), check=False).stdout


def inet(address: Address | str) -> socket.AddressFamily:
    """The socket family of an address."""
    return socket.AF_INET6 if ":" in str(address) else socket.AF_INET


def transfer(sender: Namespace, receiver: Namespace, address: Address, data: bytes) -> bytes:
    """What `receiver` gets at `address` when `sender` writes `data` into a TCP connection."""

    def take(listener: socket.socket) -> bytes:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as stream:
            connection.settimeout(20)
            return stream.read()

    with (
        ThreadPoolExecutor(1) as pool,
        receiver.socket(inet(address), socket.SOCK_STREAM) as listener,
        sender.socket(inet(address), socket.SOCK_STREAM) as out,
    ):
        for one in (listener, out):
            one.settimeout(20)
        listener.bind((str(address), 0))
        listener.listen(1)
        out.connect((str(address), listener.getsockname()[1]))
        received = pool.submit(take, listener)
        out.sendall(data)
        out.shutdown(socket.SHUT_WR)
        return received.result()


def tcp_carries(size: int, sender: Namespace, receiver: Namespace, address: Address) -> bool:
    """Whether as many random bytes arrive unharmed."""
    data = os.urandom(size)
    digests = {hashlib.sha256(one).digest() for one in (data, transfer(sender, receiver, address, data))}
    return len(digests) == 1


def udp_echo(client: Namespace, server: Namespace, address: Address, *payloads: bytes) -> list[bytes]:
    """What `client` gets back when `server`, at `address`, returns every datagram."""
    answers = []
    with (
        server.socket(inet(address), socket.SOCK_DGRAM) as there,
        client.socket(inet(address), socket.SOCK_DGRAM) as here,
    ):
        for one in (there, here):
            one.settimeout(5)
        there.bind((str(address), 0))
        for payload in payloads:
            here.sendto(payload, there.getsockname())
            there.sendto(*there.recvfrom(65536))
            answers.append(here.recv(65536))
    return answers


def inject(sender: Namespace, target: Address | str, port: int, *payloads: bytes) -> None:
    """Send each payload as one UDP datagram from the sender's own address, in this order."""
    with sender.socket(inet(target), socket.SOCK_DGRAM) as out:
        for payload in payloads:
            out.sendto(payload, (str(target), port))


def udp_packet(source: Address | str, destination: Address | str, payload: bytes, port: int = 9) -> bytes:
    """A whole IP packet with a UDP datagram to `port` (9, discard) and a right checksum."""
    body = struct.pack("!HHHH", 40000, port, 8 + len(payload), 0) + payload
    ends = ip_address(str(source)).packed + ip_address(str(destination)).packed
    checksum = rfc1071(ends + struct.pack("!II", len(body), UDP) + body) or 0xFFFF
    return packet(str(source), str(destination), body[:6] + struct.pack("!H", checksum) + body[8:])


def vxlan_datagram(vni: int, destination_mac: str, source_mac: str, inner: bytes) -> bytes:
    """The UDP payload of RFC 7348 around an IP packet."""
    macs = bytes.fromhex((destination_mac + source_mac).replace(":", ""))
    ethertype = 0x0800 if inner[0] >> 4 == 4 else 0x86DD
    return struct.pack("!II", 0x08 << 24, vni << 8) + macs + struct.pack("!H", ethertype) + inner


def drops(host: Host) -> Counter[str]:
    """What the daemon has refused from the underlay so far, by reason."""
    return Counter(host.status()["drops"]["rx"])


# --- captures ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Frame:
    """A frame as AF_PACKET shows it."""

    device: str
    outgoing: bool
    data: bytes
    """From the link layer's header on; a TUN has none."""
    link_header: int
    """Bytes."""

    @property
    def ip(self) -> bytes:
        """The IP packet; empty for anything else, such as ARP."""
        if self.link_header and self.data[12:14] not in (b"\x08\x00", b"\x86\xdd"):
            return b""
        return self.data[self.link_header :]

    @property
    def mac_destination(self) -> str:
        """Of an Ethernet frame."""
        return self.data[:6].hex(":")

    def __str__(self) -> str:
        return f"{self.device} {'out' if self.outgoing else 'in'} {self.data.hex()}"


class Capture:
    """Frames of one interface of a namespace, or of all, from the beginning of the block on."""

    def __init__(self, node: Namespace, device: str | None = None) -> None:
        self._seen: list[Frame] = []
        self._socket = node.socket(socket.AF_PACKET, socket.SOCK_RAW, 0 if device else socket.htons(_ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 64 << 20)
        self._socket.setblocking(False)
        if device:
            self._socket.bind((device, _ETH_P_ALL))

    def frames(self) -> list[Frame]:
        """All frames so far."""
        while True:
            try:
                data, (device, _, kind, hardware, _) = self._socket.recvfrom(70000)
            except BlockingIOError:
                return list(self._seen)
            ethernet = hardware in (1, 772)  # ARPHRD_ETHER, ARPHRD_LOOPBACK: <linux/if_arp.h>
            self._seen.append(Frame(device, kind == _PACKET_OUTGOING, data, 14 if ethernet else 0))

    def incoming(self, device: str) -> list[Frame]:
        """The frames that came in by this interface."""
        return [frame for frame in self.frames() if frame.device == device and not frame.outgoing]

    def __enter__(self) -> Capture:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()


def write_pcap(path: Path, frames: Iterable[Frame]) -> None:
    """Ethernet frames as a file for tshark; all at time 0."""
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 0x40000, _LINKTYPE_ETHERNET))
        for frame in frames:
            file.write(struct.pack("<IIII", 0, 0, len(frame.data), len(frame.data)) + frame.data)


def tshark(path: Path, decode_as: str, display_filter: str, *fields: str) -> list[list[str]]:
    """The fields of each packet that passes the filter; a field found in several layers is joined by commas."""
    if shutil.which("tshark") is None:
        if os.environ.get("OVERLAYD_REQUIRE_PRIVILEGED") == "1":
            pytest.fail("needs tshark: apt install tshark")
        pytest.skip("needs tshark: apt install tshark")
    argv = ["tshark", "-n", "-r", str(path), "-d", decode_as, "-Y", display_filter, "-T", "fields"]
    for field in fields:
        argv += ["-e", field]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return [line.split("\t") for line in done.stdout.splitlines()]
