"""The commands as people type them: what is wrong is said in one line each, and nothing is touched.

h1c1 10.1.1.2 -- br0 10.1.1.1 [h1] eth0 192.0.2.1 ======== eth0 192.0.2.2 [h2] br0 10.1.2.1 -- h2c1 10.1.2.2
                                   eth1 198.51.100.1, with the default route
"""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from overlayd.lab import Host, hosts
from overlayd.lab.host import ROOT
from support.commands import one_line, overlayctl, overlayd
from support.dump import assert_same, devices, dump
from support.waiting import eventually

GOOD = """\
mode: vxlan
network: 10.1.0.0/16
leases:
  - subnet: 10.1.1.0/24
    public_ip: 192.0.2.1
  - subnet: 10.1.2.0/24
    public_ip: 192.0.2.2
"""


@pytest.fixture(scope="module")
def idle() -> Iterator[Host]:
    """A host with two interfaces, on which no daemon runs."""
    with hosts(2, mode="vxlan", start=False) as (a, b):
        a.run("ip", "link", "add", "eth1", "type", "veth", "peer", "name", "far", "netns", b.namespace)
        a.ip("addr add 198.51.100.1/24 dev eth1", "link set eth1 up", "route add default via 198.51.100.2")
        b.ip("addr add 198.51.100.2/24 dev far", "link set far up")
        yield a


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("mode: vxlan", "colour: red", r"FILE:1: colour: unknown key; known here: mode, network, "),
        ("mode: vxlan", "modee: vxlan", r"FILE:1: modee: unknown key; did you mean mode?"),
        (
            "mode: vxlan",
            "mode: vxlam",
            r"FILE:1: mode: vxlam is not one of udp, vxlan, host-gw, wireguard; did you mean vxlan?",
        ),
        (
            "10.1.2.0/24",
            "10.1.2.5/24",
            "FILE:6: leases[1].subnet: 10.1.2.5/24 has host bits set; did you mean 10.1.2.0/24?",
        ),
        (
            "10.1.2.0/24",
            "10.1.1.0/24",
            "FILE:6: leases[1].subnet: 10.1.1.0/24 overlaps leases[0] (10.1.1.0/24); each host needs a subnet",
        ),
        ("10.1.2.0/24", "10.2.2.0/24", "FILE:6: leases[1].subnet: 10.2.2.0/24 "),
        ("mode: vxlan", "vxlan: {port: 70000}", "FILE:1: vxlan.port: 70000 is out of range; use 1 to 65535"),
        ("mode: vxlan", "udp: {prot: 1}", "FILE:1: udp.prot: unknown key; did you mean port?"),
        ("network: 10.1.0.0/16", "network: 10.1.0.0", "FILE:2: network: 10.1.0.0 has no prefix length; write it like"),
        ("mode: vxlan", "mode: vxlan\nmode: udp", "FILE:2: mode: is given twice; keep one"),
        ("mode: vxlan", "mode: {vxlan", "FILE:2: is not valid YAML: "),
        ("mode: vxlan", "- mode", "FILE:2: is not valid YAML: "),
        ("mode: vxlan", "leases_file: none.yaml", "FILE:1: leases_file: none.yaml is given beside `leases`; keep one"),
        (
            "ip: 192.0.2.2",
            "ip: 192.0.2.1",
            "FILE:7: leases[1].public_ip: 192.0.2.1 is also that of leases[0]; each",
        ),
        ("ip: 192.0.2.2", "ip: 300.0.2.1", "FILE:7: leases[1].public_ip: 300.0.2.1 is not a valid IPv4 address"),
    ],
)
def test_mistakes_in_the_file(idle: Host, tmp_path: Path, old: str, new: str, line: str) -> None:
    file = tmp_path / "overlayd.yaml"
    assert GOOD.count(old) == 1
    file.write_text(GOOD.replace(old, new))
    done = overlayd(idle, "--config", str(file))
    assert one_line(done.stderr).startswith("overlayd: " + line.replace("FILE", str(file)))
    assert (done.returncode, done.stdout) == (2, "")
    assert devices(idle) == {"eth1"}


def test_every_mistake_has_its_line(idle: Host, tmp_path: Path) -> None:
    file = tmp_path / "overlayd.yaml"
    file.write_text("mode: vxlam\nnetwork: 10.1.0.0/16\nmtu: 12\nvxlan:\n  vni: 0\n")
    done = overlayd(idle, "--config", str(file))
    said = [line.split(": ")[:2] for line in done.stderr.splitlines()]
    assert said == [["overlayd", f"{file}:{number}"] for number in (1, 3, 5)]
    assert done.returncode == 2


