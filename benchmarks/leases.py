"""A node in a cluster of thousands: its start, one event, its memory; on a real etcd, with real kernel state.

    sudo .venv/bin/python benchmarks/leases.py [--leases 1000,10000] [--modes udp,vxlan] [--rounds 3] [--seconds 20]

cold      the daemon's process is started on a host with nothing in the kernel and no leases on disk -> it is ready, and
          the kernel, read back, has every peer's route (vxlan: neighbour and FDB entry too)
restart   the same, over the kernel state of the run before
event     a put or a deletion is sent to etcd -> the kernel has told of the last object that follows from it; RATE of
          them a second, sent whatever becomes of the earlier ones
floor     the parts, one by one, in a process that does nothing else
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import statistics
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, ip_interface
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from overlayd.backend.modes import SETTINGS
from overlayd.core.kernel.diff import diff
from overlayd.core.kernel.kinds import FdbEntry, KernelObject, LinkAddress, Neighbour, Route, VxlanLink, state_of
from overlayd.core.leases.lease import Lease
from overlayd.lab import Host, hosts, wait_ready
from overlayd.lab.etcdctl import PREFIX
from overlayd.lab.namespace import within
from overlayd.registry.etcd.client import EtcdClient
from overlayd.registry.etcd.messages import Delete, Put
from overlayd.registry.etcd.view import View
from overlayd.system.kernel import Kernel
from overlayd.system.netlink import Netlink
from overlayd.wire.mac import derive_mac
from overlayd.wire.netlink.uapi import NLMSGHDR

RATE = 100  # events a second
AT_ONCE = 120  # keys in a transaction; etcd takes 128
NETWORK = "10.0.0.0/8"
FIRST = int(IPv4Address("10.1.0.0"))  # beside the subnet that the lab has planned for the host itself
PUBLIC = int(IPv4Address("198.18.0.0"))
EVENTS = 40_000  # peers from this number on come
OBJECTS = {"udp": ("route",), "vxlan": ("route", "neighbour", "fdb")}


# --- a cluster --------------------------------------------------------------------------------------------------------


def subnet(number: int) -> IPv4Network:
    """The subnet of the peer with this number."""
    return IPv4Network((FIRST + (number << 8), 24))


def lease(number: int, mode: str) -> Put:
    """The peer's key and value, as flannel writes them."""
    public = str(IPv4Address(PUBLIC + number))
    value: dict[str, Any] = {"PublicIP": public, "PublicIPv6": None}
    if mode == "vxlan":
        value |= {"BackendType": "vxlan", "BackendData": {"VNI": 1, "VtepMAC": derive_mac(public)}}
    return Put(key(number), json.dumps(value, separators=(",", ":")))


def key(number: int) -> str:
    """The peer's key."""
    return f"{PREFIX}/subnets/{subnet(number).network_address}-24"


def client(host: Host) -> EtcdClient:
    """For use inside the lab's etcd's namespace."""
    assert host.lab.etcd is not None
    return EtcdClient(host.lab.etcd.endpoints)


def in_etcd(host: Host, action: Callable[[], Any]) -> Any:
    """Call it in the namespace of the lab's etcd."""
    assert host.lab.etcd is not None
    return host.lab.etcd.members[0].inside(action)


async def fill(host: Host, count: int, mode: str) -> None:
    """Put so many leases."""
    etcd = client(host)
    for start in range(0, count, AT_ONCE):
        await etcd.transact([], *(lease(number, mode) for number in range(start, min(count, start + AT_ONCE))))
    await etcd.close()


# --- the kernel -------------------------------------------------------------------------------------------------------


def counts(host: Host) -> dict[str, int]:
    """How many objects of each kind the kernel has for peers."""
    shown = {
        "route": host.run("ip", "-4", "route", "show", "proto", "178").stdout.replace("unreachable", "\nunreachable"),
        "neighbour": host.run("ip", "-4", "neigh", "show", "nud", "permanent").stdout,
        "fdb": host.run("bridge", "fdb", "show").stdout,
    }
    signs = {"route": "10.", "neighbour": "10.", "fdb": ""}
    return {
        kind: sum(line.startswith(signs[kind]) and (kind != "fdb" or " dst 198." in line) for line in text.splitlines())
        for kind, text in shown.items()
    }


