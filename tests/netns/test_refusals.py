"""Every reason for which a host can refuse a start, in every mode: `--check` finds it, and neither changes anything.

h1c1 10.1.1.2 -- br0 10.1.1.1 [h1] eth0 .1 ===+=== eth0 .2 [h2]
                                              +=== eth0 .251 [etcd], or a static table
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from overlayd.core.address import Family
from overlayd.lab import Host, hosts
from overlayd.lab.etcdctl import PREFIX
from overlayd.system.tun import Tun
from support.commands import one_line, overlayctl, overlayd
from support.dump import assert_same, claims
from support.etcd_cluster import etcd_of, flannel_value, key_of, take_away
from support.waiting import eventually

CONFIG = f"{PREFIX}/config"
OUR_GROUP = 0x6F766C
PORT = {"udp": 8285, "vxlan": 8472}


@pytest.fixture(scope="module", params=["static", "etcd"])
def idle(request: pytest.FixtureRequest) -> Iterator[Host]:
    """A host on which no daemon runs."""
    with hosts(2, mode="vxlan", registry=request.param, start=False, family="dual", underlay="dual") as (a, _):
        yield a


@dataclass(frozen=True)
class Refused:
    """What is said in the presence of an obstacle, and how `overlayd` has to be run to meet it."""

    text: str
    arguments: tuple[str, ...] = ()
    under: tuple[str, ...] = ()


Obstacle = Callable[[Host, str], contextlib.AbstractContextManager[Refused]]
OBSTACLES: list[tuple[Obstacle, str, str]] = []
"""Each with a mode in which it is one, and a variant of it."""


def obstacle(*modes: str) -> Callable[[Callable[[Host, str], Iterator[Refused]]], Obstacle]:
    """Adds one for these modes, "udp" or "udp, IPv6"."""

    def add(made: Callable[[Host, str], Iterator[Refused]]) -> Obstacle:
        found = contextlib.contextmanager(made)
        OBSTACLES.extend((found, mode.partition(", ")[0], mode) for mode in modes)
        return found

    return add


# --- the obstacles ----------------------------------------------------------------------------------------------------


@obstacle("udp", "vxlan", "host-gw")
def an_mtu_that_the_underlay_cannot_carry(_: Host, mode: str) -> Iterator[Refused]:
    largest = {"udp": 1452, "vxlan": 1430, "host-gw": 1500}[mode]
    yield Refused(
        f"mtu: 9000 does not fit: interface eth0 (MTU 1500) leaves {largest} bytes for containers in {mode} mode;"
        f" set mtu to {largest} or less, or leave it out",
        ("--mtu", "9000"),
    )


@obstacle("udp, bridge", "udp, tun", "vxlan, bridge", "vxlan, vxlan id 7 dstport 7777 dev eth0")
def a_device_of_that_name_is_not_ours(host: Host, mode: str) -> Iterator[Refused]:
    mode, _, kind = mode.partition(", ")
    name = {"udp": "ovl0", "vxlan": "ovl.1"}[mode]
    host.ip(f"tuntap add {name} mode tun" if kind == "tun" else f"link add {name} type {kind}", f"link set {name} up")
    yield Refused(f"device {name} exists and is not overlayd's: remove it (ip link del {name})")
    host.ip(f"link del {name}")


@obstacle("udp")
def somebody_else_reads_the_tun(host: Host, _: str) -> Iterator[Refused]:
    with contextlib.closing(host.inside(lambda: Tun("ovl0"))):
        host.ip(f"link set ovl0 group {OUR_GROUP} up")
        yield Refused("TUN ovl0: Device or resource busy; another process is attached to it")


@obstacle("udp, IPv4", "udp, IPv6", "vxlan, IPv4", "vxlan, IPv6")
def a_program_has_the_port(host: Host, mode: str) -> Iterator[Refused]:
    mode, _, stack = mode.partition(", ")
    family: Family = 4 if stack == "IPv4" else 6
    with host.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as other:
        if family == 6:
            other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        other.bind(("", PORT[mode]))
        device = "ovl.1" if family == 4 else "ovl6.1"
        yield Refused(
            f"device {device}: Address already in use; another program has UDP port 8472"
            if mode == "vxlan"
            else f"UDP {host.public(family)} port 8285: Address already in use; another program has the port"
        )


@obstacle("vxlan, IPv4", "vxlan, IPv6")
def another_device_has_the_vni(host: Host, mode: str) -> Iterator[Refused]:
    family: Family = 4 if mode.endswith("IPv4") else 6
    host.ip(f"link add theirs type vxlan id 1 dstport 8472 dev eth0 local {host.public(family)}", "link set theirs up")
    device = "ovl.1" if family == 4 else "ovl6.1"
    yield Refused(f"device {device}: File exists; another device has VNI 1 on UDP port 8472: theirs")
    host.ip("link del theirs")


@obstacle("vxlan")
def a_device_of_another_kind_has_the_port(host: Host, _: str) -> Iterator[Refused]:
    """As other container networks have it: the VNI comes with each packet. It shares no socket with ours."""
    host.ip("link add theirs type vxlan external dstport 8472", "link set theirs up")
    yield Refused("device ovl.1: Address already in use")
    host.ip("link del theirs")


@obstacle("udp", "vxlan", "host-gw")
def a_program_has_the_health_port(host: Host, _: str) -> Iterator[Refused]:
    with host.socket(socket.AF_INET, socket.SOCK_STREAM) as other:
        other.bind(("0.0.0.0", 9000))
        other.listen()
        said = "health check on 0.0.0.0 port 9000: Address already in use; set healthz_port"
        yield Refused(said, ("--healthz-port", "9000"))


@obstacle("udp", "vxlan", "host-gw")
def no_privileges(_: Host, mode: str) -> Iterator[Refused]:
    yield Refused(
        "overlayd needs CAP_NET_ADMIN (run it as root or from its unit)",
        under=("setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-all"),
    )


@obstacle("udp")
def no_dev_net_tun(_: Host, mode: str) -> Iterator[Refused]:
    yield Refused(
        "TUN ovl0: No such file or directory; there is no /dev/net/tun: load the tun module (modprobe tun)",
        under=with_mounts("mount -t tmpfs none /dev/net"),
    )


@obstacle("udp", "vxlan", "host-gw")
def the_underlay_is_the_own_bridge(host: Host, _: str) -> Iterator[Refused]:
    key = "&".join(map(str, host.subnets))
    if host.lab.etcd is not None:  # the lease that the bridge has its address from
        etcd_of(host).put(key_of(key), {**flannel_value("192.0.2.1"), "PublicIPv6": str(host.public(6))})
    yield Refused(
        "interface br0: its address 10.1.1.1/24 lies in this host's own subnet 10.1.1.0/24",
        ("--iface", "br0", "--public-ip", str(host.public(4)), "--public-ipv6", str(host.public(6))),
    )
    if host.lab.etcd is not None:
        take_away(etcd_of(host), key)


@obstacle("udp", "vxlan", "host-gw")
def a_daemon_elsewhere_has_the_control_socket(host: Host, _: str) -> Iterator[Refused]:
    """This process, in another network namespace."""
    path = host.directory / "overlayd.sock.lock"
    path.write_text(f"{os.getpid()}\n")
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield Refused(f"{path}: another overlayd (process {os.getpid()}) is running; stop it first")
    path.unlink()


@obstacle("udp", "vxlan", "host-gw")
def a_forwarding_switch_that_cannot_be_written(_: Host, mode: str) -> Iterator[Refused]:
    yield Refused(
        "net.ipv4.ip_forward is off and cannot be written; switch it on, or set ip_forward: check",
        under=with_mounts("mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys"),
    )


@obstacle("udp", "vxlan", "host-gw")
def a_subnet_file_that_cannot_be_written(host: Host, _: str) -> Iterator[Refused]:
    path = host.config_path / "subnet.env"
    yield Refused(f"{path}: {host.config_path} is not a directory", ("--subnet-file", str(path)))


def with_mounts(commands: str) -> tuple[str, ...]:
    """A command that runs another one after these, in a mount namespace of its own."""
    return ("unshare", "--mount", "sh", "-c", f'{commands} && exec "$@"', "sh")


def errors(text: str) -> list[str]:
    """The lines of a start or a check that are no information or warnings."""
    return [line for line in text.splitlines() if "level=info" not in line and "level=warning" not in line]


@pytest.mark.parametrize(
    ("made", "mode", "variant"),
    [pytest.param(*one, id=f"{getattr(one[0], '__name__', '')}: {one[2]}") for one in OBSTACLES],
)
def test_a_start_that_is_refused_changes_nothing(idle: Host, made: Obstacle, mode: str, variant: str) -> None:
    with made(idle, variant) as refused:
        assert_refused(idle, mode, refused)


def assert_refused(host: Host, mode: str, refused: Refused) -> None:
    """A check and a start say the same, and change nothing."""
    before = claims(host)
    arguments = ("--mode", mode, *refused.arguments)
    checked = overlayd(host, "--check", *arguments, under=refused.under)
    assert checked.returncode == 1, checked.stdout
    lines = checked.stderr.splitlines()
    assert refused.text in lines[0]
    assert all(line.startswith("overlayd: ") for line in lines), lines
    assert_same(before, claims(host))
    started = overlayd(host, *arguments, under=refused.under)
    assert started.returncode == 1
    (line,) = errors(started.stderr)
    assert refused.text in line
    assert_same(before, claims(host))


only_etcd = pytest.mark.parametrize("idle", ["etcd"], indirect=True)


@only_etcd
@pytest.mark.parametrize("mode", ["udp", "vxlan", "host-gw"])
def test_a_state_dir_that_cannot_be_written(idle: Host, mode: str) -> None:
    """Where the identity belongs that the lease is found by again."""
    path = idle.config_path / "state"
    refused = Refused(f"{path}/node-id: {idle.config_path} is not a directory", ("--state-dir", str(path)))
    assert_refused(idle, mode, refused)


# --- what refuses no start --------------------------------------------------------------------------------------------


@pytest.fixture
def host(idle: Host) -> Iterator[Host]:
    """One whose daemon is stopped afterwards, and what it made removed, from etcd, too."""
    config = etcd_of(idle).get(CONFIG) if idle.lab.etcd is not None else None
    yield idle
    idle.stop()
    idle.write_config(idle.config)
    idle.sysctl({"net/ipv4/ip_forward": 0, "net/ipv6/conf/all/forwarding": 0})
    assert overlayd(idle, "--cleanup").returncode == 0
    shutil.rmtree(idle.directory / "state", ignore_errors=True)
    if config is not None:
        etcd_of(idle).ctl("del", "--prefix", "--", f"{PREFIX}/")
        etcd_of(idle).put(CONFIG, config)


def test_devices_of_others_on_the_same_port_share_it(host: Host) -> None:
    """One that is up has the kernel's socket, which no program can bind and ours can use."""
    host.ip("link add theirs type vxlan id 7 dstport 8472 dev eth0 local 192.0.2.1", "link set theirs up")
    checked = overlayd(host, "--check")
    assert (checked.returncode, checked.stderr) == (0, "")
    host.start()
    host.restart()
    host.ip("link del theirs")


