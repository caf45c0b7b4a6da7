"""A virtual machine: the same Debian, the same disk and the same network as Nspawn's, on a kernel of Debian's own.

    kernel()             the kernel of a Debian package, its modules as a layer of the disk, an initramfs
    VirtualMachine       qemu emulates every instruction (TCG): nothing is asked of the machine that this runs on

        /run/netns/...-a-c1            [a]                                            /run/netns/...
        eth0, a TAP of qemu's == c1 -- br0 10.1.1.1, eth0 192.0.2.1 == a, a TAP of qemu's -- switch

The disk is shared by 9p. Commands are given to qemu's own guest agent, by a virtio-serial port.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import itertools
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overlayd.lab import LabError, Namespace
from overlayd.lab.namespace import ip_batch
from support.machine import PACKAGES, ROOT, Machine

VM_PACKAGES = f"{PACKAGES} kmod udev qemu-guest-agent iputils-ping curl iperf3"
BOOT = 120.0
"""Seconds to boot or to shut down; ten are usual."""
_TUNSETIFF = 0x400454CA  # <linux/if_tun.h>, these four
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000  # superpackets pass from and to qemu whole
_BOOT_MODULES = ("virtio_pci", "9pnet_virtio", "9p")  # udev loads the others
_INIT = """\
#!/bin/busybox sh
busybox mount -t devtmpfs none /dev
{modules}
busybox mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose disk /root || exec busybox sh
exec busybox switch_root /root /sbin/init
"""
_NETWORK = """\
[Unit]
DefaultDependencies=no
Requires=sys-subsystem-net-devices-eth0.device sys-subsystem-net-devices-eth1.device
After=sys-subsystem-net-devices-eth0.device sys-subsystem-net-devices-eth1.device
Before=network.target network-online.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=ip -batch /etc/network.lines
"""


@dataclass(frozen=True, slots=True)
class Kernel:
    """What a package of Debian's has for us."""

    image: Path
    initramfs: Path
    layer: Path
    """Its modules, as a layer of a machine's disk."""
    release: str
    """What `uname -r` says there."""


def _output(*argv: str, **keywords: Any) -> str:
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True, timeout=300, **keywords).stdout


def kernel(package: str = "linux-image-amd64") -> Kernel:
    """The kernel of a package, or of the one that a metapackage stands for; kept in build/."""
    if not re.search(r"\d+\.\d+\.\d+", package):
        package = re.findall(r"Depends: (linux-image-\S+)", _output("apt-cache", "depends", package))[0]
    place = ROOT / "build" / "machines" / package
    if not place.exists():
        making = place.with_name(f"{package}.{os.getpid()}")
        making.mkdir(parents=True)
        try:
            _unpack(package, making)
            making.rename(place)
        finally:
            shutil.rmtree(making, ignore_errors=True)
    layer = place / "layer"
    release = next((layer / "usr/lib/modules").iterdir()).name
    return Kernel(place / f"boot/vmlinuz-{release}", place / "initramfs", layer, release)


def _unpack(package: str, place: Path) -> None:
    """Download it, without installing it, and make the initramfs."""
    _output("apt-get", "--quiet", "--option", "APT::Sandbox::User=root", "download", package, cwd=place)
    layer = place / "layer"
    (deb,) = place.glob("*.deb")
    _output("dpkg-deb", "--extract", str(deb), str(layer))
    deb.unlink()
    (layer / "boot").rename(place / "boot")
    if (layer / "lib").exists():  # before trixie; /lib is a symbolic link in the layer below
        (layer / "usr").mkdir(exist_ok=True)
        shutil.copytree(layer / "lib", layer / "usr/lib", dirs_exist_ok=True)
        shutil.rmtree(layer / "lib")
    release = next((layer / "usr/lib/modules").iterdir()).name
    modules = ["--basedir", str(layer / "usr")]
    _output("/sbin/depmod", *modules, release)
    shown = _output(
        "/sbin/modprobe", "--dirname", modules[1], "--set-version", release, "--show-depends", "--all", *_BOOT_MODULES
    )
    files = list(dict.fromkeys(re.findall(r"^insmod (\S+)", shown, re.M)))  # each once, what it needs before it
    tree = place / "tree"
    for directory in ("bin", "dev", "root"):
        (tree / directory).mkdir(parents=True)
    shutil.copy("/bin/busybox", tree / "bin")
    for file in files:
        shutil.copy(file, tree)
    (tree / "init").write_text(_INIT.format(modules="\n".join(f"busybox insmod /{Path(file).name}" for file in files)))
    (tree / "init").chmod(0o755)
    names = "".join(f"{path.relative_to(tree)}\n" for path in sorted(tree.rglob("*")))
    with (place / "initramfs").open("wb") as archive:
        subprocess.run(
            ["cpio", "--quiet", "--create", "--format=newc"], cwd=tree, input=names.encode(), stdout=archive, check=True
        )
    shutil.rmtree(tree)