@dataclass
class Monitor:
    """When the kernel told of each route, neighbour and FDB entry that came or went, by a socket of its own."""

    host: Host
    seen: dict[tuple[str, str, str], float] = field(default_factory=dict)
    """(came or went, kind, address or MAC) -> perf_counter."""

    def __enter__(self) -> Monitor:
        self._socket = self.host.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
        self._socket.bind((0, 0x4 | 0x40))  # RTMGRP_NEIGH, RTMGRP_IPV4_ROUTE
        self._socket.settimeout(0.2)
        self._stop = False
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop = True
        self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        while not self._stop:
            try:
                data = self._socket.recv(1 << 20)
            except TimeoutError:
                continue
            now = time.perf_counter()
            for what in _changes(data):
                self.seen.setdefault(what, now)  # a neighbour that goes is told of once more as one that came


def _changes(data: bytes) -> Iterator[tuple[str, str, str]]:
    """The routes and neighbours in what a netlink socket delivered (linux/rtnetlink.h, linux/neighbour.h)."""
    offset = 0
    while offset + NLMSGHDR.size <= len(data):
        length, kind, *_ = NLMSGHDR.unpack_from(data, offset)
        body = data[offset + NLMSGHDR.size : offset + length]
        offset += length + 3 & ~3
        if kind not in (24, 25, 28, 29):  # RTM_NEWROUTE, RTM_DELROUTE, RTM_NEWNEIGH, RTM_DELNEIGH
            continue
        came = "came" if kind in (24, 28) else "went"
        attributes = dict(_attributes(body[12:]))  # rtmsg and ndmsg are 12 bytes, and their DST is 1
        if kind in (24, 25):
            yield came, "route", socket.inet_ntoa(attributes.get(1, bytes(4)))
        elif body[0] == 7:  # AF_BRIDGE: the FDB, by MAC
            yield came, "fdb", attributes.get(2, b"").hex(":")
        elif body[0] == 2:
            yield came, "neighbour", socket.inet_ntoa(attributes[1])


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        yield kind, data[offset + 4 : offset + length]
        offset += max(4, length + 3 & ~3)


# --- what is measured -------------------------------------------------------------------------------------------------


def start(host: Host, count: int, mode: str, *, cold: bool) -> float:
    """Seconds from the start of the process until every peer can be reached."""
    host.stop()
    if cold:
        start_clean(host)
        for path in (host.directory / "state").glob("*"):
            if path.name != "node-id":  # whose lease is in etcd
                path.unlink()
        assert not counts(host)["route"], "something is left of the last run"
    began = time.perf_counter()
    host.start(wait=False)
    wait_ready([host], 120)
    assert host.ready_after is not None
    took = host.ready_after
    while any((found := counts(host))[kind] != count for kind in OBJECTS[mode]):
        took = time.perf_counter() - began  # ready came first; what we read counts
        if took > 120:
            raise SystemExit(f"after {took:.0f} s the kernel has {found} of {count}; see {host.log_path}")
    return took


