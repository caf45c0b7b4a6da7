"""The Debian package on two machines: installed, upgraded while containers talk, removed, purged; in this order."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from overlayd import __version__
from support.machine import OVERLAYD_YAML, Machine, Pair, debian, machines
from support.package import NEXT
from support.request_traffic import asking
from support.service import ADDRESSES, MODES, assert_nothing_left, devices, service

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def pair(_privileged: None, deb: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with machines([debian()], tmp_path_factory.mktemp("machines"), with_overlayd=False) as made:
        for machine in (made.a, made.b):
            install(machine, deb)
        yield made


def install(machine: Machine, deb: Path) -> None:
    machine.sh("dpkg", "--force-confdef", "--install", machine.put(deb))


def version(machine: Machine) -> str:
    return str(json.loads(machine.sh("overlayctl", "status", "--json").stdout)["version"])


def test_an_installation_starts_nothing(pair: Pair) -> None:
    a = pair.a
    assert a.sh("overlayd", "--version").stdout == f"overlayd {__version__}\n"
    assert a.sh("overlayctl", "--version").stdout == f"overlayctl {__version__}\n"
    assert {a.show(service(mode), "ActiveState") for mode in MODES} == {"inactive"}
    assert a.sh("stat", "-c", "%U:%G %a", "/etc/overlayd", "/run/flannel").stdout.split("\n")[:2] == (
        ["root:overlayd 750", "overlayd:overlayd 755"]
    )
    for unit in (*map(service, MODES), "overlayd-cleanup.service"):
        verified = a.sh("systemd-analyze", "verify", unit)
        assert (verified.stdout, verified.stderr) == ("", "")


def test_an_upgrade_restarts_the_mode_that_runs(pair: Pair, next_deb: Path) -> None:
    a, b = pair.a, pair.b
    for machine in (a, b):
        machine.configure()
    a.write("/etc/systemd/system/docker.service", "[Service]\nExecStart=sleep infinity\n")
    a.write(
        "/etc/systemd/system/docker.service.d/wants.conf",
        f"[Unit]\nWants={service('udp')}\nAfter={service('udp')}\n",
    )
    a.sh("systemctl", "daemon-reload")
    pair.start("udp")
    assert pair.talk()
    a.sh("systemctl", "start", "docker")
    docker, ours = a.show("docker", "MainPID"), devices(a)
    assert version(a) == __version__
    with asking(a.container, b.container, ADDRESSES[0]) as asked:
        install(a, next_deb)
        asked.more()
    assert version(a) == NEXT
    assert devices(a) == ours
    assert a.show("docker", "MainPID") == docker, "containers live on"
    assert {a.show(service(mode), "ActiveState") for mode in ("vxlan", "host-gw")} == {"inactive"}
    assert a.sh("cat", "/etc/overlayd/overlayd.yaml").stdout == OVERLAYD_YAML, "the administrator's own"


def test_a_removal_leaves_the_configuration_and_a_purge_nothing(pair: Pair) -> None:
    a = pair.a
    pair.start("vxlan")
    assert pair.talk()
    a.sh("systemctl", "enable", service("vxlan"))
    a.sh("dpkg", "--remove", "overlayd")
    assert_nothing_left(a)
    assert not a.exists("/usr/lib/overlayd")
    assert a.exists("/etc/overlayd/overlayd.yaml")
    assert a.exists("/var/lib/overlayd")
    a.sh("dpkg", "--purge", "overlayd")
    ours = "/etc/systemd/system/overlayd@.service.d"  # made by this test
    left = a.sh("find", "/", "-xdev", "-name", "*overlayd*", "-not", "-path", f"{ours}*", "-not", "-path", "/root/*")
    assert left.stdout == ""
    assert a.sh("getent", "passwd", "overlayd", check=False).returncode == 2
    assert not a.exists("/run/overlayd")
    assert not a.exists("/run/flannel")
    assert a.sh("systemctl", "--failed", "--plain", "--no-legend").stdout == ""
