"""The service on two machines, whoever boots them: what tests of systemd-nspawn's and of virtual machines share."""

from __future__ import annotations

import re

from support.machine import Machine, Pair
from support.waiting import eventually

MODES = ("udp", "vxlan", "host-gw", "wireguard")

SLOW = 30.0
"""Seconds for what a machine does when it is told to."""
GROUP = "7304812"  # of overlayd's devices

CAP_NET_ADMIN = 1 << 12  # <linux/capability.h>

KEPT = {"udp": "4", "vxlan": "0"}  # file descriptors in systemd's store: the TUN, a socket for each family, the recipe

ADDRESSES = ("10.1.2.2", "fd00:10:1:2::2")


def service(mode: str) -> str:
    return f"overlayd@{mode}.service"


def devices(machine: Machine) -> list[str]:
    """The devices that are overlayd's, with their indexes."""
    shown = machine.run("ip", "-o", "link", "show", "group", GROUP).stdout
    return re.findall(r"^(\d+: [^:@]+)", shown, re.M)


def assert_nothing_left(machine: Machine) -> None:
    """In the kernel, nor of what container engines read."""
    assert devices(machine) == []
    for family in ("-4", "-6"):
        assert machine.run("ip", family, "route", "show", "proto", "178").stdout == ""
    assert "overlayd" not in machine.run("nft", "list", "tables").stdout
    assert not machine.exists("/run/flannel/subnet.env")


def restarts(machine: Machine, mode: str) -> int:
    return int(machine.show(service(mode), "NRestarts"))


def kill(machine: Machine, mode: str) -> None:
    count = restarts(machine, mode)
    machine.sh("systemctl", "kill", "--signal=KILL", service(mode))
    eventually(lambda: restarts(machine, mode) > count, "systemd starts what was killed", timeout=SLOW)


def restart(machine: Machine, mode: str) -> None:
    machine.sh("systemctl", "restart", service(mode))


def assert_least_privilege(running: Pair, mode: str) -> None:
    a = running.a
    status = a.sh("cat", f"/proc/{a.show(service(mode), 'MainPID')}/status").stdout
    fields = dict(line.split(":\t", 1) for line in status.splitlines())
    assert "0" not in fields["Uid"].split(), "it runs as root"
    for capabilities in ("CapEff", "CapPrm", "CapBnd", "CapAmb"):
        assert int(fields[capabilities], 16) == CAP_NET_ADMIN, capabilities
    assert fields["NoNewPrivs"] == "1"
    assert fields["Seccomp"] == "2"
    assert a.sh("stat", "-c", "%U %a", "/run/overlayd/overlayd.sock", "/run/flannel/subnet.env").stdout.split() == (
        ["overlayd", "660", "overlayd", "644"]
    )


def assert_shown_by_systemd(running: Pair, mode: str) -> None:
    a = running.a
    assert a.show(service(mode), "ActiveState") == "active"
    text = a.show(service(mode), "StatusText")
    assert re.fullmatch(rf"{mode}: 10\.1\.1\.0/24\+fd00:\S+ over eth0, MTU \d+, 2 leases", text), text
    assert a.show(service(mode), "NFileDescriptorStore") == KEPT[mode]


def assert_another_mode_takes_over(running: Pair, mode: str) -> None:
    a = running.a
    other = "vxlan" if mode == "udp" else "udp"
    running.start(other)
    assert running.talk()
    assert a.show(service(mode), "ActiveState") == "inactive"
    assert a.show(service(mode), "NFileDescriptorStore") == "0"
    assert {name.split()[1] for name in devices(a)} == ({"ovl0"} if other == "udp" else {"ovl.1", "ovl6.1"})
    rules = a.run("nft", "list", "table", "inet", "overlayd").stdout
    assert ("from_ovl.1" in rules) == (other == "vxlan")
    running.start(mode)
    assert running.talk()
    assert {name.split()[1] for name in devices(a)} == ({"ovl0"} if mode == "udp" else {"ovl.1", "ovl6.1"})
    assert a.show(service(mode), "NFileDescriptorStore") == KEPT[mode]


def assert_stop_and_cleanup(running: Pair, mode: str) -> None:
    a = running.a
    before = devices(a)
    a.sh("systemctl", "stop", service(mode))
    assert devices(a) == before
    assert a.exists("/run/flannel/subnet.env")
    assert a.show(service(mode), "NFileDescriptorStore") == "0"
    assert a.run("ss", "-Hlun", "sport = :8285").stdout == ""
    running.start(mode)
    assert running.talk()
    a.sh("systemctl", "start", "overlayd-cleanup")  # ends the daemon first
    assert a.show(service(mode), "ActiveState") == "inactive"
    assert_nothing_left(a)
