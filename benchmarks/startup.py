"""How quick a daemon's start is, and how small the daemon: two hosts, a static table, no service manager.

    sudo .venv/bin/python benchmarks/startup.py [--modes udp,vxlan] [--rounds 7] [CHECKOUT ...]

first     the daemon is executed on a host with nothing in the kernel -> a container has its first answer
work      processor time that the daemon has used until then: what `first` would be on a quiet machine, about
pause     the daemon is stopped, and executed again as soon as it has ended: the longest time without an answer
memory    private memory (Private_Clean and Private_Dirty of smaps_rollup) of the daemon, some seconds after its start

A checkout is a clone with its .venv; without any, this one is measured. Each round measures all of them in turn.
A round before the first compiles their bytecode, as the packages do.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from overlayd.lab import Host, hosts

HERE = Path(__file__).resolve().parents[1]
EVERY = 0.002  # seconds between questions
PORT = 7777
IDLE_AFTER = 1.5  # seconds
TIMEOUT = 20.0  # seconds


class Asker:
    """One container asks another every 2 ms, and notes when answers come."""

    def __init__(self, a: Host, b: Host) -> None:
        self._asking, self._answering = (host.container(0).socket(socket.AF_INET, socket.SOCK_DGRAM) for host in (a, b))
        self._answering.bind(("0.0.0.0", PORT))
        self._to = str(b.container(0).address()), PORT
        self.answers: list[float] = []
        self._ended = False

    def __enter__(self) -> Asker:
        self._threads = [threading.Thread(target=one) for one in (self._ask, self._answer, self._note)]
        for sock in (self._asking, self._answering):
            sock.settimeout(0.1)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        for thread in self._threads:
            thread.join()
        for sock in (self._asking, self._answering):
            sock.close()

    def _ask(self) -> None:
        while not self._ended:
            with suppress(OSError):  # an ICMP error of before
                self._asking.sendto(b"?", self._to)
            time.sleep(EVERY)

    def _answer(self) -> None:
        while not self._ended:
            try:
                self._answering.sendto(*self._answering.recvfrom(16))
            except OSError:
                continue

    def _note(self) -> None:
        while not self._ended:
            try:
                self._asking.recv(16)
            except OSError:
                continue
            self.answers.append(time.monotonic())

    def wait(self, since: float) -> float:
        """When the first answer after `since` came."""
        while not self.answers or self.answers[-1] < since:
            if time.monotonic() > since + TIMEOUT:
                raise SystemExit("no answer: see the daemon's log")
            time.sleep(EVERY)
        return next(at for at in self.answers if at >= since)


@contextmanager
def daemon(checkout: Path, host: Host, bytecode: str) -> Iterator[subprocess.Popen[bytes]]:
    """The checkout's, started. `bytecode`: a directory for it."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OVERLAYD_", "PYTHON"))}
    environment |= {"PYTHONPATH": str(checkout), "PYTHONPYCACHEPREFIX": bytecode}
    command = host.enter(str(checkout / ".venv/bin/python"), "-m", "overlayd", "--config", str(host.config_path))
    with host.log_path.open("ab") as log:
        child = subprocess.Popen(command, stdout=log, stderr=log, cwd=checkout, env=environment)
    try:
        yield child
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait()


def private(pid: int) -> float:
    """Megabytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty"))) / 1024


def processor_time(pid: int) -> float:
    """Seconds, of the threads that there are."""
    return sum(int(one.read_text().split()[0]) for one in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def measure(checkout: Path, mode: str, bytecode: str) -> dict[str, float]:
    """One run, in a lab of its own."""
    with hosts(2, mode=mode, start=False) as (a, b):
        b.start()
        with Asker(a, b) as asker:
            start = time.monotonic()
            with daemon(checkout, a, bytecode) as first:
                seen = {"first": asker.wait(start) - start, "work": processor_time(first.pid)}
                time.sleep(IDLE_AFTER)
                seen["memory"] = private(first.pid)
            with daemon(checkout, a, bytecode):
                asker.wait(time.monotonic() + 0.5)
            after = [at for at in asker.answers if at >= start + seen["first"]]
        seen["pause"] = max(later - earlier for earlier, later in pairwise(after))
    return seen


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", metavar="CHECKOUT", type=Path, nargs="*", default=[HERE])
    parser.add_argument("--modes", default="udp,vxlan")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    for mode in given.modes.split(","):
        runs: dict[Path, list[dict[str, float]]] = {checkout.resolve(): [] for checkout in given.checkouts}
        with TemporaryDirectory() as bytecode:
            for _ in range(1 + given.rounds):
                for checkout, results in runs.items():
                    results.append(measure(checkout, mode, bytecode))
        for checkout, (_, *results) in runs.items():
            print(f"{mode}  {checkout}")
            for name, unit in (("first", "s"), ("work", "s"), ("pause", "s"), ("memory", "MB")):
                values = [one[name] for one in results]
                print(f"  {name:7} {statistics.median(values):6.2f} ({min(values):.2f}-{max(values):.2f}) {unit}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