@pytest.mark.parametrize("mode", ["udp", "vxlan", "host-gw"])
def test_check_beside_a_running_daemon(host: Host, mode: str) -> None:
    """Its ports, its devices and its socket are no reason to refuse: a reload goes on with them."""
    fresh = overlayd(host, "--check", "--mode", mode)
    assert (fresh.returncode, fresh.stderr) == (0, "")
    assert "\n  ~ sysctl net.ipv4.ip_forward = 1\n" in fresh.stdout
    assert "\n  ~ sysctl net.ipv6.conf.all.forwarding = 1\n" in fresh.stdout
    host.write_config({**host.config, "mode": mode, "healthz_port": 9000})
    host.start()
    before = claims(host)
    checked = overlayd(host, "--check")
    assert (checked.returncode, checked.stderr) == (0, "")
    assert f"daemon    process {host.pid}, not a unit of systemd: a reload applies what follows\n" in checked.stdout
    assert checked.stdout.endswith("nothing to do\n")
    second = overlayd(host)
    assert f"another overlayd (process {host.pid}) is running; stop it first" in one_line(second.stderr)
    assert_same(*map(without_files, (before, claims(host))))


def test_check_names_what_a_start_only_reports(host: Host) -> None:
    with host.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("0.0.0.0", 8286))
        checked = overlayd(host, "--check", "--ip-forward", "check")
        assert (checked.returncode, checked.stderr.splitlines()) == (
            1,
            [
                "overlayd: net.ipv4.ip_forward is off: containers reach nobody (sysctl -w net.ipv4.ip_forward=1)",
                "overlayd: net.ipv6.conf.all.forwarding is off: containers reach nobody"
                " (sysctl -w net.ipv6.conf.all.forwarding=1)",
                "overlayd: peers are not probed: UDP 192.0.2.1 port 8286: Address already in use;"
                " set probe.port, to 0 for no probes",
            ],
        )
        assert "would do\n" in checked.stdout
        host.start()
        text = "peers are not probed: UDP 192.0.2.1 port 8286: Address already in use"
        assert [one for one in host.status()["problems"] if text in one]


