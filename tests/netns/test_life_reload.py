"""Reloads: what is good takes effect as a whole, what is bad changes nothing and is said.

h1c1 10.1.1.2 -- br0 10.1.1.1 [h1] eth0 192.0.2.1 ======== eth0 192.0.2.2 [h2] br0 10.1.2.1 -- h2c1 10.1.2.2
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from overlayd.lab import Host, hosts, merged
from support.commands import overlayctl, reloaded, watching_leases
from support.dump import assert_same, devices, dump
from support.pings import pinging
from support.waiting import eventually
from support.wire import MODES

Pair = tuple[Host, Host]


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with hosts(2, mode="vxlan") as (a, b):
        yield a, b


def error(host: Host) -> str | None:
    """Why the last reload was refused."""
    found = host.status()["reload"]["error"]
    return None if found is None else str(found)


def refused(host: Host, text: str) -> str:
    """Replace the configuration file with a bad one; the reload's error, which the log and overlayctl show too."""
    mark = len(host.log())
    host.config_path.write_text(text)
    eventually(lambda: error(host), "the reload is refused")
    said = error(host)
    assert said is not None
    lines = [line for line in host.log()[mark:].splitlines() if "reload refused, the old configuration stays" in line]
    assert len(lines) == len(said.splitlines())
    assert said.splitlines()[0] in lines[0].replace('\\"', '"')
    assert "refused" in overlayctl(host, "status").stdout
    return said


def good(host: Host) -> None:
    """Put the lab's configuration back; the daemon takes it and the error is gone."""
    reloaded(host, lambda: host.write_config(host.config))
    assert error(host) is None


def changed(host: Host, **extra: Any) -> str:
    """The host's configuration with something else in it, as text."""
    return yaml.safe_dump(merged(host.config, extra))


def test_whoever_watches_leases_sees_a_reloaded_table(pair: Pair) -> None:
    a, b = pair
    leases = a.lab.leases()
    third = {"name": "h3", "subnet": "10.1.3.0/24", "public_ip": "192.0.2.3"}
    with watching_leases(a) as shown:
        eventually(lambda: str(b.subnet) in shown(), "the watch begins with the leases known")
        reloaded(a, lambda: a.lab.write_leases([*leases, third]), b)
        eventually(lambda: "+  10.1.3.0/24" in shown(), "the new row is shown")
        reloaded(a, lambda: a.lab.write_leases(leases), b)
        eventually(lambda: "-  10.1.3.0/24" in shown(), "its end is shown")


def test_sighup_reloads(pair: Pair) -> None:
    a, _ = pair
    pid = a.pid
    assert pid is not None
    reloaded(a, lambda: os.kill(pid, signal.SIGHUP))
    assert a.pid == pid
    assert "msg=reloaded" in a.log()


def test_the_control_socket_reloads(pair: Pair) -> None:
    a, _ = pair
    before = a.status()["reload"]["count"]
    done = overlayctl(a, "reload")
    assert (done.returncode, done.stdout, done.stderr) == (0, "reloaded\n", "")
    assert a.status()["reload"]["count"] == before + 1


def test_what_changes_nothing_disturbs_nothing(pair: Pair) -> None:
    a, b = pair
    before = dump(a)
    with pinging(a.container(0), b.container(0).address()):
        for _ in range(2):
            assert overlayctl(a, "reload").returncode == 0
    assert_same(before, dump(a))


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        ({"network": "10.1.0.5/16"}, ": network: 10.1.0.5/16 has host bits set; did you mean 10.1.0.0/16?"),
        ({"leases_file": "../none.yaml"}, "none.yaml: No such file or directory"),
        ({"leases_file": None, "leases": [{"subnet": "10.1.2.0/24", "public_ip": "192.0.2.2"}]}, "leases: no row has"),
        ({"iface": "eth7"}, "iface: no interface has the name or address eth7; there are lo"),
        ({"mtu": 9000}, "mtu: 9000 does not fit: interface eth0 (MTU 1500) leaves 1450 bytes for containers in vxlan"),
        ({"udp": {"prot": 1}, "vxlan": {"vni": "x"}}, "udp.prot: unknown key; did you mean port?\n"),
    ],
)
def test_a_bad_configuration_changes_nothing(pair: Pair, extra: dict[str, Any], text: str) -> None:
    a, b = pair
    before = dump(a)
    with pinging(a.container(0), b.container(0).address()):
        assert text in refused(a, changed(a, **extra))
        assert_same(before, dump(a))
        good(a)
    assert_same(before, dump(a))


