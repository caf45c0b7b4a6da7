"""A network namespace, and commands, sockets, kernel settings and batches of `ip` inside it.

Commands enter through nsenter: `ip netns exec` would remount /sys, which hides /sys/fs/cgroup from what runs there.
A user's command gets a /sys of the namespace with the machine's cgroups in it: `enter_with_sys`.
Names: h1c1 on the command line is the namespace ovl-lab-h1c1 on this machine.
"""

from __future__ import annotations

import ctypes
import os
import re
import shlex
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from overlayd.core.address import Address
from overlayd.lab.spec import LabError

NETNS_DIR = Path("/run/netns")
CLONE_NEWNET = 0x40000000  # <linux/sched.h>

Echo = Callable[[str], None]
T = TypeVar("T")

_PACKAGES = {
    "ip": "iproute2",
    "nsenter": "util-linux",
    "ethtool": "ethtool",
    "ping": "iputils-ping",
    "iperf3": "iperf3",
    "etcd": "etcd-server",
    "etcdctl": "etcd-client",
    "setpriv": "util-linux",
    "rsvg-convert": "librsvg2-bin",
    "wg": "wireguard-tools",
    "nebula-cert": "nebula",
    "unshare": "util-linux",
}


_MOUNT_SYS = """
exec 3</sys/fs/cgroup && mount -t sysfs sysfs /sys && mount -c --rbind /proc/self/fd/3 /sys/fs/cgroup || exit
exec 3<&-
exec "$@"
"""
"""sysfs shows the interfaces of the network namespace that it is mounted in. -c: the descriptor, not the path that it
was opened by, which the new /sys hides."""


def silent(line: str) -> None:
    """An echo that prints nothing."""


def need_root() -> None:
    """Raise LabError unless this process may make namespaces."""
    if os.geteuid() != 0:
        raise LabError("a lab makes network namespaces, which needs root: run with sudo")


def need_tools(*names: str) -> None:
    """Raise LabError that names each missing program with the Debian package that has it."""
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        packages = " ".join(_PACKAGES.get(name, name) for name in missing)
        raise LabError(f"{', '.join(missing)} not found: apt install {packages}")


def ip_batch(lines: Iterable[str], namespace: str | None = None, echo: Echo = silent) -> None:
    """Run the lines as one `ip -batch`, in the namespace if one is named; raises LabError that quotes the bad line."""
    commands = list(lines)
    argv = ["ip", *(("-n", namespace) if namespace else ()), "-batch", "-"]
    for line in commands:
        echo(f"{' '.join(argv[:-2])} {line}")
    done = subprocess.run(argv, input="\n".join(commands) + "\n", text=True, capture_output=True)
    if done.returncode:
        at = re.search(r"Command failed -:(\d+)", done.stderr)
        command = commands[int(at[1]) - 1] if at else "-batch"
        raise LabError(f"`{' '.join(argv[:-2])} {command}` failed: {done.stderr.strip().splitlines()[0]}")