@pytest.mark.parametrize(
    ("arguments", "environment", "line"),
    [
        (["--config", "/nonexistent/file"], {}, "/nonexistent/file: No such file or directory; check the path"),
        (["--vxlan-port", "70000"], {}, "--vxlan-port: 70000 is out of range; use 1 to 65535"),
        (["--leases-file", "/nonexistent/leases"], {}, "/nonexistent/leases: No such file or directory; check the"),
        ([], {"OVERLAYD_VXLAN_PORT": "high"}, "OVERLAYD_VXLAN_PORT: high is not a whole number; use 1 to 65535"),
        ([], {"OVERLAYD_VXLAN_PROT": "1"}, "OVERLAYD_VXLAN_PROT: unknown variable; see overlayd --help for those"),
        ([], {"OVERLAYD_NETWORK": "10.1.0.1/16"}, "OVERLAYD_NETWORK: 10.1.0.1/16 has host bits set; did you mean"),
        (["--ip-masq=perhaps"], {}, "--ip-masq: perhaps is neither true nor false"),
    ],
)
def test_mistakes_elsewhere(idle: Host, arguments: list[str], environment: dict[str, str], line: str) -> None:
    done = overlayd(idle, *arguments, **environment)
    assert one_line(done.stderr).startswith(f"overlayd: {line}")
    assert (done.returncode, done.stdout) == (2, "")
    assert devices(idle) == {"eth1"}


def test_a_flag_that_there_is_not(idle: Host) -> None:
    done = overlayd(idle, "--vxlan-prot", "1")
    assert done.returncode == 2
    said = "overlayd: unknown option --vxlan-prot; did you mean --vxlan-port? See 'overlayd --help'"
    assert one_line(done.stderr) == said


def test_a_host_that_is_not_in_the_table(idle: Host) -> None:
    before, files = dump(idle), sorted(idle.directory.iterdir())
    done = overlayd(idle, "--iface", "eth1")
    assert "no row has this host's address 198.51.100.1 (eth1); the table lists 192.0.2.1" in one_line(done.stderr)
    assert done.returncode == 2
    assert_same(before, dump(idle))
    assert sorted(idle.directory.iterdir()) == files
    assert idle.read_sysctl("net/ipv4/ip_forward") == "0"


# --- precedence, and which interface ----------------------------------------------------------------------------------


def checked(host: Host, *arguments: str, **environment: str) -> dict[str, str]:
    """What `overlayd --check` prints, by its first word."""
    done = overlayd(host, "--check", *arguments, **environment)
    assert done.returncode == 0, done.stderr
    return dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if " " in line)


def test_a_flag_wins_over_the_environment_and_that_over_the_file(idle: Host) -> None:
    assert checked(idle)["mode"] == "vxlan"
    assert checked(idle, OVERLAYD_MODE="udp")["mode"] == "udp"
    assert checked(idle, "--mode", "host-gw", OVERLAYD_MODE="udp")["mode"] == "host-gw"
    assert checked(idle, "--mode", "udp", OVERLAYD_MODE="nonsense")["mode"] == "udp"


def test_the_file_may_be_named_by_the_environment_or_be_absent(idle: Host) -> None:
    file = idle.directory / "overlayd.yaml"
    done = idle.run("env", f"OVERLAYD_CONFIG={file}", *_python(), "--check", check=False)
    assert done.returncode == 0, done.stderr
    done = idle.run(*_python(), "--check", check=False)
    if not Path("/etc/overlayd/overlayd.yaml").exists():
        assert one_line(done.stderr).startswith("overlayd: network: is missing; give a network such as 10.1.0.0/16")


def _python() -> list[str]:
    return ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "overlayd"]


@pytest.fixture
def two_addresses(idle: Host) -> Iterator[Host]:
    """The table knows this host by its second interface; the configuration names none."""
    rows = idle.lab.leases()
    idle.lab.write_leases([{**rows[0], "public_ip": "198.51.100.1"}, rows[1]])
    idle.write_config({key: value for key, value in idle.config.items() if key != "iface"})
    yield idle
    idle.lab.write_leases(rows)
    idle.write_config(idle.config)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--iface", "eth1"],
        ["--iface", "198.51.100.1"],
        ["--iface-regex", "eth[1-9]"],
        ["--iface-regex", r"^198\.51\."],
        ["--iface-can-reach", "198.51.100.77"],
        ["--public-ip", "198.51.100.1"],
        [],
    ],
)
def test_the_second_interface_is_chosen(two_addresses: Host, arguments: list[str]) -> None:
    found = checked(two_addresses, *arguments)
    assert found["underlay"] == "eth1, MTU 1500"
    assert found["lease"] == "10.1.1.0/24@198.51.100.1"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--iface", "eth7"], "iface: no interface has the name or address eth7; there are lo"),
        (["--iface-regex", "wlan"], "iface_regex: no interface's name or address matches wlan"),
        (["--iface", "eth0"], "no row has this host's address 192.0.2.1 (eth0)"),
        (["--iface-can-reach", "192.0.2.77"], "no row has this host's address 192.0.2.1 (eth0)"),
    ],
)
def test_the_interface_is_not_the_one(two_addresses: Host, arguments: list[str], line: str) -> None:
    done = overlayd(two_addresses, *arguments)
    assert line in one_line(done.stderr)
    assert done.returncode in (1, 2)
    assert devices(two_addresses) == {"eth1"}


