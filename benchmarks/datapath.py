"""The ways between containers on two hosts, in turns: no overlay, kernel VXLAN, and udp mode with each engine.

    sudo .venv/bin/python benchmarks/datapath.py [--rounds 5] [--seconds 2] [--only tcp1,rr] [--frames 1500|any]

Every way has a lab of its own, all of them up at once; a round measures each way once, and ratios are taken to kernel
VXLAN of the same round. A figure that was taken while the machine was busy with something else is taken again.
Frames "any": the underlay carries superpackets uncut, which flatters the kernel's ways. TCP is cubic.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from overlayd.lab import Host, LabError, hosts
from overlayd.lab.measure import throughput, transactions

WAYS: dict[str, dict[str, object]] = {
    "vxlan": {"mode": "vxlan"},
    "host-gw": {"mode": "host-gw"},
    "udp, python engine": {"mode": "udp", "settings": {"udp": {"engine": "python"}}},
    "udp, native engine": {"mode": "udp", "settings": {"udp": {"engine": "native"}}},
    "udp, native engine, wire: overlayd": {
        "mode": "udp",
        "settings": {"udp": {"engine": "native"}},
        "wire": "overlayd",
    },
    "udp, native engine, busy_poll_us 50": {
        "mode": "udp",
        "settings": {"udp": {"engine": "native", "busy_poll_us": 50}},
    },
}
BASE = "vxlan"
PORT = 5202
FRAMES_ONLY = ("tso", "gso", "gro", "tx-udp-segmentation", "tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation")
"""What makes a veth carry superpackets; "gso" alone leaves those of UDP, plain and tunnelled."""
IDLE = 0.8
_TICKS = os.sysconf("SC_CLK_TCK")


def tcp(streams: int) -> Callable[[Host, Host, float], float]:
    """Gbit/s."""

    def measure(a: Host, b: Host, seconds: float) -> float:
        extra = ("-P", str(streams)) if streams > 1 else ()
        return (
            throughput(a.container(0), b.container(0), b.container(0).address(), seconds, extra=extra).bits_per_second
            / 1e9
        )

    return measure


def flood(address: str, seconds: float) -> None:
    """Send 64 bytes as fast as possible."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.connect((address, PORT))
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for _ in range(1000):
                with contextlib.suppress(OSError):
                    out.send(bytes(64))


def sink(seconds: float) -> None:
    """Print how many thousand datagrams a second came, from the first on."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
        here.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
        here.bind(("0.0.0.0", PORT))
        here.settimeout(10)
        buffer, count = bytearray(64), 0
        print("listening", flush=True)
        here.recv_into(buffer)
        begin = time.monotonic()
        while time.monotonic() < begin + seconds:
            for _ in range(100):
                here.recv_into(buffer)
                count += 1
        print(count / (time.monotonic() - begin) / 1e3)


def udp64(a: Host, b: Host, seconds: float) -> float:
    """Thousand packets a second that a program received."""
    program = (sys.executable, str(Path(__file__).resolve()))
    taker = b.container(0).popen(*program, "--sink", str(seconds), stdout=subprocess.PIPE, text=True)
    assert taker.stdout is not None
    taker.stdout.readline()
    giver = a.container(0).popen(*program, "--flood", str(b.container(0).address()), "--seconds", str(seconds + 0.5))
    try:
        return float(taker.stdout.readline())
    finally:
        for process in (giver, taker):
            process.kill()
            process.wait()


def iperf64(a: Host, b: Host, seconds: float) -> float:
    """Thousand packets a second received, as iperf3 sends and receives them: it is the bottleneck itself."""
    extra = ("-u", "-b", "0", "-l", "64")
    return (
        throughput(a.container(0), b.container(0), b.container(0).address(), seconds, extra=extra).bits_per_second
        / 512e3
    )


def rr(a: Host, b: Host, seconds: float) -> float:
    """Thousand transactions a second."""
    return transactions(a.container(0), b.container(0), b.container(0).address(), seconds).per_second / 1e3


FIGURES: dict[str, tuple[str, Callable[[Host, Host, float], float]]] = {
    "tcp1": ("TCP x1, Gbit/s", tcp(1)),
    "tcp4": ("TCP x4, Gbit/s", tcp(4)),
    "udp64": ("UDP 64 B, thousand/s", udp64),
    "iperf64": ("UDP 64 B by iperf3, thousand/s", iperf64),
    "rr": ("TCP_RR, thousand/s", rr),
}


def busy(interval: float = 0.2) -> float:
    """The share of all processors' time that was used over the interval."""

    def sample() -> tuple[int, int]:
        fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
        return sum(fields[:8]), fields[3] + fields[4]

    before = sample()
    time.sleep(interval)
    after = sample()
    total = after[0] - before[0]
    return 1 - (after[1] - before[1]) / total if total else 0.0