def _tap(node: Namespace, name: str) -> int:
    """A TAP in there, which lives as long as the file that is given back is open."""

    def attach() -> int:
        tap = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR))
        return tap

    return node.inside(attach)


class Agent:
    """The near end of the port on which qemu-ga listens: a line of JSON for each question and for each answer."""

    POLLS = (0.02, 0.5)
    """Seconds from one look at a command to the next: a tenth of what it has taken, within these. A look costs the
    guest some of them."""

    def __init__(self) -> None:
        self._near, self.far = socket.socketpair()
        self._rest = b""
        self._turn = threading.Lock()
        self._numbers = itertools.count(1)

    def close(self) -> None:
        for one in (self._near, self.far):
            one.close()

    def wait(self, deadline: float) -> bool:
        """Whether it answers before the deadline, at least once, and nothing old is in the way any more."""
        self._near.settimeout(1)
        while time.monotonic() < deadline:
            number = next(self._numbers)
            try:
                self.tell("guest-sync", id=number)
                while self._answer() != number:
                    pass
            except OSError:
                continue
            self._near.settimeout(BOOT)
            return True
        return False

    def tell(self, what: str, **arguments: Any) -> None:
        """Ask without waiting for an answer."""
        self._near.sendall(json.dumps({"execute": what, "arguments": arguments}).encode() + b"\n")

    def _ask(self, what: str, **arguments: Any) -> Any:
        self.tell(what, **arguments)
        return self._answer()

    def _answer(self) -> Any:
        while b"\n" not in self._rest:
            piece = self._near.recv(1 << 16)
            if not piece:
                raise LabError("the machine is off")
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        answer = json.loads(line)
        if "error" in answer:
            raise LabError(f"qemu-ga: {answer['error']['desc']}")
        return answer["return"]

    def run(self, argv: tuple[str, ...], given: str, timeout: float) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; several threads may. Raises LabError after `timeout` seconds."""

        def text(key: str) -> str:
            return base64.b64decode(status.get(key, "")).decode(errors="replace")

        with self._turn:
            process = self._ask(
                "guest-exec",
                **{"path": "/usr/bin/env", "arg": list(argv), "capture-output": True},
                **{"input-data": base64.b64encode(given.encode()).decode()},
            )["pid"]
        begin = time.monotonic()
        while True:
            with self._turn:
                status = self._ask("guest-exec-status", pid=process)
            if status["exited"]:
                return subprocess.CompletedProcess(argv, status.get("exitcode", -1), text("out-data"), text("err-data"))
            taken = time.monotonic() - begin
            if taken > timeout:
                raise LabError(f"`{' '.join(argv)}` has not ended in {timeout} s")
            time.sleep(min(max(taken / 10, self.POLLS[0]), self.POLLS[1]))


class VirtualMachine(Machine):
    """One that qemu emulates; its kernel is not this machine's."""

    SERVICE = "WatchdogSec=60s\nTimeoutStartSec=180s\n"
    """Emulated, a start takes 15 seconds, and more where others use this machine."""

    def __init__(self, kernel: Kernel, number: int, switch: Namespace, layers: list[Path], disk: Path) -> None:
        self._qemu: subprocess.Popen[bytes] | None = None
        self.kernel = kernel
        super().__init__(number, switch, [kernel.layer, *layers], disk)
        self._taps: list[int] = []
        self._agent = Agent()
        self.write("/etc/network.lines", "\n".join(["link set eth1 name c1", *self.network()]) + "\n")
        self.write("/etc/systemd/system/network.service", _NETWORK)
        wants = self._root / "etc/systemd/system/multi-user.target.wants"
        wants.mkdir(parents=True, exist_ok=True)
        (wants / "network.service").symlink_to("../network.service")

    def write(self, path: str, text: str) -> None:
        if self._qemu is None:
            super().write(path, text)
        else:  # it would not look again at what it has in its page cache
            self.sh("sh", "-c", f'mkdir -p "$(dirname {path})" && cat >{path}', input=text)

    def plug_in(self) -> None:
        ip_batch([f"netns add {self.container.namespace}"])
        self._taps = [_tap(self._switch, self.name), _tap(self.container, "eth0")]
        self._switch.ip(f"link set dev {self.name} master br0 up")
        self.container.ip(*self.container_network())

    def power_on(self) -> None:
        self._agent.close()
        self._agent = Agent()
        network = [
            argument
            for number, tap in enumerate(self._taps)
            for argument in (
                "-netdev", f"tap,id=net{number},fd={tap}",
                "-device", f"virtio-net-pci,netdev=net{number},mac=52:54:00:00:{self.number:02x}:{number:02x},romfile=",
            )
        ]  # fmt: skip
        self._qemu = subprocess.Popen(
            [
                "setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max,la57=off",
                "-m", "768", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio",
                "-kernel", str(self.kernel.image), "-initrd", str(self.kernel.initramfs),
                "-append", "console=ttyS0 quiet net.ifnames=0 mitigations=off panic=-1",
                "-fsdev", f"local,id=disk,path={self._root},security_model=passthrough,multidevs=remap",
                "-device", "virtio-9p-pci,fsdev=disk,mount_tag=disk",
                "-device", "virtio-serial-pci", "-chardev", f"socket,id=agent,fd={self._agent.far.fileno()}",
                "-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0",
                *network,
            ],
            stdin=subprocess.DEVNULL,
            stdout=(self._disk / "console").open("ab"),
            stderr=subprocess.STDOUT,
            pass_fds=(*self._taps, self._agent.far.fileno()),
        )  # fmt: skip
        self._unplug()  # qemu has them
        self._agent.far.close()

    def await_boot(self) -> None:
        assert self._qemu is not None
        deadline = time.monotonic() + BOOT
        while not self._agent.wait(min(deadline, time.monotonic() + 2)):
            if time.monotonic() > deadline or self._qemu.poll() is not None:
                raise LabError(f"{self.name} has not booted: {self.console()}")
        state = self.sh("systemctl", "is-system-running", "--wait", check=False).stdout.strip()
        if state not in ("running", "degraded"):
            raise LabError(f"{self.name} is {state}: {self.console()}")

    def reboot(self) -> None:
        """As `systemctl reboot` does it, and wait until it has booted again; its container begins anew."""
        self._agent.tell("guest-shutdown", mode="reboot")
        assert self._qemu is not None
        self._qemu.wait(BOOT)
        self.cut_power()
        self.plug_in()
        self.boot()

    def _unplug(self) -> None:
        while self._taps:
            os.close(self._taps.pop())

    def cut_power(self) -> None:
        self._unplug()
        self._agent.close()
        if self._qemu is not None:
            self._qemu.send_signal(signal.SIGKILL)
            self._qemu.wait()
            self._qemu = None
        with contextlib.suppress(LabError):
            ip_batch([f"netns delete {self.container.namespace}"])
        self.container.settle()

    def enter(self, *argv: str) -> list[str]:
        raise NotImplementedError("a virtual machine is not entered: use run, ip or sh")

    def run(
        self,
        *argv: str,
        check: bool = True,
        timeout: float = 240,
        input: str | None = None,  # noqa: A002  # subprocess's word
    ) -> subprocess.CompletedProcess[str]:
        return self.sh(*argv, check=check, timeout=timeout, input=input)

    def ip(self, *lines: str) -> None:
        self.sh("ip", "-batch", "-", input="\n".join(lines) + "\n")

    def sh(
        self,
        *argv: str,
        check: bool = True,
        timeout: float = 240,
        input: str | None = None,  # noqa: A002  # subprocess's word
    ) -> subprocess.CompletedProcess[str]:
        done = self._agent.run(argv, input or "", timeout)
        if check and done.returncode:
            raise LabError(f"{self.name}: {' '.join(argv)}: status {done.returncode}: {done.stdout}{done.stderr}")
        return done