def test_flannels_flags_are_accepted(idle: Host, tmp_path: Path) -> None:
    file = tmp_path / "subnet.env"
    flags = ["--iface=eth0", "--public-ip=192.0.2.1", f"--subnet-file={file}", "--ip-masq", "--healthz-ip=127.0.0.1"]
    flags += ["--healthz-port=9123", "--iptables-forward-rules=false", "--iptables-resync=5", "-v=4"]
    found = checked(idle, *flags)
    assert found["underlay"] == "eth0, MTU 1500"
    assert checked(idle, *(flag.replace("--", "-") for flag in flags)) == found, "Go's flags have one dash or two"
    assert not file.exists(), "--check writes nothing"
    masquerade = "+ nft table inet overlayd, "
    rules = {
        flag: next(line for line in overlayd(idle, "--check", *flag).stdout.splitlines() if masquerade in line)
        for flag in (("--ip-masq",), ("--ip-masq=true",), ("--ip-masq=false",), ())
    }
    assert rules["--ip-masq",] == rules["--ip-masq=true",]
    assert rules["--ip-masq=false",] == rules[()]
    assert rules[()] != rules["--ip-masq",]


def test_flannels_variables_are_used_with_a_hint(idle: Host) -> None:
    done = overlayd(idle, "--check", FLANNELD_IFACE="eth1", FLANNELD_KUBE_SUBNET_MGR="false", FLANNELD_X="1")
    assert "overlayd: FLANNELD_IFACE: used as --iface" in done.stderr
    assert "overlayd: FLANNELD_X: overlayd has no option --x; ignored" in done.stderr
    assert "no row has this host's address 198.51.100.1 (eth1)" in done.stderr
    done = overlayd(idle, "--check", FLANNELD_IFACE="eth1", OVERLAYD_IFACE="eth0")
    assert one_line(done.stderr) == "overlayd: FLANNELD_IFACE: ignored, OVERLAYD_IFACE is set"
    assert done.returncode == 0


def test_a_reader_of_check_that_leaves(idle: Host) -> None:
    command = f"PYTHONPATH={ROOT} {sys.executable} -m overlayd --config {idle.config_path} --check | head -1"
    done = idle.run("bash", "-c", command, check=False)
    assert (done.stdout, done.stderr) == ("mode      vxlan\n", "")


# --- check ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["udp", "vxlan", "host-gw"])
def test_check_says_what_would_be_done_and_changes_nothing(idle: Host, mode: str) -> None:
    before, files = dump(idle), sorted(idle.directory.iterdir())
    done = overlayd(idle, "--check", "--mode", mode)
    assert (done.returncode, done.stderr) == (0, "")
    expected = [f"mode      {mode}", "underlay  eth0, MTU 1500", "lease     10.1.1.0/24@192.0.2.1"]
    assert done.stdout.splitlines()[:3] == expected
    assert "peer      10.1.2.0/24@192.0.2.2  h2\n" in done.stdout
    assert "would do\n" in done.stdout
    route = {
        "udp": "+ route 10.1.2.0/24 dev ovl0",
        "vxlan": "+ route 10.1.2.0/24 via 10.1.2.0 dev ovl.1 onlink",
        "host-gw": "+ route 10.1.2.0/24 via 192.0.2.2 dev eth0",
    }[mode]
    assert f"  {route}\n" in done.stdout
    assert_same(before, dump(idle))
    assert sorted(idle.directory.iterdir()) == files
    assert idle.read_sysctl("net/ipv4/ip_forward") == "0"


