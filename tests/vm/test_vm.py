"""The service on two virtual machines, on a kernel of Debian's own (picture: support/vm.py). Tests that say nothing
of a kernel are those of the machines that systemd-nspawn boots."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from typing import Any

import pytest

from support.machine import Machine, Pair
from support.request_traffic import asking
from support.service import (
    ADDRESSES,
    KEPT,
    SLOW,
    assert_another_mode_takes_over,
    assert_least_privilege,
    assert_shown_by_systemd,
    assert_stop_and_cleanup,
    devices,
    kill,
    restart,
    service,
)
from support.streams import MB, exchange, kernel_counters
from support.vm import VirtualMachine
from support.waiting import eventually

pytestmark = pytest.mark.timeout(400)

NETEM = "limit 10000 delay 20ms 5ms loss 1% reorder 5%"
"""One way: a packet out of a hundred is lost, one out of twenty is not delayed, the others by 15 to 25 ms."""
TRANSFER = """
import hashlib, random, socket, sys
what, address, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
digest = hashlib.sha256()
if what == "send":
    with socket.create_connection((address, 5001), 30) as to:
        data = random.Random(1).randbytes(size)
        digest.update(data)
        to.sendall(data)
else:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 5001), family=family) as listener:
        listener.settimeout(60)
        with listener.accept()[0] as source:
            while data := source.recv(1 << 16):
                digest.update(data)
print(digest.hexdigest())
"""


def test_the_kernel_is_debians(pair: Pair) -> None:
    for machine in (pair.a, pair.b):
        assert isinstance(machine, VirtualMachine)
        assert machine.sh("uname", "-r").stdout.strip() == machine.kernel.release
        assert machine.sh("systemctl", "is-system-running").stdout.strip() == "running"


def test_least_privilege(running: Pair, mode: str) -> None:
    assert_least_privilege(running, mode)


def test_what_systemd_shows(running: Pair, mode: str) -> None:
    assert_shown_by_systemd(running, mode)


# --- what only a kernel of one's own shows ----------------------------------------------------------------------------


def test_kernel_settings_are_protected_but_those_of_the_network(running: Pair, mode: str) -> None:
    """/proc/sys is the kernel's own here, not what a container manager makes of it."""
    a = running.a
    a.sh("sh", "-c", "echo 0 >/proc/sys/net/ipv4/ip_forward")
    restart(a, mode)
    assert a.sh("cat", "/proc/sys/net/ipv4/ip_forward").stdout == "1\n", "the daemon has turned it on"
    inside = ("nsenter", f"--target={a.show(service(mode), 'MainPID')}", "--mount", "sh", "-c")
    assert "Read-only file system" in a.sh(*inside, "echo 1 >/proc/sys/kernel/sysrq", check=False).stderr
    a.sh(*inside, "echo 1 >/proc/sys/net/ipv4/ip_forward")
    said = a.journal(service(mode))
    for word in ("Operation not permitted", "Permission denied", "Read-only file system", "kernel refused"):
        assert word not in said


def test_nothing_is_repaired_that_nobody_harmed(running: Pair, mode: str) -> None:
    """Kernels differ in what they tell of a change that overlayd makes itself."""
    a = running.a

    def status() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(a.sh("overlayctl", "status", "--json").stdout)
        return found

    restart(a, mode)
    eventually(lambda: status()["uptime_seconds"] > 5, "it has had the time to", timeout=SLOW)
    assert status()["repairs"] == 0


@pytest.fixture
def own_containers(running: Pair) -> Iterator[Pair]:
    """Containers in the machines' own kernels: c2, at .3 and ::3."""
    for machine in (running.a, running.b):
        n = machine.number
        mac = f"02:00:00:00:{n:02x}:03"  # the same every time: the host still knows it
        machine.ip(
            "netns add c2", f"link add c2 type veth peer name eth0 address {mac} netns c2", "link set c2 master br0 up"
        )
        lines = (
            f"addr add 10.1.{n}.3/24 dev eth0",
            f"addr add fd00:10:1:{n}::3/64 dev eth0 nodad",
            "link set eth0 up",
            f"route add default via 10.1.{n}.1",
            f"route add default via fd00:10:1:{n}::1",
        )
        machine.sh("ip", "-n", "c2", "-batch", "-", input="\n".join(lines))
    yield running
    for machine in (running.a, running.b):
        machine.ip("netns delete c2")


def in_c2(machine: Machine, *argv: str) -> str:
    return machine.sh("ip", "netns", "exec", "c2", *argv, timeout=90).stdout


@pytest.mark.parametrize("address", ["10.1.2.3", "fd00:10:1:2::3"])
def test_containers_in_the_kernels_of_the_machines(own_containers: Pair, address: str) -> None:
    a, b = own_containers.a, own_containers.b
    assert ", 0% packet loss" in in_c2(a, "ping", "-n", "-c", "3", "-i", "0.2", "-W", "10", address)
    with ThreadPoolExecutor() as pool:
        received = pool.submit(in_c2, b, "python3", "-c", TRANSFER, "receive", address, "0")
        eventually(lambda: ":5001" in in_c2(b, "ss", "-Hltn"), "the receiver listens", timeout=SLOW)
        assert in_c2(a, "python3", "-c", TRANSFER, "send", address, str(16 * MB)) == received.result()