def memory(host: Host) -> tuple[float, float]:
    """MiB: resident now, and at most so far."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{host.pid}/status").read_text().splitlines())
    return tuple(int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))  # type: ignore[return-value]


def cpu(host: Host) -> float:
    """Seconds of processor time that the daemon has used."""
    fields = Path(f"/proc/{host.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def events(host: Host, count: int, mode: str, seconds: float) -> list[float]:
    """Seconds that each of RATE events a second took to reach the kernel: half of them puts, half of them deletions."""
    amount = min(count, int(RATE * seconds / 2))
    sent: dict[tuple[str, int], float] = {}

    async def send() -> None:
        etcd = client(host)
        begin, tasks = time.perf_counter(), []

        async def one(what: str, number: int) -> None:
            sent[what, number] = time.perf_counter()
            write = lease(number, mode) if what == "came" else Delete(key(number))
            assert await etcd.transact([], write)

        for index in range(2 * amount):
            await asyncio.sleep(begin + index / RATE - time.perf_counter())
            # Who goes is not who came: a lease that comes and goes while the daemon is busy is rightly no event at all.
            event = ("came", EVENTS + index) if index < amount else ("went", index - amount)
            tasks.append(asyncio.create_task(one(*event)))
        await asyncio.gather(*tasks)
        await etcd.close()

    with Monitor(host) as monitor:
        in_etcd(host, lambda: asyncio.run(send()))
        deadline = time.monotonic() + 30
        while (missing := [one for one in sent if _done(monitor, mode, *one) is None]) and time.monotonic() < deadline:
            time.sleep(0.1)
    if missing:
        raise SystemExit(f"{len(missing)} of {len(sent)} events never reached the kernel; see {host.log_path}")
    return [done - at for one, at in sent.items() if (done := _done(monitor, mode, *one)) is not None]


def _done(monitor: Monitor, mode: str, what: str, number: int) -> float | None:
    """When the last of the peer's objects came or went."""
    base = str(subnet(number).network_address)
    names = {"route": base, "neighbour": base, "fdb": derive_mac(str(IPv4Address(PUBLIC + number)))}
    times = [monitor.seen.get((what, kind, names[kind])) for kind in OBJECTS[mode]]
    return None if None in times else max(one for one in times if one is not None)


def floor(host: Host, count: int, mode: str) -> dict[str, float]:
    """Seconds for each part of a start, alone; the host's daemon does not run, and its kernel is clean."""
    found: dict[str, float] = {}

    def timed(name: str, action: Callable[[], Any]) -> Any:
        begin = time.perf_counter()
        result = action()
        found[name] = time.perf_counter() - begin
        return result

    timed(
        "interpreter, imports",
        lambda: host.run(sys.executable, "-c", "import overlayd.daemon.daemon, overlayd.cli.overlayd"),
    )
    assert host.lab.etcd is not None
    etcdctl = host.lab.etcd
    timed("etcd range: etcdctl (gRPC, no JSON)", lambda: etcdctl.ctl("get", "--prefix", "--write-out=fields", PREFIX))

    async def read() -> tuple[list[Any], int]:
        etcd = client(host)
        result = await etcd.range(f"{PREFIX}/")
        await etcd.close()
        return result

    keys, revision = timed("etcd range: our client, decoded", lambda: in_etcd(host, lambda: asyncio.run(read())))
    assert len(keys) > count
    view = View(PREFIX, SETTINGS.modes)
    timed("keys to leases", lambda: view.load(keys, revision))
    leases = [one for one in view.leases() if one.public_ip in IPv4Network("198.16.0.0/14")]
    assert len(leases) == count
    within(host.namespace, lambda: asyncio.run(_netlink(leases, mode, found)))
    return found


async def _netlink(leases: Sequence[Lease], mode: str, found: dict[str, float]) -> None:
    local, underlay = IPv4Address("192.0.2.1"), socket.if_nametoindex("eth0")
    link = VxlanLink("ovl.1", 1450, vni=1, port=8472, local=local, underlay=underlay, mac="02:00:00:00:00:01")
    objects: list[KernelObject] = []
    for one in leases:
        assert one.subnet is not None
        assert one.public_ip is not None
        base = one.subnet.network_address
        if mode == "vxlan":
            objects += [Neighbour(link.name, base, one.vtep_mac), FdbEntry(link.name, one.vtep_mac, one.public_ip)]
            objects.append(Route(one.subnet, link.name, base, onlink=True, own_link=True))
        else:
            objects.append(Route(one.subnet, link.name, own_link=True))
    async with Netlink() as connection:
        kernel = Kernel(connection)
        foundations = state_of([link, LinkAddress(link.name, ip_interface("10.0.0.0/32"))])
        assert not await kernel.apply(diff({}, foundations))
        begin = time.perf_counter()
        operations = diff({}, state_of(objects))
        planned = time.perf_counter()
        assert not await kernel.apply(operations)
        applied = time.perf_counter()
        await connection.read()
        found["objects and their order"] = planned - begin
        found[f"kernel: {len(operations):,} netlink messages"] = applied - planned
        found["kernel: reading it all back"] = time.perf_counter() - applied
        begin = time.perf_counter()
        assert sum(dump(kind, family) for kind, family in ((26, 2), (30, 2), (30, 7))) >= len(operations)
        found["kernel: the dumps alone, not decoded"] = time.perf_counter() - begin
        assert not await kernel.apply(diff(foundations, {}))