@pytest.mark.parametrize(("mode", "port"), [("udp", 8285), ("vxlan", 8472)])
def test_a_start_that_is_refused_leaves_forwarding_as_it_was(idle: Host, mode: str, port: int) -> None:
    before = dump(idle)
    with idle.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("0.0.0.0", port))
        done = overlayd(idle, "--mode", mode)
    assert done.returncode == 1
    assert str(port) in done.stdout + done.stderr
    assert idle.read_sysctl("net/ipv4/ip_forward") == "0"
    assert_same(before, dump(idle))


def test_a_host_gw_peer_that_is_not_on_the_link() -> None:
    with hosts(2, mode="host-gw", start=False) as (a, b):
        rows = a.lab.leases()
        far = {"name": "far", "subnet": "10.1.9.0/24", "public_ip": "203.0.113.9"}
        a.lab.write_leases([*rows, far])
        said = "203.0.113.9 is not on the link of eth0 (192.0.2.0/24"
        done = overlayd(a, "--check")
        assert done.returncode == 1
        assert one_line(done.stderr).startswith("overlayd: unreachable peer: ")
        assert said in done.stderr
        assert "host-gw needs every peer on one link; use udp or vxlan" in done.stderr
        a.lab.start()
        assert [line for line in a.log().splitlines() if "level=error" in line and said in line]
        assert [text for text in a.status()["problems"] if said in text]
        assert said.split(" (")[0] in overlayctl(a, "status").stdout
        assert a.container(0).ping(b.container(0).address())
        assert "10.1.9.0" not in a.run("ip", "route").stdout
        a.lab.write_leases(rows)
        eventually(lambda: a.status()["problems"] == [], "the problem is gone with the lease")
        assert 'msg="peer can be reached"' not in a.log(), "it is not there any more: that is not to be reached"


# --- a running daemon -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def running() -> Iterator[Host]:
    settings = {"healthz_port": 9001, "log_format": "json", "log_level": "debug", "udp": {"port": 9285}}
    with hosts(2, mode="udp", family="dual", underlay="dual", settings=settings) as (a, b):
        assert a.container(0).ping(b.container(0).address(), count=3)
        yield a


def test_status_for_people(running: Host) -> None:
    done = overlayctl(running, "status")
    assert (done.returncode, done.stderr) == (0, "")
    for fact in ("ready", "udp, ", "10.1.1.0/24", "fd00:10:1:1::/64", "192.0.2.1", "ovl0", "MTU 1452", "eth0", "h2"):
        assert fact in done.stdout
    assert "out 3 packets 252 B, in 3 packets 252 B" in done.stdout


def test_status_for_machines(running: Host) -> None:
    done = overlayctl(running, "status", "--json")
    state: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == 0
    assert (state["state"], state["mode"], state["pid"]) == ("ready", "udp", running.pid)
    assert state["lease"]["subnet"] == "10.1.1.0/24"
    assert [peer["name"] for peer in state["peers"]] == ["h2"]
    assert state["peers"][0]["traffic"]["tx_packets"] == 3
    assert state["problems"] == []


def test_leases(running: Host) -> None:
    done = overlayctl(running, "lease", "list")
    assert (done.returncode, done.stderr) == (0, "")
    own, peer = done.stdout.splitlines()[1:]
    assert "h1" in own
    assert "this host" in own
    assert "10.1.2.0/24, fd00:10:1:2::/64" in peer
    rows = json.loads(overlayctl(running, "lease", "list", "--json").stdout)
    assert [(row["name"], row["own"]) for row in rows] == [("h1", True), ("h2", False)]


def test_subnet_env_is_flannels_and_docker_takes_it(running: Host) -> None:
    assert running.subnet_file.read_text() == (
        "FLANNEL_NETWORK=10.1.0.0/16\n"
        "FLANNEL_SUBNET=10.1.1.1/24\n"
        "FLANNEL_IPV6_NETWORK=fd00:10:1::/48\n"
        "FLANNEL_IPV6_SUBNET=fd00:10:1:1::1/64\n"
        "FLANNEL_MTU=1452\n"
        "FLANNEL_IPMASQ=false\n"
    )
    assert stat.S_IMODE(running.subnet_file.stat().st_mode) == 0o644
    assert [name for name in os.listdir(running.directory) if "subnet" in name] == ["subnet.env"]  # noqa: PTH208
    lab = [sys.executable, "-m", "overlayd.cli.overlayctl", "lab", "exec", "--name", running.lab.name, "h1", "--"]
    done = subprocess.run([*lab, *lab[:3], "docker-opts"], capture_output=True, text=True, timeout=30)
    assert done.stdout.startswith("--bip=10.1.1.1/24 "), done.stderr
    done = overlayctl(running, "docker-opts", "--subnet-file", str(running.subnet_file))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "--bip=10.1.1.1/24 --ipv6 --fixed-cidr-v6=fd00:10:1:1::/64 --ip-masq=true --mtu=1452\n"


