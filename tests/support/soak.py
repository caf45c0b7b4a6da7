"""Hosts that talk while things go wrong, by a seeded schedule; what TCP carried must be whole at the end.

    sudo PYTHONPATH=tests .venv/bin/python -m support.soak [--minutes 10] [--mode udp] [--seed N]

    h1c1 <=> h2c1 <=> h3c1 <=> h1c1      a connection for each pair and family, random bytes both ways all the time
    every second or two, on one host:    an object of overlayd's deleted, its device too; a device down, or its MTU
                                         changed; a lease that comes or goes; the daemon stopped, killed, reloaded

Held at the end: every stream arrives as it was sent; each host's kernel state is that of the beginning; the daemon of
h1, which is never stopped, has no more file descriptors than before, and hardly more memory. The seed is printed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from zlib import crc32

import pytest

from overlayd.core.address import FAMILIES, Family
from overlayd.lab import Container, Host, hosts
from overlayd.lab.host import wait_ready
from overlayd.lab.spec import IPV6_NETWORK
from support.dump import assert_same, dump
from support.waiting import eventually
from support.wire import inet

PACE = 10 << 20  # bytes a second and direction of a connection: a load, and not the end of it
PIECE = 64 << 10
SETTLE = 20.0  # seconds for the last repairs
WELL = 150.0  # seconds: a path that seemed narrow while packets were lost is tried again once a minute
STALL = 60.0  # seconds without a byte after which a connection has failed
LEAK = 8.0  # MiB that a daemon may have more at the end: its caches, and what malloc keeps
DEVICES = {"udp": ["ovl0"], "vxlan": ["ovl.1", "ovl6.1"], "host-gw": [], "wireguard": ["ovl0"]}
_POOL = random.Random(1).randbytes((4 << 20) + 4099)

Report = Callable[[str], None]


# --- what is carried --------------------------------------------------------------------------------------------------


@dataclass
class Stream:
    """One direction of a connection."""

    name: str
    digest: str = ""
    """Of what was sent."""
    arrived: str = ""
    """Of what came."""
    carried: int = 0
    """Bytes."""
    pause: tuple[float, float] = (0.0, 0.0)
    """The longest between two pieces that came: seconds, and when it was over (time.monotonic)."""

    def send(self, out: socket.socket, done: threading.Event) -> None:
        """Send at PACE until `done`."""
        digest, at, view = hashlib.sha256(), crc32(self.name.encode()) % len(_POOL), memoryview(_POOL)
        while not done.is_set():
            piece = view[at : at + PIECE]
            out.sendall(piece)
            digest.update(piece)
            at = (at + len(piece)) % len(_POOL)
            done.wait(len(piece) / PACE)
        out.shutdown(socket.SHUT_WR)
        self.digest = digest.hexdigest()

    def receive(self, source: socket.socket) -> None:
        """Read to the end."""
        digest, buffer, last = hashlib.sha256(), bytearray(PIECE), time.monotonic()
        view = memoryview(buffer)
        while got := source.recv_into(buffer):
            now = time.monotonic()
            self.pause, last = max(self.pause, (now - last, now)), now
            digest.update(view[:got])
            self.carried += got
        self.arrived = digest.hexdigest()


@contextmanager
def talking(pairs: list[tuple[Container, Container]], families: tuple[Family, ...]) -> Iterator[list[Stream]]:
    """Connections for as long as the block, then their ends. Raises what any of them came to."""
    done = threading.Event()
    streams: list[Stream] = []
    open_sockets: list[socket.socket] = []
    jobs: list[Future[None]] = []
    with ThreadPoolExecutor(4 * len(pairs) * len(families)) as pool:
        try:
            for client, server in pairs:
                for family in families:
                    here, there = _connect(client, server, family)
                    open_sockets += [here, there]
                    for out, source, name in ((here, there, ">"), (there, here, "<")):
                        stream = Stream(f"{client.name} {name} {server.name} IPv{family}")
                        streams.append(stream)
                        jobs += [pool.submit(stream.send, out, done), pool.submit(stream.receive, source)]
            yield streams
            done.set()
            for job in jobs:
                job.result()
        finally:
            done.set()
            for one in open_sockets:
                one.close()


def _connect(client: Container, server: Container, family: Family) -> tuple[socket.socket, socket.socket]:
    address = server.address(family)
    with server.socket(inet(address), socket.SOCK_STREAM) as listener:
        listener.settimeout(STALL)
        listener.bind((str(address), 0))
        listener.listen()
        here = client.socket(inet(address), socket.SOCK_STREAM)
        here.settimeout(STALL)
        here.connect(listener.getsockname())
        there, _ = listener.accept()
        there.settimeout(STALL)
        return here, there


# --- what goes wrong --------------------------------------------------------------------------------------------------


@dataclass
class Trouble:
    """A seeded schedule of harm to the hosts of a lab; `never` is the host whose daemon is not stopped."""

    some: list[Host]
    chance: random.Random
    report: Report
    done: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.never = self.some[0]
        self._leases = self.never.lab.leases()
        self._phantoms = 0

    def once(self) -> None:
        """Do one thing to one host. Raises AssertionError when a daemon has ended that nobody ended."""
        for one in self.some:
            assert one.pid is not None, f"{one.name}: overlayd ended by itself:\n{one.last_lines()}"
        host = self.chance.choice(self.some)
        harms: list[Callable[[Host], str | None]] = [self._delete_object, self._harm_device, self._change_leases]
        if host is not self.never:
            harms += [self._kill, self._restart]
        harms.append(self._reload)
        what = self.chance.choice(harms)(host)
        if what is not None:
            self.done[what.split(":")[0]] += 1
            self.report(f"{host.name}: {what}")

    def end(self) -> None:
        """Give back the leases that there were, and wait for every daemon."""
        self.never.lab.write_leases(self._leases)
        for host in self.some:
            if host.pid is None:
                host.start(wait=False)
        wait_ready(self.some)

    def _delete_object(self, host: Host) -> str | None:
        """A route, a neighbour, an FDB entry, an address or the rules."""
        commands = [
            f"ip -{ip} route del {one}" for ip in (4, 6) for one in _lines(host, f"ip -{ip} route show proto 178")
        ]
        for device in DEVICES[host.lab.spec.mode]:
            neighbours = _lines(host, f"ip neigh show dev {device} nud permanent")
            commands += [f"ip neigh del {one.split()[0]} dev {device}" for one in neighbours]
            entries = [one.split() for one in _lines(host, f"bridge fdb show dev {device}")]
            commands += [f"bridge fdb del {mac} dev {device} dst {dst} self" for mac, _, dst, *_ in entries]
            addresses = _lines(host, f"ip -o addr show dev {device} scope global")
            commands += [f"ip addr del {one.split()[3]} dev {device}" for one in addresses]
        if _lines(host, "nft list tables"):
            commands.append("nft delete table inet overlayd")
        if not commands:
            return None
        command = self.chance.choice(commands)
        host.run(*command.split(), check=False)
        kind = next(word for word in command.split()[1:] if not word.startswith("-"))
        return f"{kind} deleted: {command}"

    def _harm_device(self, host: Host) -> str | None:
        if not DEVICES[host.lab.spec.mode]:
            return None
        device = self.chance.choice(DEVICES[host.lab.spec.mode])
        verb = self.chance.choice(["del {}", "set {} down", "set {} mtu 1300"])
        host.run(*f"ip link {verb.format(device)}".split(), check=False)
        return f"device {verb.format('').replace('  ', ' ').strip()}: {device}"

    def _change_leases(self, host: Host) -> str:
        """A host that is not there gets a lease, or all such lose theirs."""
        self._phantoms = (self._phantoms + 1) % 4
        phantoms = [
            {
                "subnet": f"10.1.{number}.0/24",
                "ipv6_subnet": f"{ip_network(IPV6_NETWORK)[number << 64]}/64",
                "public_ip": f"192.0.2.{number}",
            }
            for number in range(200, 200 + self._phantoms)
        ]
        host.lab.write_leases([*self._leases, *phantoms])
        return f"leases: {self._phantoms} more"

    def _kill(self, host: Host) -> str:
        host.stop(signal.SIGKILL)
        time.sleep(self.chance.uniform(0, 1))
        host.start(wait=False)
        return "daemon killed"

    def _restart(self, host: Host) -> str:
        host.stop()
        time.sleep(self.chance.uniform(0, 1))
        host.start(wait=False)
        return "daemon restarted"

    def _reload(self, host: Host) -> str | None:
        if host.pid is None:
            return None
        os.kill(host.pid, signal.SIGHUP)
        return "reload"


def _lines(host: Host, command: str) -> list[str]:
    shown = host.run(*command.split(), check=False).stdout.splitlines()
    return [line.strip() for line in shown if line.strip()]


# --- what is held -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Holdings:
    """What a daemon has."""

    descriptors: int
    memory: float
    """MiB, resident."""

    @classmethod
    def of(cls, host: Host) -> Holdings:
        """As /proc says it."""
        process = Path(f"/proc/{host.pid}")
        fields = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        return cls(len(list((process / "fd").iterdir())), int(fields["VmRSS"].split()[0]) / 1024)


def soak(seconds: float, seed: int, report: Report, *, mode: str = "udp") -> list[Stream]:
    """Raises AssertionError for what does not hold; gives back what was carried."""
    with hosts(3, mode=mode, family="dual", underlay="dual") as some:
        everyone = list(some)
        before = [_state(host) for host in everyone]
        containers = [host.container(0) for host in everyone]
        pairs = list(zip(containers, [*containers[1:], containers[0]], strict=True))
        trouble, began = Trouble(everyone, random.Random(seed), report), time.monotonic()
        with talking(pairs, FAMILIES) as streams:
            end, begun = time.monotonic() + seconds, None
            while (left := end - time.monotonic()) > 0:
                time.sleep(min(left, trouble.chance.uniform(0.5, 2)))
                trouble.once()
                if begun is None and left < seconds * 0.7:  # everything has happened once, caches are filled
                    begun = Holdings.of(trouble.never)
            trouble.end()
            report(f"all of it ends: {', '.join(f'{count} {what}' for what, count in sorted(trouble.done.items()))}")
            for host in everyone:
                eventually(lambda host=host: host.status()["problems"] == [], f"{host.name} is well", timeout=WELL)  # type: ignore[misc]
        for host, was in zip(everyone, before, strict=True):
            _await_same(was, host)
        after = Holdings.of(trouble.never)
        for stream in streams:
            pause, over = stream.pause
            when = f"longest pause {pause:.1f} s, over at {over - began:.1f} s"
            report(f"{stream.name}: {stream.carried / 1e6:,.0f} MB, {when}")
            assert stream.carried > 0, f"{stream.name}: nothing was carried"
            assert stream.digest == stream.arrived, f"{stream.name}: other data than was sent"
        assert begun is not None
        report(
            f"{trouble.never.name}: descriptors {begun.descriptors} -> {after.descriptors}, "
            f"memory {begun.memory:.1f} -> {after.memory:.1f} MiB, repairs {trouble.never.status()['repairs']}"
        )
        assert after.descriptors <= begun.descriptors, "file descriptors leak"
        assert after.memory <= begun.memory + LEAK, "memory leaks"
        return streams


def _state(host: Host) -> dict[str, str]:
    """In an order that a device which was made anew does not change."""
    shown = dump(host, ifindex=False)
    return {command: "\n".join(sorted(text.splitlines())) for command, text in shown.items()}


def _await_same(was: dict[str, str], host: Host) -> None:
    deadline = time.monotonic() + SETTLE
    while True:
        try:
            return assert_same(was, _state(host))
        except AssertionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--mode", action="append", choices=["udp", "vxlan", "host-gw"], help="default: udp, then vxlan")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    given = parser.parse_args()
    modes = given.mode or ["udp", "vxlan"]
    for mode in modes:
        began = time.monotonic()

        def report(text: str, began: float = began) -> None:
            print(f"{time.monotonic() - began:7.1f} s  {text}", flush=True)

        print(f"soak: {mode} for {given.minutes / len(modes):g} minutes, --mode {mode} --seed {given.seed}", flush=True)
        try:
            soak(given.minutes * 60 / len(modes), given.seed, report, mode=mode)
        except (AssertionError, pytest.fail.Exception, OSError) as error:
            print(f"soak: {error}; again with --mode {mode} --seed {given.seed}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
