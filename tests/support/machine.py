"""A machine: Debian with systemd as PID 1, and a disk that outlives a reboot. There are two kinds: Nspawn, which
systemd-nspawn boots in a network namespace, and the virtual machines of tests/vm.

    debian(), installed()    Debian's root (mmdebstrap), once for each list of packages; `make install` on top of it
    machines()               two of them, and a container on each:

        a-c1 10.1.1.2 -- br0 10.1.1.1 [a] eth0 192.0.2.1 == switch == eth0 192.0.2.2 [b] br0 10.1.2.1 -- b-c1 10.1.2.2
             fd00:10:1:1::2   ...::1       2001:db8::1                2001:db8::2        fd00:10:1:2::1      ...::2

The network is made from outside, as a provider's is; systemd, the unit files and the daemon are the real ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from overlayd.lab import LabError, Namespace
from overlayd.lab.namespace import ip_batch, need_tools

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = "systemd systemd-sysv dbus python3 iproute2 nftables make"
BOOT = 60.0
"""Seconds to boot; half a second is usual."""
_CGROUPS = [path for path in map(Path, ("/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified")) if path.is_dir()] or [
    Path("/sys/fs/cgroup")
]

MINE = "# the administrator's own\n"
OVERLAYD_YAML = """\
network: 10.1.0.0/16
ipv6_network: fd00:10:1::/48
leases_file: leases.yaml
"""
LEASES_YAML = """\
leases:
  - name: a
    subnet: 10.1.1.0/24
    ipv6_subnet: fd00:10:1:1::/64
    public_ip: 192.0.2.1
    public_ipv6: 2001:db8::1
  - name: b
    subnet: 10.1.2.0/24
    ipv6_subnet: fd00:10:1:2::/64
    public_ip: 192.0.2.2
    public_ipv6: 2001:db8::2