def test_docker_opts_of_flannels_own_file(idle: Host, tmp_path: Path) -> None:
    file = tmp_path / "subnet.env"
    file.write_text(
        "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.72.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n"
    )
    done = overlayctl(idle, "docker-opts", "--subnet-file", str(file))
    assert done.stdout == "--bip=10.5.72.1/24 --ip-masq=true --mtu=1450\n"
    done = overlayctl(idle, "docker-opts", "--json", "--subnet-file", str(file))
    assert json.loads(done.stdout) == ["--bip=10.5.72.1/24", "--ip-masq=true", "--mtu=1450"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (None, "subnet.env: No such file or directory; check the path"),
        ("nothing\n", "subnet.env: is not a valid subnet.env: 'FLANNEL_IPMASQ'; overlayd writes it when it is ready"),
        (
            "FLANNEL_SUBNET=x\nFLANNEL_MTU=1\nFLANNEL_IPMASQ=true\n",
            "subnet.env: is not a valid subnet.env: 'x' does not",
        ),
    ],
)
def test_docker_opts_without_a_subnet_env(idle: Host, tmp_path: Path, text: str | None, line: str) -> None:
    file = tmp_path / "subnet.env"
    if text is not None:
        file.write_text(text)
    done = overlayctl(idle, "docker-opts", "--subnet-file", str(file))
    assert (done.returncode, done.stdout) == (1, "")
    assert one_line(done.stderr).startswith(f"overlayctl: {tmp_path}/{line}")


@pytest.mark.parametrize("command", ["status", "lease list", "reload"])
def test_no_daemon_to_ask(idle: Host, command: str) -> None:
    done = overlayctl(idle, *command.split())
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{idle.socket_path}: overlayd is not running here (no control socket); start it" in one_line(done.stderr)


def test_a_dead_daemons_socket(idle: Host) -> None:
    idle.start()
    idle.stop(9)
    done = overlayctl(idle, "status")
    assert done.returncode == 1
    assert f"{idle.socket_path}: overlayd is not running (nobody listens on its socket); start it" in done.stderr
    assert overlayd(idle, "--cleanup").returncode == 0
    idle.socket_path.unlink()


def test_health_check(running: Host) -> None:
    ask = ("curl", "-s", "-m", "5", "-w", " %{http_code}", "http://127.0.0.1:9001")
    for path in ("/healthz", "/readyz"):
        body, status = running.run(*ask[:-1], f"{ask[-1]}{path}").stdout.rsplit(" ", 1)
        assert (json.loads(body)["state"], json.loads(body)["broken"], status) == ("ready", [], "200")
    assert running.run(*ask[:-1], f"{ask[-1]}/v1/status").stdout.endswith(" 404"), "TCP serves health and no more"


def test_the_control_socket_is_not_for_everybody(running: Host) -> None:
    assert stat.S_IMODE(running.socket_path.stat().st_mode) == 0o660


def test_json_logs(running: Host) -> None:
    entries = [json.loads(line) for line in running.log().splitlines()]
    assert {"ts", "level", "msg"} <= set.intersection(*(set(entry) for entry in entries))
    ready = next(entry for entry in entries if entry["msg"] == "ready")
    assert (ready["mode"], ready["peers"], ready["mtu"]) == ("udp", 1, 1452)
    assert any(entry["level"] == "debug" for entry in entries)


def test_a_value_cannot_break_a_line_or_colour_the_terminal(idle: Host, tmp_path: Path) -> None:
    file = tmp_path / "overlayd.yaml"
    file.write_text(GOOD.replace("mode: vxlan", r'mode: "two\nlines \e[31m"'))
    done = overlayd(idle, "--config", str(file))
    assert done.returncode == 2
    assert "\x1b" not in done.stderr
    assert one_line(done.stderr).startswith(f"overlayd: {file}:1: mode: ")


def test_a_log_entry_is_one_line_whatever_is_in_it() -> None:
    with hosts(2, mode="vxlan", start=False) as (a, _):
        a.start()
        a.config_path.write_text('mode: "two\\nlines \\e[31m"\nnetwork: 10.1.0.0/16\n"net\\nwork": 10.1.0.0/16\n')
        eventually(lambda: a.status()["reload"]["error"], "the reload is refused")
        a.write_config(a.config)
        eventually(lambda: a.status()["reload"]["error"] is None, "the reload is taken")
        a.stop()
        for line in a.log().splitlines():
            assert line.startswith("ts=20"), line
            assert "\x1b" not in line
