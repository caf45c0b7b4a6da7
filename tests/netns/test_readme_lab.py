"""README's commands that need a lab, as written and in README's order, on a lab of their own.

What is not as written: `sudo`, as tests are root; `ping` and `tcpdump` end after a packet; the benchmark measures one
metric for one scenario; the lab's name and the report's place are the test's.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.containers import attachments, bare_hosts, boxes
from support.readme import ROOT, Rule, sections, walk
from support.waiting import eventually


class Run:
    """Runs commands in the clone, with their placeholders replaced."""

    def __init__(self, directory: Path) -> None:
        self.name = f"readme{os.getpid()}"
        self.replaced = {
            "sudo ": "",
            "build/quick.json": str(directory / "quick.json"),
            "bench --quick": "bench --quick --rounds 1 --patience 0 --scenarios vxlan --metrics rr",
            "-- ping": "-- ping -c 1 -W 5",
            "tcpdump -ni": "tcpdump -c 1 -ni",
        }
        for verb in ("up", "exec", "down"):
            self.replaced[f"overlayctl lab {verb}"] = f"overlayctl lab {verb} --name {self.name}"

    def __call__(self, command: str) -> None:
        """Its exit status is 0."""
        done = subprocess.run(self.argv(command), cwd=ROOT, capture_output=True, text=True, timeout=90)
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"

    def argv(self, command: str) -> list[str]:
        """A shell that runs it."""
        for old, new in self.replaced.items():
            command = command.replace(old, new)
        return ["sh", "-c", command]

    def captured(self, command: str) -> None:
        """A packet crosses while it waits for one."""
        ping = "sudo .venv/bin/overlayctl lab exec h1c1 -- ping -c 50 -i 0.1 10.1.3.2"
        with subprocess.Popen(self.argv(ping), cwd=ROOT, stdout=subprocess.DEVNULL) as pinging:
            self(command)
            pinging.terminate()

    def lab(self, command: str) -> None:
        """A lab that is built, and taken down."""
        installed = command if command.startswith("sudo") else f".venv/bin/{command}"
        self(installed)
        self("sudo .venv/bin/overlayctl lab down")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    made = Run(tmp_path)
    yield made
    down = [".venv/bin/overlayctl", "lab", "down", "--name", made.name]
    subprocess.run(down, cwd=ROOT, capture_output=True)  # there is none where all went well


def nothing(command: str) -> None:
    """Not run here: test_demo does it, this run is it, or what it needs is said in another section."""


def test_see_it(run: Run) -> None:
    walk(
        sections()["See it"].commands,
        {
            "sudo make demo": nothing,
            "sudo .venv/bin/overlayctl bench --quick --output build/quick.json": run,
            ".venv/bin/overlayctl bench report build/quick.json": run,
            "sudo make test": nothing,
            "make help": run,
        },
    )


def test_play_with_it(run: Run) -> None:
    lab = "sudo .venv/bin/overlayctl lab"
    walk(
        sections()["Play with it"].commands,
        {
            f"{lab} up --hosts 3 --containers 2 --mode udp": run,
            f"{lab} exec h1c1 -- ping 10.1.3.2": run,
            f"{lab} exec h1 -- overlayctl status": run,
            f"{lab} exec h1 -- ip route": run,
            f"{lab} exec h1 -- tcpdump -ni eth0 udp": run.captured,
            f"{lab} down": run,
        },
    )


DOCKER = """#!/bin/sh
case $1 in
run) unshare --net sleep 300 >/dev/null 2>&1 &
    while [ "$(readlink /proc/$!/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do :; done
    echo $! >PIDFILE ;;
inspect) cat PIDFILE ;;
esac
"""
"""Stands in for Docker: a process in a network namespace of its own, and its PID."""


def test_containers(tmp_path: Path) -> None:
    name, pid = f"readme{os.getpid()}", tmp_path / "pid"
    docker = tmp_path / "docker"
    docker.write_text(DOCKER.replace("PIDFILE", str(pid)))
    docker.chmod(0o755)
    path = f"PATH={tmp_path}:{ROOT / '.venv/bin'}:{os.environ['PATH']}"
    with bare_hosts(2, mode="vxlan") as (a, b), boxes(1) as (far,):
        far.attach(b)
        environment = ["env", path, f"OVERLAYD_CONTROL_SOCKET={a.socket_path}", "NO_COLOR=1"]

        def run(command: str) -> str:
            written = command.replace(" c1", f" {name}").replace(" c2", f" {name}p").replace(" ping", " ping -c 1 -W 5")
            return a.run(*environment, "sh", "-c", written).stdout

        def shown(command: str) -> None:
            assert "net.core.somaxconn = 1024" in run(command)

        def listed(command: str) -> None:
            assert "10.1.1.50/24" in run(command)

        def ports(command: str) -> None:
            assert [line.split()[:2] for line in run(command).splitlines()[1:]] == [
                ["127.0.0.1:5353/udp", "10.1.1.51:53"],
                ["*:8080/tcp", "10.1.1.51:80"],
                ["*:8080/tcp", "[fd00:10:1:1::4]:80"],
            ]
            a.run("ip", "netns", "del", f"{name}p")
            eventually(lambda: attachments(a) == [])

        def ended(command: str) -> None:
            run(command)
            eventually(lambda: attachments(a) == [])

        try:
            walk(
                sections()["Containers"].commands,
                {
                    "docker run -d --name web --network none nginx": run,
                    "overlayctl attach $(docker inspect -f '{{.State.Pid}}' web) --name web"
                    " --sysctl net.core.somaxconn=1024": run,
                    "overlayctl attachment show web": shown,
                    "overlayctl detach web": run,
                    "ip netns add c1": run,
                    "overlayctl attach c1 --ip 10.1.1.50": run,
                    "overlayctl attachment list": listed,
                    "ip netns exec c1 ping 10.1.2.2": run,
                    "ip netns del c1": ended,
                    "ip netns add c2": run,
                    "overlayctl attach c2 -p 8080:80 -p 127.0.0.1:5353:53/udp": run,
                    "overlayctl port list": ports,
                    "overlayctl status": run,
                    "overlayctl attachment refresh": run,
                },
            )
        finally:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
            subprocess.run(["ip", "netns", "del", f"{name}p"], capture_output=True)
            if pid.exists():
                os.kill(int(pid.read_text()), signal.SIGKILL)


@pytest.mark.parametrize(
    ("section", "command"),
    [
        ("A cluster", "sudo .venv/bin/overlayctl lab up --hosts 5 --registry etcd"),
        ("Two engines in udp mode", "overlayctl lab up --wire overlayd"),
    ],
)
def test_labs_of_other_sections(run: Run, section: str, command: str) -> None:
    rules: dict[str, Rule] = dict.fromkeys(sections()[section].commands, nothing)
    assert command in rules
    walk(sections()[section].commands, {**rules, command: run.lab})
