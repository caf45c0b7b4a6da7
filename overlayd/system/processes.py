"""Daemons on this host: who they are, and which unit of systemd runs them."""

from __future__ import annotations

import os
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from overlayd.system.errors import HostError
from overlayd.system.units import systemctl

_STOP_TIMEOUT = 30.0  # seconds
_POLL = 0.02  # seconds


class DaemonProcess(NamedTuple):
    """A daemon that runs on this host."""

    name: str
    pid: int
    unit: str | None
    """The unit of systemd that runs it."""

    def __str__(self) -> str:
        return f"{self.name} ({self.whereabouts})"

    @property
    def whereabouts(self) -> str:
        """Its process, and the unit that runs it."""
        return f"process {self.pid}, {self.unit or 'not a unit of systemd'}"

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return Path(f"/proc/{self.pid}").exists()

    def stop(self) -> None:
        """Stop its unit, and wait for the process to end. Raises HostError; of one that has no unit, too."""
        if self.unit is None:
            raise HostError(f"{self} is not run by systemd: stop it (kill {self.pid}), then repeat this command")
        systemctl("stop", self.unit)
        until = time.monotonic() + _STOP_TIMEOUT
        while self.alive:
            if time.monotonic() > until:
                raise HostError(f"{self} still runs {_STOP_TIMEOUT:.0f} s after systemctl stop {self.unit}")
            time.sleep(_POLL)


def find(name: str) -> DaemonProcess | None:
    """A process of that name in this network namespace. One that this process must not look into is not found."""
    here = Path("/proc/self/ns/net").stat()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "comm").read_text().strip() == name and os.path.samestat((entry / "ns/net").stat(), here):
                return of(name, int(entry.name))
        except OSError:  # it has ended, or is none of our business
            continue
    return None


def is_here(pid: int) -> bool:
    """Whether the process is in this network namespace, as far as this process may know."""
    try:
        return os.path.samestat(Path(f"/proc/{pid}/ns/net").stat(), Path("/proc/self/ns/net").stat())
    except OSError:
        return True


def has_port(pid: int, port: int) -> bool:
    """Whether the process, of this network namespace, has a UDP or TCP socket on this local port (proc_net(5))."""
    inodes = set()
    for table in ("udp", "udp6", "tcp", "tcp6"):
        with suppress(OSError):  # a kernel without IPv6
            for line in Path("/proc/self/net", table).read_text().splitlines()[1:]:
                fields = line.split()
                if int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    try:
        return any(_target(entry) in inodes for entry in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


def _target(link: Path) -> str:
    try:
        return os.readlink(link)  # noqa: PTH115  # it names no path
    except OSError:  # closed meanwhile
        return ""


def of(name: str, pid: int) -> DaemonProcess:
    """The process with this id, and its unit if that is one of the daemon's own (by name)."""
    try:
        groups = Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        groups = ""
    match = re.search(r"/(\w[^/\n]*\.service)$", groups, re.MULTILINE)
    own = match is not None and match[1].startswith(name.removesuffix("d")) and shutil.which("systemctl")
    return DaemonProcess(name, pid, match[1] if match is not None and own else None)
