"""The daemon's end and return: kernel state stays, is taken over as it stands, and what is another's is left alone.

h1c1 10.1.1.2 -- br0 10.1.1.1 [h1] eth0 192.0.2.1 ======== eth0 192.0.2.2 [h2] br0 10.1.2.1 -- h2c1 10.1.2.2
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from overlayd.lab import Host, hosts, wait_ready
from overlayd.system.control_client import ask
from support.commands import one_line, overlayd
from support.dump import Dump, assert_same, devices, dump
from support.pings import pinging
from support.waiting import eventually
from support.wire import MODES

Pair = tuple[Host, Host]


@pytest.fixture(scope="module", params=MODES)
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    with hosts(2, mode=request.param, family="dual", underlay="dual", settings={"ip_masq": True}) as (a, b):
        yield a, b


@pytest.fixture
def idle() -> Iterator[Pair]:
    """Two hosts whose daemons have not been started."""
    with hosts(2, mode="vxlan", start=False) as (a, b):
        yield a, b


def talks(a: Host, b: Host) -> bool:
    """Whether containers reach each other by each family that they have."""
    return all(a.container(0).ping(b.container(0).address(subnet.version)) for subnet in b.subnets)


def without_carrier(state: Dump) -> Dump:
    """A dump that does not tell whether devices have a carrier: a TUN has none while nobody is attached."""
    signs = r"NO-CARRIER,|,LOWER_UP| state \w+| linkdown"
    return {command: re.sub(signs, "", text) for command, text in state.items()}


def since(host: Host, mark: int) -> str:
    """What the daemon has logged since its log was `mark` characters long."""
    return host.log()[mark:]


def test_stop_leaves_everything_and_start_takes_it_over(pair: Pair) -> None:
    """flannel.md 8: a stop removes the TUN there."""
    a, b = pair
    assert talks(a, b)
    before, mark = dump(a), len(a.log())
    assert a.stop(signal.SIGTERM) == 0
    assert_same(without_carrier(before), without_carrier(dump(a)))
    a.start()
    assert_same(before, dump(a))  # the interface indexes too: no device was made anew
    assert talks(a, b)
    for word in ("device differs", "device removed", "repaired", "refused"):
        assert word not in since(a, mark)


def test_traffic_goes_on_without_a_daemon_where_the_kernel_carries_it(pair: Pair) -> None:
    a, b = pair
    if a.lab.spec.mode == "udp":
        assert a.stop() == 0
        assert not a.container(0).ping(b.container(0).address(), timeout=0.3), "who carries this?"
        a.start()
        return
    with pinging(a.container(0), b.container(0).address()), pinging(b.container(0), a.container(0).address(6)):
        assert a.stop() == 0
        assert talks(a, b)
        a.start()


def test_a_killed_daemon_is_followed_by_another(pair: Pair) -> None:
    a, b = pair
    before = dump(a)
    assert a.stop(signal.SIGKILL) == -signal.SIGKILL
    assert a.socket_path.exists(), "else this tests no more than a stop does"
    a.start()
    assert_same(before, dump(a))
    assert talks(a, b)


def test_packets_do_not_wait_for_the_comparison(pair: Pair, tmp_path: Path) -> None:
    a, b = pair
    go = tmp_path / "go"
    slow = tmp_path / "nft"
    slow.write_text(f'#!/bin/sh\nwhile [ ! -e {go} ]; do sleep 0.05; done\nexec {shutil.which("nft")} "$@"\n')
    slow.chmod(0o755)
    assert a.stop() == 0
    a.start(wait=False, environment={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    try:
        eventually(a.socket_path.exists, "it answers")
        eventually(lambda: talks(a, b), "packets are forwarded before the rules have been read")
        assert ask(a.socket_path, "/readyz")["state"] == "starting"
    finally:
        go.touch()
    wait_ready([a])
    assert talks(a, b)


def test_interrupt_is_a_stop(pair: Pair) -> None:
    a, _ = pair
    assert a.stop(signal.SIGINT) == 0
    a.start()


def test_a_second_daemon_is_refused(pair: Pair) -> None:
    a, b = pair
    before = dump(a)
    second = overlayd(a)
    line = one_line(second.stderr)
    assert second.returncode == 1
    assert f"another overlayd (process {a.pid}) is running; stop it first" in line
    assert str(a.socket_path) in line
    assert second.stdout == ""
    assert_same(before, dump(a))
    assert talks(a, b)
    assert a.status()["pid"] == a.pid


# --- what is taken ----------------------------------------------------------------------------------------------------


def refused(host: Host) -> str:
    """Start a daemon that must refuse to start with one line, and leave the host as it was; that line."""
    before = dump(host)
    done = overlayd(host)
    assert done.returncode == 1
    assert_same(before, dump(host))
    errors = [line for line in done.stderr.splitlines() if "level=error" in line or "level=" not in line]
    assert len(errors) == 1, done.stderr
    return errors[0]


def test_udp_port_in_use(idle: Pair) -> None:
    a, _ = idle
    a.write_config({**a.config, "mode": "udp"})
    with a.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("0.0.0.0", 8285))
        line = refused(a)
    assert "UDP 192.0.2.1 port 8285: Address already in use; another program has the port" in line
    a.start()


def test_vxlan_port_in_use(idle: Pair) -> None:
    a, _ = idle
    with a.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("0.0.0.0", 8472))
        line = refused(a)
    assert "device ovl.1: Address already in use; another program has UDP port 8472" in line
    a.start()


def test_a_vxlan_device_of_somebody_elses_has_the_vni_and_the_port(idle: Pair) -> None:
    a, _ = idle
    a.ip("link add theirs type vxlan id 1 dstport 8472 dev eth0 local 192.0.2.1 nolearning", "link set theirs up")
    line = refused(a)
    assert "device ovl.1: File exists" in line
    assert "another device has VNI 1 on UDP port 8472" in line
    a.ip("link del theirs")
    a.start()


def test_health_port_in_use(idle: Pair) -> None:
    a, _ = idle
    a.write_config({**a.config, "healthz_port": 9000})
    with a.socket(socket.AF_INET, socket.SOCK_STREAM) as other:
        other.bind(("0.0.0.0", 9000))
        other.listen()
        line = refused(a)
    assert "health check on 0.0.0.0 port 9000: " in line
    assert "set healthz_port" in line


@pytest.mark.parametrize(
    ("mode", "make", "name"),
    [
        ("udp", "tuntap add ovl0 mode tun", "ovl0"),
        ("udp", "link add ovl0 type bridge", "ovl0"),
        ("vxlan", "link add ovl.1 type bridge", "ovl.1"),
        ("vxlan", "link add ovl.1 type vxlan id 7 dstport 7777 dev eth0 local 192.0.2.1", "ovl.1"),
    ],
)
def test_a_device_of_that_name_is_not_ours(idle: Pair, mode: str, make: str, name: str) -> None:
    a, _ = idle
    a.write_config({**a.config, "mode": mode})
    a.ip(make, f"link set {name} mtu 1333 up", f"addr add 10.55.0.1/24 dev {name}")
    line = refused(a)
    assert f"device {name}" in line
    assert "not overlayd's" in line
    assert devices(a) == {name}
    a.ip(f"link del {name}")
    a.start()
