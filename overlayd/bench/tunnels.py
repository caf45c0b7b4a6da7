"""Tunnels of other programs that this machine has, to compare with, between the hosts of a lab without daemons.

    h1c1 -- br0 [h1] device ==== tunnel ==== device [h2] br0 -- h2c1

    wireguard       the kernel's                  wireguard-go    the same protocol in user space, through a TUN
    nebula          in user space, through a TUN

Each is used as it comes, but for the MTU: the longest that its outer packets allow. All of them encrypt; overlayd
does not.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import yaml

from overlayd.bench.endpoint import Program
from overlayd.bench.errors import BenchError
from overlayd.core.address import Address, Network
from overlayd.core.mtu import IP_HEADER, UDP_HEADER
from overlayd.lab import Host, LabError
from overlayd.lab.lab import Lab
from overlayd.lab.namespace import need_tools

WIREGUARD_PORT, NEBULA_PORT = 51820, 4242  # their defaults
_COMES_UP = 15.0
"""Seconds that a tunnel has until containers reach each other."""
_HEADERS = UDP_HEADER + 16 + 16
"""UDP, the tunnel's own header and its authentication tag: the same for all of them."""
_STOPS = 5.0


@dataclass(frozen=True)
class Tunnel:
    """A tunnel that a machine may have."""

    tools: tuple[str, ...]
    """The programs that it needs."""
    engine: str | None
    """The one that carries the packets; None where the kernel does."""
    set_up: Callable[[ExitStack, Lab, int], tuple[Program, ...]]
    """Makes it in that lab with that MTU, and ends its processes with the stack. Raises LabError."""

    def missing(self) -> bool:
        """Whether this machine lacks a program; the kernel's part shows only when it is tried."""
        return any(shutil.which(tool) is None for tool in self.tools)


def tunnel(stack: ExitStack, other: Tunnel, lab: Lab) -> tuple[tuple[Program, ...], int, float]:
    """Bring it up in the lab: its processes, its MTU, the seconds until containers talked.

    Raises BenchError or LabError.
    """
    need_tools(*other.tools)
    a, b = lab.hosts
    mtu = lab.spec.underlay_mtu - IP_HEADER[a.public_ip.version] - _HEADERS
    for host in lab.hosts:
        host.sysctl({"net/ipv4/ip_forward": 1, "net/ipv6/conf/all/forwarding": 1})
        for container in host.containers:
            container.ip(f"link set eth0 mtu {mtu}")
    began = time.monotonic()
    programs = other.set_up(stack, lab, mtu)
    address = b.container(0).address()
    while not a.container(0).ping(address, timeout=0.2):
        if time.monotonic() - began > _COMES_UP:
            raise BenchError(f"containers do not reach each other after {_COMES_UP:g} s")
    return programs, mtu, time.monotonic() - began


