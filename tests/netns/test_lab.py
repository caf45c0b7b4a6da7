"""The lab itself: what it builds, and that nothing of it stays behind.

h1c1 10.1.1.2 -- br0 [h1] eth0 192.0.2.1 ======== eth0 192.0.2.2 [h2] br0 -- h2c1 10.1.2.2
"""

import concurrent.futures
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from overlayd.bench import tools
from overlayd.bench.endpoint import Local
from overlayd.bench.errors import BenchError
from overlayd.lab import Lab, LabError, LabSpec, Namespace, hosts, merged, reap, wait_ready
from overlayd.lab import state as states
from overlayd.lab.lab import unique_name
from overlayd.lab.namespace import NETNS_DIR
from overlayd.lab.registry import network_config
from overlayd.lab.spec import Offloads
from overlayd.lab.state import RUN_DIR, LabState, Process

ROOT = Path(__file__).parents[2]


def leftovers(name: str) -> list[str]:
    """What is still there of a lab: namespaces and its directory."""
    return states.namespaces(name) + [str(path) for path in [RUN_DIR / name] if path.exists()]


# --- what it builds ---------------------------------------------------------------------------------------------------


def test_two_hosts_on_a_cable() -> None:
    with hosts(2, mode="none", family="dual", underlay="dual", containers=2) as (a, b):
        assert a.ping("192.0.2.2", count=2)
        assert a.ping(b.public(6) or "")
        inner = a.container(1)
        assert (inner.name, str(inner.address()), str(inner.address(6))) == ("h1c2", "10.1.1.3", "fd00:10:1:1::3")
        assert inner.ping("10.1.1.1")
        assert inner.ping("fd00:10:1:1::1")
        assert inner.ping(a.container(0).address())
        assert inner.ping(a.public_ip)  # by the default route
        assert not inner.ping(b.container(0).address(), timeout=0.3), "nothing is there to carry it"
        assert a.read_sysctl("net/ipv4/ip_forward") == "0"
        assert a.lab.switch is None


def test_names_find_their_nodes() -> None:
    with hosts(2, mode="none") as (a, b):
        lab = a.lab
        assert lab.find("h2") is b
        assert lab.find("h1c1") is a.container(0)
        assert a.namespace == f"ovl-{lab.name}-h1"
        assert (NETNS_DIR / a.namespace).exists()
        with pytest.raises(LabError, match=r"h3: lab 't\d+-\d+' has h1, h1c1, h2, h2c1"):
            lab.find("h3")
        with pytest.raises(LabError, match="h1c1: has no IPv6 address"):
            a.container(0).address(6)


def test_every_other_number_of_hosts_is_on_a_switch() -> None:
    with hosts(3, mode="none", underlay="ipv6", containers=0) as nodes:
        for one in nodes:
            for other in nodes:
                assert one.ping(other.public_ip)
        switch = nodes[0].lab.find("switch")
        assert {"h1", "h2", "h3"} <= {link["ifname"] for link in json.loads(switch.run("ip", "-j", "link").stdout)}


def test_containers_have_the_overlay_mtu_and_the_wire_the_underlays() -> None:
    with hosts(2, mode="vxlan", start=False, underlay_mtu=2000) as (a, b):
        inner = a.container(0)
        assert a.plan.overlay_mtu == 1950
        assert inner.ping("10.1.1.1", size=1950, dont_fragment=True)
        assert not inner.ping("10.1.1.1", size=1951, timeout=0.3, dont_fragment=True)
        assert a.ping(b.public_ip, size=2000, dont_fragment=True)
        assert not a.ping(b.public_ip, size=2001, timeout=0.3, dont_fragment=True)


@pytest.mark.parametrize("offloads", ["on", "off"])
def test_offloads_decide_what_the_wire_sees(offloads: Offloads) -> None:
    with hosts(2, mode="none", offloads=offloads) as (a, b):
        for node, device in ((a, "eth0"), (a, "c1"), (b, "eth0"), (b.container(0), "eth0")):
            features = node.run("ethtool", "-k", device).stdout
            for feature in ("tcp-segmentation-offload", "generic-segmentation-offload"):
                assert (f"{feature}: on" in features) is (offloads == "on"), (node, device)
            assert offloads == "on" or "generic-receive-offload: off" in features, (node, device)
        wire = b.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        with wire:
            wire.bind(("eth0", 0))
            wire.setblocking(False)
            tools.throughput(Local(a), Local(b), b.public_ip, 1)
            frames = []
            with contextlib.suppress(BlockingIOError):
                while True:
                    frames.append(len(wire.recv(70000)))
        assert max(frames) >= 1514
        assert (max(frames) > 1514) is (offloads == "on")