# --- later ------------------------------------------------------------------------------------------------------------


@only_etcd
def test_while_a_lease_is_waited_for_nothing_is_claimed(host: Host) -> None:
    etcd = etcd_of(host)
    config = json.loads(etcd.get(CONFIG) or "")
    etcd.put(CONFIG, json.dumps({**config, "SubnetLen": 30, "SubnetMin": "10.1.9.0", "SubnetMax": "10.1.9.0"}))
    etcd.put(key_of("10.1.9.0/30"), flannel_value("192.0.2.99"))
    before = claims(host)
    host.start(wait=False)
    eventually(lambda: "is exhausted" in overlayctl(host, "status").stdout, "it says what it waits for")
    assert_same(*map(without_files, (before, claims(host))))
    assert not (host.directory / "state").exists()


@only_etcd
def test_while_there_is_no_default_route_iface_has_to_be_set(host: Host) -> None:
    """A static table would have this host's address."""
    host.write_config({key: value for key, value in host.config.items() if key != "iface"})
    said = "there is no default route to choose the underlay interface by; set iface (iface: eth0); there are lo ("
    before = claims(host)
    for arguments in (["--check"], []):
        done = overlayd(host, *arguments)
        assert done.returncode == 1
        assert said in one_line(done.stderr)
    assert_same(before, claims(host))


def without_files(found: dict[str, str]) -> dict[str, str]:
    """A daemon that waits has a control socket and a log; one that runs saves the leases that it knows."""
    return {command: text for command, text in found.items() if command != "files"}


@pytest.mark.parametrize(
    ("change", "text"),
    [({"mtu": 9000}, "mtu: 9000 does not fit"), ({"udp": {"port": 9285}}, "UDP 192.0.2.1 port 9285: Address already")],
)
def test_a_reload_that_is_refused_claims_nothing(host: Host, change: dict[str, object], text: str) -> None:
    config = {**host.config, "mode": "udp"}
    host.write_config(config)
    host.start()
    with host.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("0.0.0.0", 9285))
        before = claims(host)
        host.write_config({**config, **change})
        assert text in overlayctl(host, "reload").stderr
        assert "data path rebuilt" not in host.log(), "it goes on without a pause"
        assert_same(*map(without_files, (before, claims(host))))
