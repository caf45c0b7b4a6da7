"""The service on two machines: started, reloaded, restarted, killed and hung under traffic, its mode changed, its host
cut off; installed and removed. support/machine.py has the picture."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import pytest

from overlayd.bench import tools
from overlayd.bench.endpoint import Local
from support.machine import LEASES_YAML, MINE, OVERLAYD_YAML, ROOT, Machine, Pair
from support.request_traffic import asking
from support.service import (
    ADDRESSES,
    KEPT,
    MODES,
    SLOW,
    assert_another_mode_takes_over,
    assert_least_privilege,
    assert_shown_by_systemd,
    assert_stop_and_cleanup,
    devices,
    kill,
    restart,
    restarts,
    service,
)
from support.waiting import eventually

pytestmark = pytest.mark.timeout(400)

WORST = 2.0  # what systemd-analyze security may say; 10 is worst


# --- the units --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", [*map(service, MODES), "overlayd-cleanup.service"])
def test_units(pair: Pair, unit: str, figure: Callable[[str], None]) -> None:
    verified = pair.a.sh("systemd-analyze", "verify", unit)
    assert (verified.stdout, verified.stderr) == ("", "")
    said = pair.a.sh("systemd-analyze", "security", "--no-pager", unit).stdout
    found = re.search(r"Overall exposure level for \S+: (\d+\.\d)", said)
    assert found is not None, said
    figure(f"systemd-analyze security {unit}: {found[1]}")
    assert float(found[1]) <= WORST


def test_least_privilege(running: Pair, mode: str) -> None:
    assert_least_privilege(running, mode)


def test_what_systemd_shows(running: Pair, mode: str) -> None:
    assert_shown_by_systemd(running, mode)


def test_all_that_it_can_do_it_may_do(pair: Pair, mode: str) -> None:
    """Masquerading, a health check, and in udp mode the TAP for superpackets: nothing of it is refused by the unit."""
    a, b = pair.a, pair.b
    for machine in (a, b):
        machine.write("/etc/overlayd/overlayd.yaml", OVERLAYD_YAML + "ip_masq: true\nhealthz_port: 9470\n")
        machine.write("/etc/overlayd/leases.yaml", LEASES_YAML.replace("  - name", "  - wire: overlayd\n    name"))
        machine.sh("systemctl", "restart", service(mode))
    assert pair.talk()
    status = json.loads(a.sh("overlayctl", "status", "--json").stdout)
    assert status["problems"] == []
    assert "masquerade" in a.run("nft", "list", "table", "inet", "overlayd").stdout
    assert '"ready"' in a.run("curl", "--silent", "http://127.0.0.1:9470/healthz").stdout
    if mode == "udp":
        assert status["offloads"]["udp_gso"] == status["offloads"]["tso4"] == 1
        eventually(
            lambda: json.loads(a.sh("overlayctl", "status", "--json").stdout)["peers"][0]["capabilities"],
            "the ways are found",
            timeout=SLOW,
        )
    said = a.journal(service(mode))
    for word in ("Operation not permitted", "Permission denied", "Read-only file system", "kernel refused"):
        assert word not in said
    for machine in (a, b):
        machine.write("/etc/overlayd/overlayd.yaml", OVERLAYD_YAML)
        machine.write("/etc/overlayd/leases.yaml", LEASES_YAML)
        machine.sh("systemctl", "restart", service(mode))


def _reached(machine: Machine, namespace: str, address: str) -> bool:
    """Whether an echo request from a network namespace that was made on the machine is answered."""
    path = f"/proc/{machine.leader}/root/run/netns/{namespace}"
    argv = ["nsenter", f"--net={path}", "ping", "-n", "-c", "1", "-W", "5", address]
    return subprocess.run(argv, capture_output=True).returncode == 0


def test_containers_are_attached_by_it(running: Pair, mode: str) -> None:
    """The unit lets it neither enter a namespace nor see other processes."""
    a = running.a
    bridge = a.network()[2:4]
    a.ip("addr flush dev br0 scope global")  # without its link-local address it could not resolve neighbours
    try:
        a.sh("ip", "netns", "add", "c9")
        wanted = ("--ip", "10.1.1.9", "--ip", "fd00:10:1:1::9", "--sysctl", "net.core.somaxconn=77")
        a.sh("overlayctl", "attach", "c9", *wanted)
        assert all(_reached(a, "c9", address) for address in ADDRESSES)
        restart(a, mode)
        assert a.sh("overlayctl", "attachment", "show", "c9").returncode == 0
        assert all(_reached(a, "c9", address) for address in ADDRESSES)
        a.sh("ip", "netns", "del", "c9")
        shown = ("overlayctl", "attachment", "list", "--json")
        eventually(lambda: json.loads(a.sh(*shown).stdout) == [], "its end is noticed", timeout=SLOW)
        said = a.journal(service(mode))
        for word in ("Operation not permitted", "Permission denied", "kernel refused"):
            assert word not in said
    finally:
        a.sh("ip", "netns", "del", "c9", check=False)
        a.ip(*bridge)
    assert running.talk()


# --- restarts that nobody notices -------------------------------------------------------------------------------------


def hang(machine: Machine, mode: str) -> None:
    """Have the process stand still; the watchdog has to see it."""
    count = restarts(machine, mode)
    machine.sh("systemctl", "kill", "--signal=STOP", service(mode))
    eventually(lambda: restarts(machine, mode) > count, "the watchdog ends a process that hangs", timeout=SLOW)
    said = machine.journal(service(mode))
    assert "Watchdog timeout" in said
    assert "Fatal Python error: Aborted" in said, "it says where it stood"


@pytest.mark.parametrize(
    ("what", "address"),
    [*product((restart, kill), ADDRESSES), (hang, ADDRESSES[0])],  # it takes the watchdog's time: once is enough
)
def test_an_established_connection_pauses(
    running: Pair, mode: str, what: Callable[[Machine, str], None], address: str, figure: Callable[[str], None]
) -> None:
    a, b = running.a, running.b
    before, mark = devices(a), len(a.journal(service(mode)))
    for machine, name in ((a, "the sender's host"), (b, "the receiver's host")):
        if what is hang and machine is b:
            continue
        with asking(a.container, b.container, address) as asked:
            what(machine, mode)
            asked.more()
        figure(f"{mode}, {address}, {what.__name__} on {name}: TCP answers stood still for {asked.pause * 1000:.0f} ms")
    eventually(lambda: a.show(service(mode), "SubState") == "running", "it is ready again", timeout=SLOW)
    assert devices(a) == before
    assert a.show(service(mode), "NFileDescriptorStore") == KEPT[mode]
    said = a.journal(service(mode))[mark:]
    for word in ("is not used", "cannot be told", "Traceback", "repaired"):
        assert word not in said.replace("Fatal Python error", ""), said


@pytest.mark.parametrize("address", ADDRESSES)
def test_not_one_packet_is_lost(running: Pair, mode: str, address: str) -> None:
    """flannel.md 8. Echo requests are not sent again: what came while nobody was there has waited, in the TUN or in
    the socket."""
    a, b = running.a, running.b
    with ThreadPoolExecutor() as pool:
        pinging = pool.submit(
            a.container.run, "ping", "-n", "-q", "-c", "150", "-i", "0.02", "-W", "10", address, timeout=60
        )
        for machine in (a, b):
            kill(machine, mode)
        assert ", 0% packet loss" in pinging.result().stdout


def test_iperf3_lives_through_it(running: Pair, mode: str, figure: Callable[[str], None]) -> None:
    a, b = running.a, running.b
    for address in ADDRESSES:
        with ThreadPoolExecutor() as pool:
            stream = pool.submit(tools.throughput, Local(a.container), Local(b.container), address, 4)
            for machine, what in ((a, restart), (b, kill), (a, kill)):
                what(machine, mode)
            result = stream.result()  # an error if the connection broke
        figure(
            f"{mode}, {address}, iperf3 for 4 s with a restart and two kills:"
            f" {result.bits_per_second / 1e6:.0f} Mbit/s, {result.retransmits} retransmits"
        )
    assert running.talk()


def test_another_device_and_another_port_are_not_taken(pair: Pair) -> None:
    """What was kept is looked at before it is used."""
    a, mode = pair.a, "udp"
    pair.start(mode)
    a.sh("systemctl", "kill", "--signal=STOP", service(mode))  # so that it does not see what we do
    a.ip("link del ovl0")
    a.write("/etc/overlayd/overlayd.yaml", OVERLAYD_YAML + "udp: {port: 8290}\n")
    a.sh("systemctl", "kill", "--signal=KILL", service(mode))
    for reason in (
        "TUN ovl0: the file that was kept is not attached to it: File descriptor in bad state",
        "UDP 192.0.2.1 port 8290: the socket that was kept is another: AF_INET, SOCK_DGRAM, bound to",
        "UDP 2001:db8::1 port 8290: the socket that was kept is another: AF_INET6, SOCK_DGRAM, bound to",
    ):
        eventually(lambda: reason in a.journal(service(mode)), reason, timeout=SLOW)  # noqa: B023  # called at once
    eventually(
        lambda: a.show(service(mode), "NFileDescriptorStore") == KEPT[mode], "what is right is kept", timeout=SLOW
    )
    assert a.run("ss", "-Hlun", "sport = :8285").stdout == "", "the old socket is closed everywhere"
    a.write("/etc/overlayd/overlayd.yaml", OVERLAYD_YAML)
    restart(a, mode)
    assert pair.talk()


# --- reload -----------------------------------------------------------------------------------------------------------


def test_reload(running: Pair, mode: str) -> None:
    """The daemon looks at its files by itself too, so that what is awaited may come twice."""
    a, b = running.a, running.b
    process = a.show(service(mode), "MainPID")

    def status(end: str) -> None:
        eventually(
            lambda: a.show(service(mode), "StatusText").endswith(end), f"the status ends with {end!r}", timeout=SLOW
        )

    with asking(a.container, b.container, ADDRESSES[0]):
        a.write("/etc/overlayd/leases.yaml", LEASES_YAML + "  - {name: c, subnet: 10.1.3.0/24, public_ip: 192.0.2.3}\n")
        a.sh("systemctl", "reload", service(mode))
        assert "10.1.3.0/24" in a.run("ip", "route", "show", "proto", "178").stdout
        status("3 leases")
        a.write("/etc/overlayd/leases.yaml", "leases: nonsense\n")
        assert a.sh("systemctl", "reload", service(mode), check=False).returncode != 0
        assert "10.1.3.0/24" in a.run("ip", "route", "show", "proto", "178").stdout
        status("reload refused, see the log")
        assert "reload refused, the old configuration stays" in a.journal(service(mode))
        a.write("/etc/overlayd/leases.yaml", LEASES_YAML)
        a.sh("systemctl", "reload", service(mode))
        status("2 leases")
    eventually(lambda: a.show(service(mode), "ActiveState") == "active", "no reload is going on", timeout=SLOW)
    assert a.show(service(mode), "MainPID") == process


def test_a_mode_in_the_file_that_is_not_the_units(running: Pair, mode: str) -> None:
    a = running.a
    a.write("/etc/overlayd/overlayd.yaml", OVERLAYD_YAML + "mode: vxlna\n")
    line = f"/etc/overlayd/overlayd.yaml:4: mode: vxlna is not used; --mode is {mode}"
    assert a.sh("overlayctl", "reload").stdout == f"reloaded\n{line}\n"
    restart(a, mode)
    assert line in a.journal(service(mode)).split("overridden")[-1]
    a.write("/etc/overlayd/overlayd.yaml", OVERLAYD_YAML)


# --- modes, and the end -----------------------------------------------------------------------------------------------


def test_another_mode_takes_over_and_leaves_nothing(running: Pair, mode: str) -> None:
    assert_another_mode_takes_over(running, mode)


def test_host_gw(pair: Pair) -> None:
    """From vxlan and back: a host that routes needs no device, and no descriptor to be kept."""
    a = pair.a
    pair.start("vxlan")
    pair.start("host-gw")
    assert pair.talk()
    assert devices(a) == []
    process = a.show(service("host-gw"), "MainPID")
    for way in (restart, kill):
        way(a, "host-gw")
        assert pair.talk(), "the kernel carries what there is"
        assert a.show(service("host-gw"), "MainPID") != process
    assert a.show(service("host-gw"), "NFileDescriptorStore") == "0"
    a.sh("systemctl", "reload", service("host-gw"))
    a.ip("route del 10.1.2.0/24")
    eventually(pair.talk, "the route is put back", timeout=SLOW)
    pair.start("vxlan")
    assert pair.talk()
    assert a.run("ip", "route", "show", "proto", "178", "via", "192.0.2.2").stdout == "", "nothing of host-gw is left"


def test_a_stop_leaves_the_state_and_a_cleanup_nothing(running: Pair, mode: str) -> None:
    assert_stop_and_cleanup(running, mode)


def test_what_is_wrong_is_not_tried_again_and_what_is_refused_is(running: Pair, mode: str) -> None:
    a = running.a
    a.sh("systemctl", "stop", service(mode))
    a.write("/etc/overlayd/overlayd.yaml", "network: 10.1.0.5/16\n")
    assert a.sh("systemctl", "start", service(mode), check=False).returncode != 0
    assert a.show(service(mode), "ActiveState") == "failed"
    assert "overlayd.yaml:1: network: 10.1.0.5/16 has host bits set" in a.journal(service(mode))
    a.sh("systemctl", "reset-failed", service(mode))

    a.write("/etc/overlayd/overlayd.yaml", OVERLAYD_YAML)
    a.ip("link set eth0 down", "addr flush dev eth0")
    a.sh("systemctl", "start", "--no-block", service(mode))
    eventually(
        lambda: "tried again in 5 s" in a.show(service(mode), "StatusText"), "it says what is refused", timeout=SLOW
    )
    a.ip("addr add 192.0.2.1/24 dev eth0", "addr add 2001:db8::1/64 dev eth0 nodad", "link set eth0 up")
    eventually(lambda: a.show(service(mode), "ActiveState") == "active", "it is tried again", timeout=SLOW)
    eventually(running.talk, "the network is back", timeout=SLOW)


# --- the host ---------------------------------------------------------------------------------------------------------


def test_after_a_power_cut_the_host_comes_back_by_itself(running: Pair, mode: str) -> None:
    a = running.a
    a.sh("systemctl", "enable", service(mode))
    a.cut_power()
    a.plug_in()
    a.boot()
    eventually(lambda: a.show(service(mode), "ActiveState") == "active", "it starts at boot", timeout=SLOW)
    eventually(running.talk, "the containers talk", timeout=SLOW)
    a.sh("systemctl", "disable", service(mode))


DOCKERD = """#!/bin/sh
echo "$@" >/run/dockerd.arguments
exec sleep infinity
"""


def test_docker_gets_its_options(running: Pair, mode: str) -> None:
    """The example drop-in on Debian's docker.service, with a dockerd that writes down what it is given."""
    a = running.a
    a.write("/usr/sbin/dockerd", DOCKERD)
    a.sh("chmod", "755", "/usr/sbin/dockerd")
    a.write("/etc/systemd/system/docker.service", "[Service]\nExecStart=/usr/sbin/dockerd -H fd:// $DOCKER_OPTS\n")
    example = (ROOT / "systemd/examples/docker.conf").read_text().replace("overlayd@vxlan", f"overlayd@{mode}")
    a.write("/etc/systemd/system/docker.service.d/overlayd.conf", example)
    a.sh("systemctl", "daemon-reload")
    a.sh("systemctl", "stop", service(mode))
    a.sh("systemctl", "start", "docker")
    assert a.show(service(mode), "ActiveState") == "active", "docker wants it"
    eventually(lambda: a.exists("/run/dockerd.arguments"), "dockerd runs", timeout=SLOW)
    given = a.sh("cat", "/run/dockerd.arguments").stdout
    assert "--bip=10.1.1.1/24" in given
    assert "--mtu=" in given
    process = a.show("docker", "MainPID")
    restart(a, mode)
    running.start("vxlan" if mode == "udp" else "udp")
    a.sh("systemctl", "start", "overlayd-cleanup")
    assert (a.show("docker", "ActiveState"), a.show("docker", "MainPID")) == ("active", process), "containers live on"
    a.sh("systemctl", "stop", "docker")