def test_what_is_not_yaml_changes_nothing(pair: Pair) -> None:
    a, b = pair
    assert f"{a.config_path}:2: is not valid YAML: " in refused(a, "network: 10.1.0.0/16\n  mode: {udp\n")
    assert a.container(0).ping(b.container(0).address())
    done = overlayctl(a, "reload")
    assert done.returncode == 1
    assert done.stderr.startswith("overlayctl: reload refused, the old configuration stays in force\n")
    assert "is not valid YAML" in done.stderr
    good(a)


def test_vxlan_port_in_use_brings_the_old_one_back(pair: Pair) -> None:
    port_in_use(*pair)


def test_udp_port_in_use_brings_the_old_one_back() -> None:
    with hosts(2, mode="udp") as (a, b):
        port_in_use(a, b)


def port_in_use(a: Host, b: Host) -> None:
    mode = a.lab.spec.mode
    before = dump(a, ifindex=False)
    with a.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("0.0.0.0", 9999))
        said = refused(a, changed(a, **{mode: {"port": 9999}}))
    assert "9999" in said
    assert "Address already in use" in said
    assert a.container(0).ping(b.container(0).address()), "traffic on the old port"
    assert_same(before, dump(a, ifindex=False))
    good(a)
    assert a.container(0).ping(b.container(0).address())


def test_another_port_takes_effect() -> None:
    with hosts(2, mode="udp") as (a, b):
        everywhere(a, b, udp={"port": 9999})
        assert a.container(0).ping(b.container(0).address())


def everywhere(a: Host, b: Host, **extra: Any) -> None:
    """Change both hosts' configuration, and wait until it is in effect."""

    def write() -> None:
        for host in (a, b):
            host.config_path.write_text(changed(host, **extra))

    reloaded(a, write, b)


def test_masquerading_is_turned_on_and_off(pair: Pair) -> None:
    a, b = pair
    before = dump(a)
    with pinging(a.container(0), b.container(0).address()):
        reloaded(a, lambda: a.config_path.write_text(changed(a, ip_masq=True)))
        assert "masquerade" in a.run("nft", "list", "table", "inet", "overlayd").stdout
        assert "FLANNEL_IPMASQ=true\n" in a.subnet_file.read_text()
        good(a)
    assert_same(before, dump(a))
    assert "FLANNEL_IPMASQ=false\n" in a.subnet_file.read_text()


def test_what_only_a_start_can_change_is_said(pair: Pair) -> None:
    a, _ = pair
    reloaded(a, lambda: a.config_path.write_text(changed(a, healthz_port=9001)))
    assert 'msg="takes effect at the next start" setting=healthz_port value=9001' in a.log()
    good(a)


def test_the_mode_changes_while_the_daemon_runs() -> None:
    with hosts(2, mode="udp", settings={"ip_masq": True}) as (a, b):
        first = dump(a, ifindex=False)
        pid = a.pid
        for mode in (*MODES[1:], *MODES[1::-1]):  # vxlan, host-gw, vxlan, udp
            everywhere(a, b, mode=mode)
            assert a.status()["mode"] == mode
            assert a.container(0).ping(b.container(0).address())
            assert devices(a) == {"udp": {"ovl0"}, "vxlan": {"ovl.1"}, "host-gw": set()}[mode]
            assert ("VXLAN from a host" in a.run("nft", "list", "ruleset").stdout) == (mode == "vxlan")
        assert_same(first, dump(a, ifindex=False))
        assert a.pid == pid
        assert a.status()["problems"] == []
        assert a.status()["repairs"] == 0


def test_a_hangup_during_the_start_does_no_harm() -> None:
    """Unheeded it ends a process, and nobody who sends it knows how far the start is."""

    def heeded() -> bool:
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{a.pid}/status").read_text().splitlines())
        return any(int(fields[name], 16) >> signal.SIGHUP - 1 & 1 for name in ("SigIgn", "SigCgt"))

    with hosts(1, mode="vxlan", start=False) as (a,):
        a.start(wait=False)
        eventually(heeded, "it has come so far")
        sent = 0
        while not a.check_ready():  # raises when the process has ended
            assert a.pid is not None
            os.kill(a.pid, signal.SIGHUP)
            sent += 1
        assert sent > 1
        assert error(a) is None
