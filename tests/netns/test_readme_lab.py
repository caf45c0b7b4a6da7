"""README's commands that need a lab, as written and in README's order, on a lab of their own.

What is not as written: `sudo`, as tests are root; `ping` and `tcpdump` end after a packet; the benchmark measures one
metric for one scenario; the lab's name and the report's place are the test's.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.readme import ROOT, Rule, sections, walk


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