def within(namespace: str, action: Callable[[], T]) -> T:
    """The result of `action`, called by a thread that has moved into the namespace and ends with the call.

    setns is per thread, so that the rest of this process stays where it is.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def enter() -> None:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            with (NETNS_DIR / namespace).open() as handle:
                if libc.setns(handle.fileno(), CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), f"setns into {namespace}")
            results.append(action())
        except BaseException as error:  # handed to the caller below
            errors.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


class Namespace:
    """One namespace: the base of hosts and containers, and the switch."""

    def __init__(self, name: str, namespace: str, echo: Echo = silent) -> None:
        self.name = name
        """Its name on the command line: h1, h1c1, switch."""
        self.namespace = namespace
        """Its name on this machine."""
        self._echo = echo
        self._children: list[subprocess.Popen[Any]] = []

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} in {self.namespace}>"

    def enter(self, *argv: str) -> list[str]:
        """The command line that runs `argv` in here. /sys stays the machine's: its interfaces, not this namespace's."""
        return ["nsenter", f"--net={NETNS_DIR / self.namespace}", *argv]

    def enter_with_sys(self, *argv: str) -> list[str]:
        """The command line that runs `argv` in here with this namespace's own /sys, in a mount namespace of its own."""
        return self.enter("unshare", "--mount", "--propagation", "slave", "sh", "-c", _MOUNT_SYS, "sh", *argv)

    def inside(self, action: Callable[[], T]) -> T:
        """The result of `action`, called in here; this process's other threads stay where they are."""
        return within(self.namespace, action)

    def run(
        self,
        *argv: str,
        check: bool = True,
        timeout: float = 20,
        input: str | None = None,  # noqa: A002  # subprocess's word
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in here and wait. Raises LabError after `timeout` seconds, and on failure if `check`."""
        self._echo(shlex.join(self.enter(*argv)))
        try:
            done = subprocess.run(self.enter(*argv), capture_output=True, text=True, timeout=timeout, input=input)
        except subprocess.TimeoutExpired:
            raise LabError(f"{self.name}: `{shlex.join(argv)}` has not ended in {timeout} s") from None
        if check and done.returncode:
            said = (done.stderr.strip() or done.stdout.strip())[-2000:]
            raise LabError(f"{self.name}: `{shlex.join(argv)}` ended with status {done.returncode}: {said}")
        return done

    def popen(self, *argv: str, **keywords: Any) -> subprocess.Popen[Any]:
        """Start a command in here; what still runs is killed with the lab. Keywords are subprocess.Popen's."""
        self._echo(shlex.join(self.enter(*argv)) + " &")
        child: subprocess.Popen[Any] = subprocess.Popen(self.enter(*argv), **keywords)
        self._children.append(child)
        return child

    def socket(self, family: int, type: int, proto: int = 0) -> socket.socket:  # noqa: A002  # socket's word
        """A socket that lives in here, for tests that inject datagrams or capture frames (AF_PACKET)."""
        return self.inside(lambda: socket.socket(family, type, proto))

    def ip(self, *lines: str) -> None:
        """Run lines of `ip` in here, as one batch."""
        ip_batch(lines, self.namespace, self._echo)

    def sysctl(self, values: Mapping[str, object]) -> None:
        """Set kernel settings of this namespace, named by path: {"net/ipv4/ip_forward": 1}."""

        def write() -> None:
            for key, value in values.items():
                Path("/proc/sys", key).write_text(f"{value}\n")

        self._echo(shlex.join(self.enter("sysctl", "-w", *(f"{key}={value}" for key, value in values.items()))))
        try:
            self.inside(write)
        except OSError as error:
            raise LabError(f"{self.name}: {error.filename} cannot be set: {error.strerror}") from None

    def read_sysctl(self, key: str) -> str:
        """The value of a kernel setting in this namespace."""
        return self.inside(lambda: Path("/proc/sys", key).read_text().strip())

    def ping(
        self,
        address: Address | str,
        count: int = 1,
        timeout: float = 2,
        size: int | None = None,
        dont_fragment: bool = False,
    ) -> bool:
        """Whether every one of `count` echo requests is answered within `timeout` seconds.

        `size` is bytes of IP packet, headers included, so that it compares with an MTU.
        """
        need_tools("ping")
        argv = ["ping", "-n", "-q", "-i", "0.02", "-c", str(count), "-W", str(timeout)]
        if size is not None:
            argv += ["-s", str(size - (48 if ":" in str(address) else 28))]  # IP and ICMP headers
        if dont_fragment:
            argv += ["-M", "do"]
        done = self.run(*argv, str(address), check=False, timeout=timeout * count + 10)
        return done.returncode == 0 and f" {count} received" in done.stdout

    def settle(self) -> None:
        """Collect the exit statuses of children that have been killed; call it when nothing runs in here any more."""
        for child in self._children:
            child.wait()
            for stream in (child.stdin, child.stdout, child.stderr):
                if stream is not None:
                    stream.close()
        self._children.clear()