def wait_idle(patience: float) -> bool:
    """Wait until the machine is idle, but not for ever; whether it is."""
    end = time.monotonic() + patience
    while busy() > 1 - IDLE:
        if time.monotonic() > end:
            return False
    return True


def cpu_seconds(host: Host) -> float:
    """What the daemon has used."""
    fields = Path(f"/proc/{host.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def run(offloads: bool, rounds: int, seconds: float, names: list[str], patience: float) -> None:
    """One setting of the underlay: build the labs, measure in turns, print the tables."""
    figures = {name: {way: [] for way in WAYS} for name in names}
    cost: dict[str, list[float]] = {way: [] for way in WAYS}
    rss: dict[str, int] = {}
    disturbed = 0
    with contextlib.ExitStack() as stack:
        labs = {way: stack.enter_context(hosts(2, **spec)) for way, spec in WAYS.items()}
        for host in () if offloads else (host for lab in labs.values() for host in lab):
            host.run("ethtool", "-K", "eth0", *(word for name in FRAMES_ONLY for word in (name, "off")))
        for _ in range(rounds):
            for name in names:
                for way, (a, b) in labs.items():
                    disturbed += not wait_idle(patience)
                    before = cpu_seconds(a) + cpu_seconds(b)
                    try:
                        value = FIGURES[name][1](a, b, seconds)
                    except LabError as error:
                        Console().print(f"{way}, {name}: {error}")
                        value = float("nan")
                    figures[name][way].append(value)
                    if name == "tcp1":
                        cost[way].append(
                            (cpu_seconds(a) + cpu_seconds(b) - before) / (value * max(1, round(seconds)) / 8)
                        )
        for way, (a, _) in labs.items():
            status = Path(f"/proc/{a.pid}/status").read_text()
            rss[way] = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) // 1024
    frames = "superpackets cross the underlay" if offloads else "frames of 1500 bytes"
    for name in names:
        show(f"{FIGURES[name][0]} - {frames}", figures[name])
    if "tcp1" in names:
        show("Daemons' CPU seconds per GB, both hosts", cost, 3)
    print("RSS of a daemon, MiB:", ", ".join(f"{way} {value}" for way, value in rss.items()))
    print(f"measured while the machine was less than {IDLE:.0%} idle before: {disturbed}\n")


def show(title: str, values: dict[str, list[float]], digits: int = 2) -> None:
    """A table: median, min-max, median ratio to BASE of the same round."""
    table = Table(title=title, title_justify="left")
    for column in ("", "median", "min-max", f"of {BASE}"):
        table.add_column(column, justify="left" if not column else "right")
    for way, mine in values.items():
        ratios = [one / base for one, base in zip(mine, values[BASE], strict=True) if base]
        ratio = f"{statistics.median(ratios):.2f}" if ratios else ""
        table.add_row(
            way, f"{statistics.median(mine):.{digits}f}", f"{min(mine):.{digits}f}-{max(mine):.{digits}f}", ratio
        )
    Console().print(table)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--only", default="tcp1,tcp4,udp64,rr", help=f"of {','.join(FIGURES)}")
    parser.add_argument("--frames", choices=("any", "1500", "both"), default="both")
    parser.add_argument("--patience", type=float, default=20, help="seconds to wait for an idle machine")
    parser.add_argument("--sink", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--flood", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.sink:
        sink(given.sink)
        return
    if given.flood:
        flood(given.flood, given.seconds)
        return
    for offloads in {"any": (True,), "1500": (False,), "both": (True, False)}[given.frames]:
        run(offloads, given.rounds, given.seconds, given.only.split(","), given.patience)


if __name__ == "__main__":
    main()