def test_files_hold_what_the_daemons_read() -> None:
    with hosts(2, mode="udp", start=False, family="dual", settings={"udp": {"port": 9999}}) as (a, _):
        assert [row["subnet"] for row in a.lab.leases()] == ["10.1.1.0/24", "10.1.2.0/24"]
        assert a.config["udp"] == {"port": 9999}
        assert "leases_file: ../leases.yaml" in a.config_path.read_text()
        a.write_config(merged(a.config, {"mtu": 1400}))
        assert "mtu: 1400" in a.config_path.read_text()
        rows = [*a.lab.leases(), {"subnet": "10.1.9.0/24", "public_ip": "192.0.2.9"}]
        a.lab.write_leases(rows)
        assert a.lab.leases() == rows
        assert sorted(path.name for path in a.lab.directory.iterdir()) == ["h1", "h2", "lab.json", "leases.yaml"]


def test_commands_in_a_namespace() -> None:
    with hosts(2, mode="none") as (a, _):
        inner = a.container(0)
        assert inner.run("cat", input="hello").stdout == "hello"
        assert inner.run("false", check=False).returncode == 1
        with pytest.raises(LabError, match="h1c1: `sh -c 'echo why >&2; exit 3'` ended with status 3: why"):
            inner.run("sh", "-c", "echo why >&2; exit 3")
        with pytest.raises(LabError, match=r"h1c1: `sleep 9` has not ended in 0\.1 s"):
            inner.run("sleep", "9", timeout=0.1)
        with inner.socket(socket.AF_INET, socket.SOCK_DGRAM) as inside:
            inside.bind((str(inner.address()), 0))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outside, pytest.raises(OSError, match="assign"):
            outside.bind((str(inner.address()), 0))


def test_measurements_between_containers_of_one_host() -> None:
    with hosts(1, mode="none", containers=2, family="dual") as (a,):
        client, server = (Local(one) for one in a.containers)
        four, six = (a.container(1).address(family) for family in (4, 6))
        assert tools.ping(client.where, four, count=3).received == 3
        tcp = tools.throughput(client, server, six, 1, congestion="reno")
        assert tcp.bits_per_second > 0
        assert tcp.congestion == "reno"
        assert tools.transactions(client, server, four, 0.1, congestion="reno").per_second > 0
        assert tools.transactions(client, server, six, 0.1, connect=True).p99_us > 0
        with server.serving("udp"):
            for address in (four, six):
                blast = tools.blast(client, address, 64, 0.1)
                assert blast.packets > 0
                found = tools.search(client, address, 64, replace(blast, loss=1.0), 0.05)
                assert found.per_second > 0
                assert found.trials
        with pytest.raises(BenchError, match="ping: 0 of 1 answered"):
            tools.ping(client.where, "10.1.1.77", count=1)


def test_a_server_that_cannot_listen_is_told_with_its_words() -> None:
    with hosts(1, mode="none") as (a,):
        server = Local(a.container(0))
        with server.serving("udp"), pytest.raises(BenchError, match=r"udp's server does not listen.*in use"):  # noqa: SIM117
            with server.serving("udp"):
                pass


# --- nothing stays behind ---------------------------------------------------------------------------------------------


def test_down_ends_every_process_and_may_be_repeated() -> None:
    with hosts(2, mode="none") as (a, _):
        lab = a.lab
        child = a.container(0).popen("sleep", "1000")
        stranger = subprocess.Popen(a.enter("sh", "-c", "trap '' TERM; echo; sleep 1000"), stdout=subprocess.PIPE)
        assert stranger.stdout is not None
        stranger.stdout.readline()
    assert child.returncode == -signal.SIGKILL
    assert stranger.wait() == -signal.SIGKILL
    stranger.stdout.close()
    assert leftovers(lab.name) == []
    lab.down()
    assert not Lab.end(lab.name)


