"""A container of podman's, without a network of its own, is attached by its PID; its restart is noticed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.commands import overlayctl
from support.containers import attachments, bare_hosts, boxes, devices
from support.waiting import eventually

LIMITS = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024")  # podman's own may be more than may be set here


class Podman:
    """One container, whose root file system is busybox alone."""

    def __init__(self, directory: Path) -> None:
        self._argv = ["podman", "--root", f"{directory}/storage", "--runroot", f"{directory}/run"]
        self._argv += ["--runtime=runc", "--cgroup-manager=cgroupfs"]
        self.name = f"web-{directory.name}"
        root = directory / "rootfs"
        (root / "bin").mkdir(parents=True)
        shutil.copy(str(shutil.which("busybox")), root / "bin/busybox")
        run = ("run", "--detach", "--name", self.name, "--network=none", *LIMITS, "--rootfs", str(root))
        self(*run, "/bin/busybox", "sleep", "1000")

    def __call__(self, *arguments: str) -> str:
        done = subprocess.run([*self._argv, *arguments], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def pid(self) -> str:
        return self("inspect", "--format", "{{.State.Pid}}", self.name)

    def inside(self, *argv: str) -> str:
        """What a program prints in the container's network."""
        return subprocess.run(["nsenter", "-n", "-t", self.pid(), *argv], capture_output=True, text=True).stdout


@pytest.fixture
def podman(
    privileged: None, tmp_path_factory: pytest.TempPathFactory, demand: Callable[[str | None], None]
) -> Iterator[Podman]:
    for tool, package in (("podman", "podman"), ("busybox", "busybox-static")):
        demand(None if shutil.which(tool) else f"needs {tool}: apt install {package}")
    made = Podman(tmp_path_factory.mktemp("pods"))  # podman takes no long path
    yield made
    made("rm", "--force", "--time=0", made.name)


def test_a_container_of_podmans(podman: Podman) -> None:
    with bare_hosts(2, mode="udp") as (a, b), boxes(1) as (far,):
        far.attach(b)
        done = overlayctl(a, "attach", podman.pid(), "--name", "web", "--sysctl", "net.core.somaxconn=1024")
        assert (done.returncode, done.stderr) == (0, "")
        for family in (4, 6):
            assert " 1 received" in podman.inside("ping", "-c", "1", "-W", "5", str(far.address(family)))
        seen = podman("exec", podman.name, "/bin/busybox", "cat", "/proc/sys/net/core/somaxconn")
        assert seen == "1024", "by a program in the container"
        podman("restart", "--time=0", podman.name)
        eventually(lambda: attachments(a) == [], "its network namespace is another one now")
        eventually(lambda: devices(a) == set())
        assert overlayctl(a, "attach", podman.pid(), "--name", "web").returncode == 0
        assert " 1 received" in podman.inside("ping", "-c", "1", "-W", "5", str(far.address(4)))