def test_flanneld_and_overlayd_take_turns(running: Pair, mode: str) -> None:
    a = running.a
    a.write("/etc/systemd/system/flanneld.service", "[Service]\nExecStart=sleep infinity\n")
    a.sh("systemctl", "daemon-reload")
    for one, other in (("flanneld", service(mode)), (service(mode), "flanneld")):
        a.sh("systemctl", "start", one)
        assert (a.show(one, "ActiveState"), a.show(other, "ActiveState")) == ("active", "inactive")


# --- make install, make uninstall -------------------------------------------------------------------------------------


def test_an_installation_knows_nothing_of_where_it_was_made(stage: Path) -> None:
    found = subprocess.run(["grep", "-rl", str(stage), str(stage)], capture_output=True, text=True)
    assert found.stdout == ""
    assert (stage / "etc/overlayd/overlayd.yaml").read_text() == MINE


def test_uninstall(stage: Path, tmp_path: Path) -> None:
    copy = tmp_path / "stage"
    shutil.copytree(stage, copy, symlinks=True)
    subprocess.run(["make", "-C", str(ROOT), "uninstall", f"DESTDIR={copy}"], check=True, capture_output=True)
    left = [str(path.relative_to(copy)) for path in copy.rglob("*") if not path.is_dir()]
    assert left == ["etc/overlayd/overlayd.yaml"], "the administrator's own configuration stays"
    (copy / "etc/overlayd/overlayd.yaml").write_bytes((ROOT / "config/overlayd.yaml").read_bytes())
    subprocess.run(["make", "-C", str(ROOT), "uninstall", f"DESTDIR={copy}"], check=True, capture_output=True)
    assert not (copy / "etc/overlayd").exists(), "what was never changed goes too"