"""


def _mount(*argv: str) -> None:
    subprocess.run(["mount", *argv], check=True)


def debian(packages: str = PACKAGES) -> Path:
    """Debian's root, of this machine's own release and from its own mirror; kept in build/."""
    codename = platform.freedesktop_os_release()["VERSION_CODENAME"]
    kind = hashlib.sha256(f"{codename} {packages}".encode()).hexdigest()[:12]
    root = ROOT / "build" / "machines" / kind
    if not root.exists():
        need_tools("mmdebstrap")
        making = root.with_name(f"{kind}.{os.getpid()}")
        making.parent.mkdir(parents=True, exist_ok=True)
        include = ",".join(packages.split())
        try:
            subprocess.run(
                ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={include}", codename, str(making)],
                check=True,
                timeout=300,
            )
            with contextlib.suppress(OSError):  # another run was quicker
                making.rename(root)
        finally:
            shutil.rmtree(making, ignore_errors=True)
    return root


def installed(stage: Path) -> None:
    """What `make install` puts into the root of a machine, put into `stage`, with Debian's own Python."""
    command = ["make", "-C", str(ROOT), "install", f"DESTDIR={stage}", "SYSTEM_PYTHON=/usr/bin/python3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{done.stdout[-1000:]}\n{done.stderr[-3000:]}"


class Machine(Namespace):
    """One machine, of either kind. `run` and `ip` are in its network, `sh` is inside it; its container is a namespace
    of this machine's in any case."""

    SERVICE = "WatchdogSec=3s\n"
    """What its unit has that others' have not: tests have no time to wait for the unit's own 10 s."""

    def __init__(self, number: int, switch: Namespace, layers: list[Path], disk: Path) -> None:
        name = disk.name
        namespace = f"{switch.namespace}-{name}"
        super().__init__(name, namespace)
        self.number = number
        self._switch = switch
        self.container = Namespace(f"{name}-c1", f"{namespace}-c1")
        self._root = disk / "root"
        self._disk = disk
        disk.mkdir()
        _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", str(disk))
        for part in ("root", "upper", "work"):
            (disk / part).mkdir()
        lower = ":".join(map(str, layers))
        _mount(
            "-t", "overlay", "-o", f"lowerdir={lower},upperdir={disk}/upper,workdir={disk}/work", name, str(self._root)
        )
        self.write("/etc/machine-id", hashlib.md5(namespace.encode(), usedforsecurity=False).hexdigest() + "\n")
        self.write("/etc/hostname", name + "\n")

    def write(self, path: str, text: str) -> None:
        """Put a file onto its disk."""
        file = self._root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def put(self, file: Path) -> str:
        """Copy a file of this machine's onto its disk; where it is there."""
        copied = self._root / "root" / file.name
        shutil.copyfile(file, copied)
        return f"/root/{file.name}"

    def unpack(self, tree: Path, path: str) -> None:
        """Copy a tree of files onto its disk."""
        subprocess.run(["cp", "--archive", f"{tree}/.", f"{self._root}{path}"], check=True)

    def set_up_service(self) -> None:
        """What `make install` does by itself where the system that it installs to is the one that runs."""
        self.sh("systemd-sysusers", "/usr/local/lib/sysusers.d/overlayd.conf")
        self.sh("systemd-tmpfiles", "--create", "/usr/local/lib/tmpfiles.d/overlayd.conf")
        self.sh("systemctl", "daemon-reload")

    def configure(self) -> None:
        """Put overlayd's configuration onto its disk."""
        self.write("/etc/overlayd/overlayd.yaml", OVERLAYD_YAML)
        self.write("/etc/overlayd/leases.yaml", LEASES_YAML)

    def exists(self, path: str) -> bool:
        """Whether there is such a file inside; /run too."""
        return self.sh("test", "-e", path, check=False).returncode == 0

    # --- power -------------------------------------------------------------------------------------------------------

    def plug_in(self) -> None:
        """Make its network, and its container's: br0 is a container engine's bridge."""
        raise NotImplementedError

    def power_on(self) -> None:
        """Start it."""
        raise NotImplementedError

    def await_boot(self) -> None:
        """Wait until systemd has started what is to be started. Raises LabError with what its console shows."""
        raise NotImplementedError

    def boot(self) -> None:
        """Start it, and wait."""
        self.power_on()
        self.await_boot()

    def cut_power(self) -> None:
        """End it without a word, and all that it had in its kernel; its disk stays."""
        raise NotImplementedError

    def network(self) -> list[str]:
        """What it does, in lines of `ip`, with eth0 and with c1, the near end of its container's cable."""
        n = self.number
        return [
            "link set lo up",
            "link add br0 type bridge",
            f"addr add 10.1.{n}.1/24 dev br0",
            f"addr add fd00:10:1:{n}::1/64 dev br0 nodad",
            "link set br0 up",
            "link set c1 master br0 up",
            f"addr add 192.0.2.{n}/24 dev eth0",
            f"addr add 2001:db8::{n}/64 dev eth0 nodad",
            "link set eth0 up",
        ]

    def container_network(self) -> list[str]:
        """What its container does with its own eth0."""
        n = self.number
        return [
            "link set lo up",
            f"addr add 10.1.{n}.2/24 dev eth0",
            f"addr add fd00:10:1:{n}::2/64 dev eth0 nodad",
            "link set eth0 up",
            f"route add default via 10.1.{n}.1",
            f"route add default via fd00:10:1:{n}::1",
        ]

    def console(self) -> str:
        """The last lines on its console."""
        return (self._disk / "console").read_text(errors="replace")[-2000:]

    def scrap(self) -> None:
        """Take everything away."""
        self.cut_power()
        for path in (self._root, self._disk):
            subprocess.run(["umount", "--lazy", str(path)], check=True)

    # --- inside ------------------------------------------------------------------------------------------------------

    def sh(
        self,
        *argv: str,
        check: bool = True,
        timeout: float = 60,
        input: str | None = None,  # noqa: A002  # subprocess's word
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside the machine, as root. Raises LabError with what it said."""
        raise NotImplementedError

    def show(self, unit: str, what: str) -> str:
        """A property of a unit."""
        return self.sh("systemctl", "show", "--value", "--property", what, unit).stdout.strip()

    def journal(self, unit: str) -> str:
        """What a unit has said since the boot."""
        return self.sh("journalctl", "--boot", "--no-pager", "--output=cat", "--unit", unit).stdout


class Nspawn(Machine):
    """One that systemd-nspawn boots, on this machine's own kernel."""

    def __init__(self, number: int, switch: Namespace, layers: list[Path], disk: Path) -> None:
        super().__init__(number, switch, layers, disk)
        self._nspawn: subprocess.Popen[bytes] | None = None
        self.leader = 0
        os.mknod(disk / "tun", 0o20666, os.makedev(10, 200))  # a usual Debian has it 0666
        (disk / "tun").chmod(0o666)

    def plug_in(self) -> None:
        ip_batch([f"netns add {self.namespace}", f"netns add {self.container.namespace}"])
        self.ip(
            f"link add c1 type veth peer name eth0 netns {self.container.namespace}",
            f"link add eth0 type veth peer name {self.name} netns {self._switch.namespace}",
            *self.network(),
        )
        self._switch.ip(f"link set dev {self.name} master br0 up")
        self.container.ip(*self.container_network())

    def power_on(self) -> None:
        for cgroup in _CGROUPS:
            (cgroup / self.namespace).mkdir(exist_ok=True)

        def enter() -> None:
            for cgroup in _CGROUPS:
                (cgroup / self.namespace / "cgroup.procs").write_text("0")

        self._nspawn = subprocess.Popen(
            [
                "systemd-nspawn", "--quiet", f"--directory={self._root}", f"--machine={self.namespace}", "--boot",
                "--register=no", "--keep-unit", f"--network-namespace-path=/run/netns/{self.namespace}",
                "--capability=CAP_NET_ADMIN,CAP_NET_RAW", "--system-call-filter=bpf",
                f"--bind={self._disk}/tun:/dev/net/tun", "--console=pipe",
            ],
            stdin=subprocess.DEVNULL,
            stdout=(self._disk / "console").open("ab"),
            stderr=subprocess.STDOUT,
            preexec_fn=enter,
            env={
                **os.environ,
                "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",  # without these two DeviceAllow= is not enforced,
                "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network",  # and /proc/sys/net cannot be written
                "SYSTEMD_NSPAWN_LOCK": "0",
            },
        )  # fmt: skip

    def await_boot(self) -> None:
        assert self._nspawn is not None
        deadline = time.monotonic() + BOOT
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children")
        while True:
            with contextlib.suppress(OSError, IndexError, LabError):
                self.leader = int(children.read_text().split()[0])
                state = self.sh("systemctl", "is-system-running", "--wait", check=False).stdout.strip()
                if state in ("running", "degraded"):
                    return
            if time.monotonic() > deadline or self._nspawn.poll() is not None:
                raise LabError(f"{self.name} has not booted: {self.console()}")
            time.sleep(0.05)

    def cut_power(self) -> None:
        if self._nspawn is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.leader, signal.SIGKILL)
            try:
                self._nspawn.wait(20)
            except subprocess.TimeoutExpired:
                self._nspawn.kill()
                self._nspawn.wait()
            self._nspawn = None
        with contextlib.suppress(LabError):  # at once, where the namespace is taken down in the background
            self._switch.ip(f"link del dev {self.name}")
        for namespace in (self.container.namespace, self.namespace):
            if Path("/run/netns", namespace).exists():
                ip_batch([f"netns delete {namespace}"])
        for one in (self.container, self):
            one.settle()
        for cgroup in _CGROUPS:
            for path in sorted((cgroup / self.namespace).glob("**/"), reverse=True):
                with contextlib.suppress(OSError):
                    path.rmdir()

    def sh(
        self,
        *argv: str,
        check: bool = True,
        timeout: float = 60,
        input: str | None = None,  # noqa: A002  # subprocess's word
    ) -> subprocess.CompletedProcess[str]:
        inside = [
            "nsenter",
            f"--target={self.leader}",
            "--mount",
            "--uts",
            "--ipc",
            "--net",
            "--pid",
            "--cgroup",
            *argv,
        ]
        done = subprocess.run(inside, capture_output=True, text=True, timeout=timeout, input=input or "")
        if check and done.returncode:
            raise LabError(f"{self.name}: {' '.join(argv)}: status {done.returncode}: {done.stdout}{done.stderr}")
        return done


@dataclass(frozen=True, slots=True)
class Pair:
    """Two machines on one switch."""

    a: Machine
    b: Machine
    switch: Namespace

    def start(self, mode: str) -> None:
        """`systemctl start` on both, at the same time."""
        for waiting in (["--no-block"], []):
            for one in (self.a, self.b):
                one.sh("systemctl", "start", *waiting, f"overlayd@{mode}")

    def talk(self, mode: str = "", timeout: float = 2) -> bool:
        """Whether the containers reach each other by both families."""
        a, b = self.a.container, self.b.container
        return all(
            one.ping(address, timeout=timeout)
            for one, number in ((a, 2), (b, 1))
            for address in (f"10.1.{number}.2", f"fd00:10:1:{number}::2")
        )


@contextlib.contextmanager
def machines(
    layers: list[Path],
    directory: Path,
    kind: Callable[[int, Namespace, list[Path], Path], Machine] = Nspawn,
    *,
    with_overlayd: bool = True,
) -> Iterator[Pair]:
    """Two, booted, and configured as README says; overlayd is not running. Without overlayd in their layers, it is for
    the test to install and configure it."""
    made: list[Machine] = []
    switch = Namespace("switch", f"ovm{os.getpid()}")
    ip_batch([f"netns add {switch.namespace}"])
    try:
        switch.ip("link add br0 type bridge", "link set br0 up")
        for number, name in enumerate("ab", 1):
            machine = kind(number, switch, layers, directory / name)
            made.append(machine)
            machine.write("/etc/systemd/system/overlayd@.service.d/test.conf", f"[Service]\n{machine.SERVICE}")
            if with_overlayd:
                machine.configure()
            machine.plug_in()
            machine.power_on()
        for machine in made:
            machine.await_boot()
            if with_overlayd:
                machine.set_up_service()
        yield Pair(*made, switch)
    finally:
        for machine in made:
            machine.scrap()
        ip_batch([f"netns delete {switch.namespace}"])