def dump(kind: int, family: int) -> int:
    """How many objects the kernel dumps; RTM_GETROUTE is 26, RTM_GETNEIGH 30, the FDB's family AF_BRIDGE 7."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as here:
        here.bind((0, 0))
        here.send(NLMSGHDR.pack(NLMSGHDR.size + 12, kind, 0x301, 1, 0) + bytes([family]) + bytes(11))  # REQUEST, DUMP
        count = 0
        while True:
            data, offset = here.recv(1 << 18), 0
            while offset + NLMSGHDR.size <= len(data):
                length, what, *_ = NLMSGHDR.unpack_from(data, offset)
                if what == 3:  # NLMSG_DONE
                    return count
                count += 1
                offset += length + 3 & ~3


# --- the rounds -------------------------------------------------------------------------------------------------------


def measure(mode: str, count: int, rounds: int, seconds: float, table: Table) -> None:
    """Everything about one mode with so many leases, as rows."""
    settings = {"network": NETWORK}
    with hosts(1, mode=mode, containers=0, registry="etcd", start=False, settings=settings) as (host,):
        in_etcd(host, lambda: asyncio.run(fill(host, count, mode)))
        cold = [start(host, count, mode, cold=True) for _ in range(rounds)]
        again = [start(host, count, mode, cold=False) for _ in range(rounds)]
        quiet = memory(host)
        used, began = cpu(host), time.perf_counter()
        delays = sorted(events(host, count, mode, seconds))
        busy = (cpu(host) - used) / (time.perf_counter() - began)
        row = [f"{mode}, {count:,}", spread(cold), spread(again)]
        row += [f"{percentile(delays, share) * 1000:.1f}" for share in (50, 99, 100)]
        row += [f"{100 * busy:.0f} %", f"{quiet[0]:.0f}", f"{memory(host)[1]:.0f}"]
        table.add_row(*row)
        host.stop()
        start_clean(host)
        parts = [floor(host, count, mode) for _ in range(rounds)]
    for name in parts[0]:
        table.add_row(f"  floor: {name}", spread([one[name] for one in parts]))


def start_clean(host: Host) -> None:
    """Remove what the daemon left in the kernel."""
    host.run(sys.executable, "-m", "overlayd", "--config", str(host.config_path), "--cleanup", timeout=60)


def spread(values: Sequence[float]) -> str:
    """Median (min-max)."""
    return f"{statistics.median(values):.3f} ({min(values):.3f}-{max(values):.3f})"


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value that `share` percent of them do not exceed."""
    return ordered[min(len(ordered) - 1, max(0, round(len(ordered) * share / 100) - 1))]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--leases", default="1000,10000")
    parser.add_argument("--modes", default="udp,vxlan")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20, help="of events")
    given = parser.parse_args()
    title = (
        f"Leases in etcd; seconds, median (min-max) of {given.rounds}; {RATE} events a second for {given.seconds:g} s"
    )
    table = Table(title=title, title_justify="left")
    for column in ("", "cold", "restart", "event p50 ms", "p99", "max", "CPU", "MiB", "peak"):
        table.add_column(column, justify="right" if column else "left")
    for mode in given.modes.split(","):
        for count in map(int, given.leases.split(",")):
            measure(mode, count, given.rounds, given.seconds, table)
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