@contextlib.contextmanager
def _running(host: Host, log: Path, *argv: str) -> Iterator[subprocess.Popen[bytes]]:
    """The program in there while the block lasts, then asked to end."""
    with log.open("ab") as out:
        process = host.popen(*argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_STOPS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await(process: subprocess.Popen[bytes], log: Path, ready: Callable[[], object]) -> None:
    """Wait until `ready` succeeds; raises LabError with the program's last output when it ends or takes too long."""
    deadline = time.monotonic() + _COMES_UP
    while True:
        with contextlib.suppress(LabError):
            ready()
            return
        if process.poll() is not None or time.monotonic() > deadline:
            said = log.read_text(errors="replace").strip()[-500:]
            raise LabError(f"{process.args!r} does not come up: {said or 'it printed nothing'}")
        time.sleep(0.02)


# --- WireGuard --------------------------------------------------------------------------------------------------------

_DEVICE = "other0"
_PRIVATE_RUN = "mount -t tmpfs tmpfs /run && exec wireguard-go --foreground " + _DEVICE
"""Its control socket is named by the device alone, for all namespaces: each host has a /run of its own."""


def _wireguard(stack: ExitStack, lab: Lab, mtu: int) -> tuple[Program, ...]:
    for host in lab.hosts:
        host.ip(f"link add {_DEVICE} type wireguard")
    _peer_up(lab, mtu, dict.fromkeys(lab.hosts, ()))
    return ()


def _wireguard_go(stack: ExitStack, lab: Lab, mtu: int) -> tuple[Program, ...]:
    inside: dict[Host, Sequence[str]] = {}
    programs = []
    for host in lab.hosts:
        log = host.directory / "wireguard-go.log"
        process = stack.enter_context(_running(host, log, "unshare", "--mount", "sh", "-c", _PRIVATE_RUN))
        inside[host] = ("nsenter", f"--target={process.pid}", "--mount")
        programs.append(Program(process.pid, host, _DEVICE))
        _await(process, log, lambda host=host: host.run(*inside[host], "wg", "show", _DEVICE))  # type: ignore[misc]
    _peer_up(lab, mtu, inside)
    return tuple(programs)


def _peer_up(lab: Lab, mtu: int, inside: dict[Host, Sequence[str]]) -> None:
    """Keys, peers, MTU and routes, by wg(8) and ip(8); `inside`: the commands with which wg gets to each device."""
    keys = {host: host.run("wg", "genkey").stdout.strip() for host in lab.hosts}
    public = {host: host.run("wg", "pubkey", input=key).stdout.strip() for host, key in keys.items()}
    a, b = lab.hosts
    for host, other in ((a, b), (b, a)):
        own = ("private-key", "/dev/stdin", "listen-port", str(WIREGUARD_PORT))
        allowed = ",".join(map(str, other.subnets))
        peer = ("peer", public[other], "allowed-ips", allowed, "endpoint", _endpoint(other.public_ip, WIREGUARD_PORT))
        host.run(*inside[host], "wg", "set", _DEVICE, *own, *peer, input=keys[host])
        host.ip(f"link set {_DEVICE} mtu {mtu} up", *(f"route add {subnet} dev {_DEVICE}" for subnet in other.subnets))


def _endpoint(address: Address, port: int) -> str:
    return f"{address}:{port}" if address.version == 4 else f"[{address}]:{port}"


# --- nebula -----------------------------------------------------------------------------------------------------------

_NEBULA = "172.31.255.{}"
"""The hosts' own addresses in nebula's network, which routes to containers go by."""


def _nebula(stack: ExitStack, lab: Lab, mtu: int) -> tuple[Program, ...]:
    if any(host.ipv4_subnet is None for host in lab.hosts):
        raise LabError("nebula 1.6 carries IPv4 only: use --family 4")
    authority = lab.directory / "nebula-ca"
    a, b = lab.hosts
    a.run("nebula-cert", "ca", "-name", "lab", "-out-crt", f"{authority}.crt", "-out-key", f"{authority}.key")
    programs = []
    for number, host in enumerate(lab.hosts, 1):
        other = b if host is a else a
        identity = host.directory / "nebula"
        signed = ("-ca-crt", f"{authority}.crt", "-ca-key", f"{authority}.key", "-name", host.name)
        files = ("-out-crt", f"{identity}.crt", "-out-key", f"{identity}.key")
        may = ("-ip", f"{_NEBULA.format(number)}/24", "-subnets", str(host.ipv4_subnet))
        a.run("nebula-cert", "sign", *signed, *may, *files)
        config = {
            "pki": {"ca": f"{authority}.crt", "cert": f"{identity}.crt", "key": f"{identity}.key"},
            "static_host_map": {_NEBULA.format(3 - number): [_endpoint(other.public_ip, NEBULA_PORT)]},
            "lighthouse": {"am_lighthouse": False},
            "listen": {"host": "0.0.0.0" if host.public_ip.version == 4 else "::", "port": NEBULA_PORT},
            "tun": {"dev": _DEVICE, "mtu": mtu, "unsafe_routes": [_route(other.ipv4_subnet, 3 - number, mtu)]},
            "firewall": {
                direction: [{"port": "any", "proto": "any", "host": "any"}] for direction in ("inbound", "outbound")
            },
        }
        path, log = host.directory / "nebula.yaml", host.directory / "nebula.log"
        path.write_text(yaml.safe_dump(config))
        process = stack.enter_context(_running(host, log, "nebula", "-config", str(path)))
        programs.append(Program(process.pid, host, _DEVICE))
        _await(process, log, lambda host=host: host.run("ip", "route", "show", "dev", _DEVICE))  # type: ignore[misc]
    return tuple(programs)


def _route(subnet: Network | None, number: int, mtu: int) -> dict[str, object]:
    return {"route": str(subnet), "via": _NEBULA.format(number), "mtu": mtu}


TUNNELS = {
    "wireguard": Tunnel(("wg",), None, _wireguard),
    "wireguard-go": Tunnel(("wireguard-go", "wg", "unshare"), "wireguard-go", _wireguard_go),
    "nebula": Tunnel(("nebula", "nebula-cert"), "nebula", _nebula),
}
"""By the name of its scenario."""
