"""The rules by which tests/machines/test_readme.py runs README's commands on its two machines."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from support.machine import ROOT, Machine, Pair
from support.package import NEXT
from support.readme import Rule, sections
from support.service import SLOW, assert_nothing_left
from support.waiting import eventually

CLONE = "/root/overlayd"
"""The clone of README, on the machines."""
DOCKERD = '#!/bin/sh\necho "$@" >/run/dockerd.arguments\n'


class Walk:
    """The two machines, and the rules by which commands are run on them."""

    def __init__(self, pair: Pair, stage: Path, deb: Path, next_deb: Path) -> None:
        self.pair = pair
        self.both = (pair.a, pair.b)
        self._stage = stage
        self._debs = {"dist/" + deb.name: deb, "overlayd_NEW.deb": next_deb}

    def run(self, machine: Machine, command: str) -> str:
        """Run it in the clone's directory, all that it asks answered with yes."""
        done = machine.sh("sh", "-c", f"cd {CLONE} && {command}", check=False, input="y\ny\n")
        if done.returncode:
            said = f"{done.stdout}\n{done.stderr}\n{machine.journal('overlayd@vxlan')[-2000:]}"
            pytest.fail(f"{machine.name}: {command}: exit status {done.returncode}\n{said}")
        return done.stdout

    def everywhere(self, command: str) -> None:
        for machine in self.both:
            self.run(machine, command)

    def on_a(self, command: str) -> None:
        self.run(self.pair.a, command)

    def on_b(self, command: str) -> None:
        self.run(self.pair.b, command)

    def healthy(self, command: str) -> None:
        """Its exit status becomes 0: there is no problem left."""
        for machine in self.both:
            eventually(
                lambda machine=machine: machine.sh("sh", "-c", command, check=False).returncode == 0,  # type: ignore[misc]
                f"{machine.name}: {command}",
                timeout=SLOW,
            )

    def talking(self, command: str) -> None:
        """It is run, and then containers reach each other."""
        self.everywhere(command)
        self.talk()

    def talk(self) -> None:
        a, b = (machine.container for machine in self.both)
        eventually(lambda: a.ping("10.1.2.2") and b.ping("10.1.1.2"), "the containers talk", timeout=SLOW)

    def beside(self, command: str, machines: tuple[Machine, ...], check: Callable[[], object]) -> None:
        """A command that runs until it is stopped runs until the check is done, and ends well."""
        for machine in machines:
            machine.sh("systemd-run", "--quiet", "--unit=by-hand", "sh", "-c", f"exec {command}")
        check()
        for machine in machines:
            machine.sh("systemctl", "stop", "by-hand")
            assert machine.show("by-hand", "ActiveState") == "inactive", machine.journal("by-hand")

    # --- install -----------------------------------------------------------------------------------------------------

    def packages(self, command: str) -> None:
        """There are packages of these names, and they are here, where overlayd is built."""
        for name in command.removeprefix("apt install ").split():
            assert subprocess.run(["dpkg", "--status", name], capture_output=True).returncode == 0, name

    def package(self, command: str) -> None:
        """The packages are where README has them."""
        for name, file in self._debs.items():
            self.pair.a.sh("mkdir", "-p", f"{CLONE}/dist")
            self.pair.a.sh("mv", self.pair.a.put(file), f"{CLONE}/{name}")

    def make_install(self, command: str) -> None:
        b = self.pair.b
        b.unpack(self._stage / "usr", "/usr")
        if not b.exists("/etc/overlayd/overlayd.yaml"):
            b.write("/etc/overlayd/overlayd.yaml", (ROOT / "config/overlayd.yaml").read_text())
        b.set_up_service()
        for name in ("Makefile", "config/overlayd.yaml"):
            b.write(f"{CLONE}/{name}", (ROOT / name).read_text())

    def edit(self, command: str) -> None:
        """The section "Two hosts" says how."""
        (leases,) = sections()["Two hosts"].yaml
        for machine in self.both:
            example = ROOT / "config" / "two-host" / f"host-{machine.name}.yaml"
            machine.write("/etc/overlayd/overlayd.yaml", example.read_text())
            machine.write("/etc/overlayd/leases.yaml", leases)

    def clean(self, command: str) -> None:
        self.everywhere(command)
        for machine in self.both:
            assert_nothing_left(machine)

    # --- and the others ----------------------------------------------------------------------------------------------

    def by_hand(self, command: str) -> None:
        self.everywhere("systemctl stop overlayd@vxlan")
        self.beside(command, self.both, self.talk)
        self.everywhere("systemctl start overlayd@vxlan")

    def dockerd(self, command: str) -> None:
        for machine, subnet in zip(self.both, ("10.1.1.1/24", "10.1.2.1/24"), strict=True):
            machine.write("/usr/bin/dockerd", DOCKERD)
            machine.sh("chmod", "755", "/usr/bin/dockerd")
            self.run(machine, command)
            given = machine.sh("cat", "/run/dockerd.arguments").stdout
            assert given == f"--bip={subnet} --ip-masq=true --mtu=1450\n"

    def top(self, command: str) -> None:
        """On a terminal, until q."""
        self.on_a(f"while sleep 0.3; do printf q; done | timeout 20 script -qec '{command}' /dev/null")

    def watch(self, command: str) -> None:
        a = self.pair.a

        def shown() -> None:
            eventually(lambda: "=  10.1.2.0/24" in a.journal("by-hand"), "every lease is shown")

        self.beside(command, (a,), shown)

    def release_own(self, command: str) -> None:
        """Whose daemon has to be stopped, as README says."""
        self.on_a("systemctl stop overlayd@vxlan")
        self.on_a(command)
        self.on_a("systemctl start overlayd@vxlan")
        self.talk()

    def upgrade_of_a(self, command: str) -> None:
        self.on_a(command)
        status = self.pair.a.sh("overlayctl", "status", "--json", check=False).stdout
        assert json.loads(status)["version"] == NEXT
        self.talk()

    def upgrade_of_b(self, command: str) -> None:
        parts: dict[str, Rule] = {"git pull": nothing, "make install": self.make_install}
        for part in command.split(" && "):
            parts.get(part, self.on_b)(part)
        self.talk()


def nothing(command: str) -> None:
    """Not run: it would only fetch what is here."""


def elsewhere(path: str) -> Rule:
    """Run by another test."""

    def look(command: str) -> None:
        assert (ROOT / path).exists(), command

    return look
