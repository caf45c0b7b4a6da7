"""What is kept on disk about every lab of this machine, so that any process can end one that another left behind.

    /run/overlayd-lab/.lock             flocked while a lab is claimed, ended or reaped
    /run/overlayd-lab/NAME/lab.json     written before anything is created
    /run/overlayd-lab/NAME/leases.yaml  the lease table that all hosts share
    /run/overlayd-lab/NAME/h1/          overlayd.yaml, overlayd.log, overlayd.sock, subnet.env
    /run/overlayd-lab/NAME/etcd/        each member's data and log, and the certificates

A process is known by its pid and the time when it started, so that a recycled pid is never signalled.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from overlayd.lab.namespace import NETNS_DIR, ip_batch
from overlayd.lab.spec import LabError, LabSpec, namespace_pattern
from overlayd.system.files import write_atomically

RUN_DIR = Path("/run/overlayd-lab")
STOP_TIMEOUT = 10.0
"""Seconds that a daemon has to end after SIGTERM before it is killed."""


@dataclass(frozen=True, slots=True)
class Process:
    """One process of this machine, never its successor under the same pid."""

    pid: int
    started: int
    """Clock ticks from boot to its start (field 22 of /proc/PID/stat)."""

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The living process with that pid; a zombie is none."""
        try:
            text = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return None
        state, *fields = text.rpartition(")")[2].split()  # the command in front may hold spaces and brackets
        return None if state in "ZX" else cls(pid, int(fields[18]))

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return Process.of(self.pid) == self

    def signal(self, number: int) -> None:
        """Send it a signal; nothing happens when it has ended."""
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(self.pid)  # from here on the pid cannot be recycled under us
            try:
                if self.alive:
                    signal.pidfd_send_signal(handle, number)
            finally:
                os.close(handle)


def end(processes: Iterable[Process], timeout: float = STOP_TIMEOUT) -> None:
    """SIGTERM to all at once, SIGKILL to those that remain after `timeout` seconds."""
    waiting = list(processes)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in waiting:
            process.signal(number)
        deadline = time.monotonic() + timeout
        while (waiting := [one for one in waiting if one.alive]) and time.monotonic() < deadline:
            time.sleep(0.01)


@dataclass
class LabState:
    """The content of lab.json."""

    spec: LabSpec
    owner: Process | None
    """The lab ends with this process; None for one that stays up until it is taken down."""
    daemons: dict[str, Process] = field(default_factory=dict)
    """The overlayd of each host that has one."""
    etcd: dict[str, Process] = field(default_factory=dict)
    """The members of the lab's etcd that have been started."""

    @property
    def directory(self) -> Path:
        """The lab's runtime directory."""
        return RUN_DIR / self.spec.name

    @property
    def orphaned(self) -> bool:
        """Whether the lab belongs to a process that is gone."""
        return self.owner is not None and not self.owner.alive

    def save(self) -> None:
        """Write lab.json at once and whole."""
        data = {
            "spec": self.spec.mapping(),
            "owner": _pair(self.owner),
            "daemons": {name: _pair(process) for name, process in self.daemons.items()},
            "etcd": {name: _pair(process) for name, process in self.etcd.items()},
        }
        write_atomically(self.directory / "lab.json", json.dumps(data, indent=1))

    @classmethod
    def load(cls, name: str) -> LabState | None:
        """The state of the lab, or None where there is none that can be read."""
        try:
            data = json.loads((RUN_DIR / name / "lab.json").read_text())
            owner = data["owner"]
            daemons, etcd = (
                {name: Process(*pair) for name, pair in data.get(kind, {}).items()} for kind in ("daemons", "etcd")
            )
            return cls(LabSpec(**data["spec"]), Process(*owner) if owner else None, daemons, etcd)
        except (FileNotFoundError, ValueError, KeyError, TypeError, LabError):
            return None


def _pair(process: Process | None) -> list[int] | None:
    return [process.pid, process.started] if process else None


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Hold the machine's lab lock."""
    RUN_DIR.mkdir(mode=0o755, parents=True, exist_ok=True)
    with (RUN_DIR / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def names() -> list[str]:
    """The labs that have a runtime directory, sorted."""
    return sorted(path.name for path in RUN_DIR.iterdir() if path.is_dir()) if RUN_DIR.is_dir() else []


def namespaces(lab: str) -> list[str]:
    """The lab's namespaces that exist, sorted."""
    pattern = namespace_pattern(lab)
    found = (path.name for path in NETNS_DIR.iterdir()) if NETNS_DIR.is_dir() else iter(())
    return sorted(name for name in found if pattern.fullmatch(name))


def processes_in(namespace_names: Iterable[str]) -> list[Process]:
    """The processes that live in these namespaces (`ip netns pids` for all of them in one pass), never this one."""
    wanted = set()
    for name in namespace_names:
        with contextlib.suppress(OSError):
            status = (NETNS_DIR / name).stat()
            wanted.add((status.st_dev, status.st_ino))
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            status = (path / "ns/net").stat()
        except OSError:
            continue
        if (status.st_dev, status.st_ino) in wanted and int(path.name) != os.getpid():
            found.append(Process.of(int(path.name)))
    return [process for process in found if process]


def remove(lab: str) -> None:
    """End everything that is left of a lab: daemons, all other processes in its namespaces, namespaces, directory.

    Call it with the lock held. Works from whatever part exists, also when lab.json does not.
    """
    state = LabState.load(lab)
    if state is not None:
        end(state.daemons.values())  # while their etcd, which is killed below, still answers
    existing = namespaces(lab)
    for process in (remaining := processes_in(existing)):
        process.signal(signal.SIGKILL)
    end(remaining)
    if existing:
        ip_batch(f"netns delete {name}" for name in existing)
    shutil.rmtree(RUN_DIR / lab, ignore_errors=True)


def reap() -> list[str]:
    """End every lab whose owner is gone, and directories without lab.json; returns their names. Takes the lock."""
    with locked():
        return reap_locked()


def reap_locked() -> list[str]:
    """`reap` for a caller that holds the lock."""
    dead = []
    for name in names():
        state = LabState.load(name)
        if state.orphaned if state else not (RUN_DIR / name / "lab.json").exists():
            remove(name)
            dead.append(name)
    return dead