def test_down_works_from_parts() -> None:
    lab = Lab.up(LabSpec(name=unique_name(), mode="none"), owned=True)
    (lab.directory / "lab.json").unlink()
    subprocess.run(["ip", "netns", "delete", lab.hosts[1].namespace], check=True)
    assert Lab.end(lab.name)
    assert leftovers(lab.name) == []


def test_a_failure_in_the_middle_of_up_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "ethtool"
    broken.write_text("#!/bin/sh\necho 'netlink error: not today' >&2\nexit 75\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    name = unique_name()
    with pytest.raises(LabError, match=r"h1: `ethtool .*` ended with status 75: netlink error: not today"):
        Lab.up(LabSpec(name=name, mode="none", offloads="off"))
    assert leftovers(name) == []


def test_an_interruption_in_the_middle_of_up_leaves_nothing() -> None:
    name, steps = unique_name(), []

    def interrupt(step: str) -> None:
        steps.append(step)
        if len(steps) == 2:
            assert len(states.namespaces(name)) == 4, "it comes when something exists"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Lab.up(LabSpec(name=name), progress=interrupt)
    assert leftovers(name) == []


def test_a_daemon_that_does_not_start_shows_its_log_and_leaves_nothing() -> None:
    name = unique_name()
    with pytest.raises(LabError, match=r"(?s)h[12]: overlayd ended with status [12] before it was ready:.*nosuch0"):
        Lab.up(LabSpec(name=name, settings={"iface": "nosuch0"}))
    assert leftovers(name) == []


def test_an_error_of_ip_quotes_the_command() -> None:
    with (
        hosts(2, mode="none") as (a, _),
        pytest.raises(LabError, match=r"`ip -n ovl-\S+-h1 link set nosuch0 up` failed: .*nosuch0"),
    ):
        a.ip("link set lo up", "link set nosuch0 up", "link set eth0 up")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_lab_of_a_killed_owner_is_reaped(number: int) -> None:
    name = unique_name()
    program = f"""
from overlayd.lab import hosts
with hosts(2, mode="none", name={name!r}) as (a, b):
    b.container(0).popen("sh", "-c", "echo $$; exec sleep 1000")  # says so from inside the namespace
    input()
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as owner:
        assert owner.stdout is not None
        sleeper = Process.of(int(owner.stdout.readline()))
        assert sleeper is not None
        assert name not in reap(), "its owner lives"
        owner.send_signal(number)
        owner.wait()
    assert len(states.namespaces(name)) == 4
    assert sleeper.alive
    assert name in reap()
    assert leftovers(name) == []
    assert not sleeper.alive


def test_a_lab_without_owner_stays_until_it_is_taken_down() -> None:
    name = unique_name()
    Lab.up(LabSpec(name=name, mode="none", containers=0))
    try:
        state = LabState.load(name)
        assert state is not None
        assert state.owner is None
        assert name not in reap()
        assert Lab.load(name).find("h1").ping("192.0.2.2")
        with pytest.raises(LabError, match=f"lab '{name}' is already up: overlayctl lab down --name {name}"):
            Lab.up(LabSpec(name=name, mode="none"))
        assert Lab.load(name).find("h1").ping("192.0.2.2"), "the refusal has not harmed it"
    finally:
        Lab.end(name)
    assert leftovers(name) == []
    with pytest.raises(LabError, match=f"lab '{name}' is not up"):
        Lab.load(name)


def test_of_many_that_claim_one_name_one_gets_it() -> None:
    name = unique_name()

    def up(_: int) -> Lab | LabError:
        try:
            return Lab.up(LabSpec(name=name, mode="none", containers=0), owned=True)
        except LabError as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = list(pool.map(up, range(4)))
    labs = [result for result in results if isinstance(result, Lab)]
    assert len(labs) == 1
    assert all("is already up" in str(result) for result in results if result is not labs[0])
    labs[0].down()
    assert leftovers(name) == []


def test_an_etcd_of_three_with_certificates_and_users() -> None:
    with hosts(2, mode="none", containers=0, registry="etcd", etcd_members=3, etcd_secure=True) as (a, _):
        lab, etcd = a.lab, a.lab.etcd
        assert etcd is not None
        members = json.loads(a.run("env", *pairs(etcd.environment()), "etcdctl", "member", "list", "-w", "json").stdout)
        assert sorted(one["name"] for one in members["members"]) == ["etcd1", "etcd2", "etcd3"]
        assert etcd.below("/") == {
            "/coreos.com/network/config": json.dumps(network_config(lab.spec), separators=(",", ":"))
        }
        for variable in ("ETCDCTL_USER", "ETCDCTL_CERT"):  # neither the one nor the other is optional
            rest = {key: value for key, value in etcd.environment().items() if not key.startswith(variable)}
            without = {key: value for key, value in rest.items() if variable != "ETCDCTL_CERT" or key != "ETCDCTL_KEY"}
            done = a.run("env", *pairs(without), "etcdctl", "--command-timeout=1s", "get", "/", check=False)
            assert done.returncode != 0, f"served without {variable}"
        first = etcd.leader()
        first.kill()
        etcd.wait_ready()  # a put that goes to the dead leader waits longer than etcdctl does
        etcd.put("/coreos.com/network/x", "1")
        assert etcd.leader() is not first
        first.start()
        assert etcd.get("/coreos.com/network/x") == "1"
        loaded = Lab.load(lab.name).etcd  # as another process would see it
        assert loaded is not None
        assert [one.pid for one in loaded.members] == [one.pid for one in etcd.members]
        assert loaded.get("/coreos.com/network/x") == "1"
        processes = [one.process for one in etcd.members]
    assert not any(one is None or one.alive for one in processes)
    assert leftovers(lab.name) == []


def pairs(environment: dict[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in environment.items()]


def test_the_etcd_of_a_killed_owner_is_reaped() -> None:
    name = unique_name()
    program = f"""
import os, signal
from overlayd.lab import hosts
with hosts(1, mode="none", containers=0, registry="etcd", name={name!r}) as (a,):
    print(a.lab.etcd.members[0].pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    process = Process.of(int(done.stdout))
    assert process is not None, "it went with its owner; nothing is shown here"
    assert name in reap()
    assert not process.alive
    assert leftovers(name) == []


# --- with real daemons ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["udp", "vxlan", "host-gw"])
def test_containers_reach_each_other_in_both_families(mode: str) -> None:
    with hosts(2, mode=mode, family="dual", underlay="dual") as (a, b):
        for host in (a, b):
            assert host.status()["mode"] == mode
            assert host.ready_after is not None
        for family in (4, 6):
            assert a.container(0).ping(b.container(0).address(family), count=2)
            assert b.container(0).ping(a.container(0).address(family), size=b.plan.overlay_mtu, dont_fragment=True)
        lab = a.lab
    assert leftovers(lab.name) == []


def test_a_daemon_is_stopped_and_started_and_found_by_another_process() -> None:
    with hosts(2, mode="udp") as (a, b):
        first = a.pid
        assert first is not None
        with pytest.raises(LabError, match=f"h1: overlayd is already running \\(pid {first}\\); stop it first"):
            a.start()
        assert a.restart() == 0
        assert a.pid not in (None, first)
        assert a.container(0).ping(b.container(0).address(), count=3)
        assert a.stop(signal.SIGKILL) == -signal.SIGKILL
        assert a.pid is None
        with pytest.raises(LabError, match=r"h1: no status: .*nobody listens on its socket"):
            a.status()
        other = Lab.load(a.lab.name).hosts[1]  # as another process would see it
        assert other.pid == b.pid
        assert other.stop() is None
        assert b.pid is None
        assert b.stop() == 0, "its exit status was kept for the one that started it"


def test_a_daemon_that_hangs_is_told_by_name_with_its_log() -> None:
    with hosts(2, mode="udp", start=False) as (a, _):
        a.start(wait=False)
        process = a.process
        assert process is not None
        process.signal(signal.SIGSTOP)
        with pytest.raises(LabError, match=r"h1: overlayd is not ready after 0\.2 s:\n  "):
            wait_ready([a], timeout=0.2)
        process.signal(signal.SIGCONT)
        wait_ready([a])
        assert a.status()["state"] == "ready"


def overlayctl(*argv: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "overlayd.cli.overlayctl", "lab", *argv],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
    )


def test_the_commands_show_the_etcd() -> None:
    name = unique_name()
    run: Callable[..., subprocess.CompletedProcess[str]] = lambda verb, *rest: overlayctl(verb, "--name", name, *rest)  # noqa: E731
    try:
        up = run("up", "--mode", "none", "--registry", "etcd", "--hosts", "5")
        assert up.returncode == 0, up.stderr
        assert "┌─ etcd ──" in up.stdout
        assert "etcd on http://192.0.2.251:2379" in up.stdout
        (member,) = json.loads(run("status", "--json").stdout)["etcd"]
        process = Process.of(member.pop("pid"))
        assert process is not None
        assert member == {"name": "etcd", "url": "http://192.0.2.251:2379", "state": "leads"}
        assert f"etcd: http://192.0.2.251:2379, leads, pid {process.pid}\n" in run("status").stdout
        for node in ("etcd", "h5"):
            shown = run("exec", node, "--", "etcdctl", "get", "--prefix", "--keys-only", "/")
            assert shown.stdout.split() == ["/coreos.com/network/config"], shown.stderr
        process.signal(signal.SIGKILL)
        (member,) = json.loads(run("status", "--json").stdout)["etcd"]
        assert (member["state"], member["pid"]) == ("down", None)
    finally:
        down = run("down")
    assert (down.returncode, down.stdout) == (0, f"lab {name} is down\n")
    assert leftovers(name) == []


def test_a_users_command_has_the_sys_of_its_namespace() -> None:
    """There the machine has another eth0: a file of its queues is the real card's."""
    with hosts(2, mode="none") as (a, _):
        inner = a.container(0)

        def exec_in(node: Namespace, *argv: str) -> str:
            done = overlayctl("exec", "--name", a.lab.name, node.name, "--", *argv)
            assert done.returncode == 0, done.stderr
            return done.stdout

        queue = "/sys/class/net/eth0/queues/rx-0/rps_cpus"
        machine = Path(queue).read_text() if Path(queue).exists() else None
        assert set(exec_in(inner, "ls", "/sys/class/net").split()) == {"lo", "eth0"}
        assert set(exec_in(a, "ls", "/sys/class/net").split()) == {"lo", "eth0", "br0", "c1"}
        exec_in(inner, "sh", "-c", f"echo 1 >{queue}")
        assert exec_in(inner, "cat", queue).strip().lstrip("0,") == "1"
        assert exec_in(a, "cat", queue).strip().strip("0,") == "", "the host has an eth0 of its own"
        assert machine == (Path(queue).read_text() if Path(queue).exists() else None)
        assert exec_in(inner, "ls", "/sys/fs/cgroup").split() == sorted(os.listdir("/sys/fs/cgroup"))  # noqa: PTH208


def test_the_commands_from_up_to_down() -> None:
    name = unique_name()
    run: Callable[..., subprocess.CompletedProcess[str]] = lambda verb, *rest: overlayctl(verb, "--name", name, *rest)  # noqa: E731
    try:
        up = run("up", "--mode", "none", "--verbose")
        assert up.returncode == 0, up.stderr
        assert f"ip netns add ovl-{name}-h1c1" in up.stdout
        assert "│ h2c1      10.1.2.2" in up.stdout
        assert f"overlayctl lab exec --name {name} h1 -- ping" in up.stdout
        again = run("up", "--mode", "none")
        assert (again.returncode, again.stderr.count("\n")) == (1, 1)
        assert "is already up" in again.stderr
        status = json.loads(run("status", "--json").stdout)
        assert [host["state"] for host in status["hosts"]] == ["no daemon", "no daemon"]
        assert name in overlayctl("list").stdout
        (listed,) = [one for one in json.loads(overlayctl("list", "--json").stdout) if one["name"] == name]
        assert (listed["spec"]["mode"], listed["owner"]) == ("none", None)
        done = run("exec", "h1", "--", "sh", "-c", "echo $OVERLAYD_CONTROL_SOCKET $OVERLAYD_CONFIG; exit 7")
        own = f"/run/overlayd-lab/{name}/h1"
        assert (done.returncode, done.stdout) == (7, f"{own}/overlayd.sock {own}/overlayd.yaml\n")
        assert run("exec", "h1c1", "ping", "-c", "1", "10.1.1.1").returncode == 0
        assert run("exec", "h9", "true").returncode == 1
    finally:
        down = run("down")
    assert (down.returncode, down.stdout) == (0, f"lab {name} is down\n")
    assert leftovers(name) == []
    again = run("down")
    assert (again.returncode, again.stdout) == (1, "")
    assert f"{name}: no such lab is up" in again.stderr