# --- a bad wire -------------------------------------------------------------------------------------------------------


@pytest.fixture
def netem(running: Pair) -> Iterator[Pair]:
    for machine in (running.a, running.b):
        machine.sh("tc", "qdisc", "replace", "dev", "eth0", "root", "netem", *NETEM.split())
    yield running
    for machine in (running.a, running.b):
        machine.sh("tc", "qdisc", "delete", "dev", "eth0", "root")


@pytest.mark.parametrize("address", ADDRESSES)
def test_loss_delay_and_reordering(netem: Pair, mode: str, address: str, figure: Callable[[str], None]) -> None:
    """Both ends send at the same time, and what arrives is what was sent (sha256)."""
    a, b = netem.a, netem.b
    before = {one: kernel_counters(one.container)["TcpExtTCPOFOQueue"] for one in (a, b)}
    exchange(a.container, b.container, ip_address(address), streams=4, size=MB)
    for one in (a, b):
        (qdisc,) = json.loads(one.sh("tc", "-s", "-j", "qdisc", "show", "dev", "eth0").stdout)
        out_of_order = kernel_counters(one.container)["TcpExtTCPOFOQueue"] - before[one]
        assert qdisc["drops"] > 0, "netem loses packets"
        assert out_of_order > 0, "what was lost or delayed was waited for"
        figure(
            f"{mode}, {address}, netem on {one.name}: {qdisc['drops']} of {qdisc['packets']} lost, {out_of_order} early"
        )


# --- restarts that nobody notices -------------------------------------------------------------------------------------


def test_connections_outlive_a_restart_and_a_kill(running: Pair, mode: str, figure: Callable[[str], None]) -> None:
    a, b = running.a, running.b
    before = devices(a)
    for what, machine in ((restart, a), (kill, b)):
        with (
            asking(a.container, b.container, ADDRESSES[0]) as four,
            asking(a.container, b.container, ADDRESSES[1]) as six,
        ):
            what(machine, mode)
            four.more()
            six.more()
        for asked, address in zip((four, six), ADDRESSES, strict=True):
            figure(
                f"{mode}, {address}, {what.__name__}, emulated: TCP answers stood still for {asked.pause * 1000:.0f} ms"
            )
    eventually(lambda: b.show(service(mode), "SubState") == "running", "it is ready again", timeout=120)
    assert devices(a) == before
    for machine in (a, b):
        assert machine.show(service(mode), "NFileDescriptorStore") == KEPT[mode]


# --- once is enough: they take long -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["udp"])
def test_another_mode_takes_over_and_leaves_nothing(running: Pair, mode: str) -> None:
    assert_another_mode_takes_over(running, mode)


@pytest.mark.parametrize("mode", ["vxlan"])
def test_a_stop_leaves_the_state_and_a_cleanup_nothing(running: Pair, mode: str) -> None:
    assert_stop_and_cleanup(running, mode)


@pytest.mark.parametrize("mode", ["udp"])
def test_after_a_reboot_the_host_comes_back_by_itself(running: Pair, mode: str) -> None:
    a = running.a
    assert isinstance(a, VirtualMachine)
    a.sh("systemctl", "enable", service(mode))
    a.reboot()
    assert a.show(service(mode), "ActiveState") == "active", "it is started at boot"
    assert a.show(service(mode), "NRestarts") == "0", "and at the first attempt"
    eventually(running.talk, "the containers talk", timeout=SLOW)
    a.sh("systemctl", "disable", service(mode))


# --- the comparison between two real machines -------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["udp", "vxlan"])
def test_the_benchmark_between_two_machines(running: Pair, mode: str, figure: Callable[[str], None]) -> None:
    a, b = running.a, running.b
    # iperf3 changes the length of a file that it has deleted, which 9p cannot: a directory in memory for it.
    b.sh("systemd-run", "--unit=bench-serve", "--setenv=TMPDIR=/run", "overlayctl", "bench", "serve")
    try:
        eventually(lambda: ":5209" in b.sh("ss", "-Hltn").stdout, "it listens", timeout=SLOW)
        peers = ("--peer", "10.1.2.1", "--peer", "host=192.0.2.2")
        short = ("--quick", "--rounds", "1", "--patience", "0", "--metrics", "tcp1,udp64,rr", "--output", "/tmp/result")
        a.sh("env", "TMPDIR=/run", "overlayctl", "bench", *peers, *short)
        result = json.loads(a.sh("cat", "/tmp/result").stdout)
    finally:
        b.sh("systemctl", "stop", "bench-serve")
    assert result["complete"]
    assert (
        result["environment"]["peer"]["kernel"]
        == result["environment"]["machine"]["kernel"]
        == a.sh("uname", "-r").stdout.strip()
    )
    rates = {(one["scenario"], one["metric"]): one["figures"]["rate"] for one in result["samples"]}
    assert len(rates) == 6
    for (scenario, metric), rate in rates.items():
        assert rate > 0, (scenario, metric)
        figure(f"{mode}, benchmark between the machines, emulated: {scenario}, {metric}: {rate:.3g}")
