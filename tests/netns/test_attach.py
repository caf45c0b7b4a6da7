"""overlayd attaches containers itself: two hosts, both families, whatever ends or is damaged on the way.

box1 10.1.1.2 -- ovlbr0 10.1.1.1 [h1] eth0 192.0.2.1 ======== eth0 192.0.2.2 [h2] ovlbr0 10.1.2.1 -- box2 10.1.2.2
"""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from overlayd.core.attach.errors import AttachError
from overlayd.core.attach.model import Attachment
from overlayd.core.attach.request import parse_attach
from overlayd.lab import Host, Namespace
from overlayd.system import attach_client
from support.commands import one_line, overlayctl, overlayd, reloaded
from support.containers import Box, attachments, bare_hosts, boxes, devices
from support.waiting import eventually
from support.wire import FAMILIES, MODES, tcp_carries

Pair = tuple[Host, Host]

ONLY_NET_ADMIN = ("setpriv", "--bounding-set", "-all,+net_admin", "--inh-caps", "-all")


@pytest.fixture(scope="module")
def pairs() -> Iterator[dict[str, Pair]]:
    with ExitStack() as stack:
        yield {mode: stack.enter_context(bare_hosts(2, mode=mode)) for mode in MODES}  # type: ignore[misc]


@pytest.fixture
def pair(pairs: dict[str, Pair]) -> Iterator[Pair]:
    """Two hosts on which nothing is attached, before and after."""
    a, b = pairs["vxlan"]
    yield a, b
    for host in (a, b):
        if host.pid is None:
            host.start()
        eventually(lambda host=host: attachments(host) == [], "containers that have ended are free")  # type: ignore[misc]
        eventually(lambda host=host: devices(host) == set(), "nothing is left of them")  # type: ignore[misc]
        eventually(lambda host=host: host.status()["problems"] == [])  # type: ignore[misc]


def refused(text: str, host: Host, box: Box, **given: object) -> AttachError:
    with pytest.raises(AttachError, match=text) as error:
        box.attach(host, **given)
    return error.value


# --- what it is for ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["bridge", "routed"])
@pytest.mark.parametrize("mode", MODES)
def test_containers_of_two_hosts_reach_each_other(pairs: dict[str, Pair], mode: str, way: str) -> None:
    a, b = pairs[mode]
    with boxes(3) as (one, neighbour, other):
        made = [one.attach(a, mode=way), neighbour.attach(a, mode=way), other.attach(b, mode=way)]
        for box in (neighbour, other):
            for family in FAMILIES:
                assert one.ping(box.address(family)), f"{way}, IPv{family}"
                assert box.ping(one.address(family)), f"{way}, IPv{family}, back"
        assert all(tcp_carries(200_000, one, other, other.address(family)) for family in FAMILIES)  # type: ignore[arg-type]
        assert [one.mtu for one in made] == [host.status()["overlay"]["mtu"] for host in (a, a, b)]
        assert one.ping("127.0.0.1")
        one.detach(a), neighbour.detach(a), other.detach(b)
        for host in (a, b):
            assert (devices(host), attachments(host)) == (set(), [])
            assert "ovlbr0" not in host.run("ip", "route").stdout
            assert [host.status()[key] for key in ("repairs", "comparisons", "problems")] == [0, 0, []]


def test_packets_as_large_as_the_overlay_mtu_pass(pair: Pair) -> None:
    a, b = pair
    with boxes(2) as (one, other):
        mtu = one.attach(a).mtu
        other.attach(b)
        for family in FAMILIES:
            assert one.ping(other.address(family), size=mtu, dont_fragment=True)


def test_the_first_addresses_a_wanted_one_and_its_mac(pair: Pair) -> None:
    a, _ = pair
    with boxes(3) as (one, two, three):
        first = one.attach(a)
        assert one.addresses() == [str(address) for address in first.addresses]
        made = two.attach(a, addresses=["10.1.1.77", "fd00:10:1:1::abcd"], mac="02:00:00:00:00:77")
        assert two.addresses() == ["10.1.1.77/24", "fd00:10:1:1::abcd/64"]
        assert "02:00:00:00:00:77" in two.run("ip", "link", "show", "eth0").stdout
        assert made.mac == "02:00:00:00:00:77"
        assert one.ping("10.1.1.77")
        text = f"address 10.1.1.77 is taken by {two.name} eth0; choose another one"
        assert refused(text, a, three, addresses=["10.1.1.77"]).kind == "taken"
        refused("address 10.1.2.9 is not in this host's subnet 10.1.1.0/24", a, three, addresses=["10.1.2.9"])
        assert not three.run("ip", "link", "show", "eth0", check=False).stdout


def test_networks_on_one_host_do_not_meet(pair: Pair) -> None:
    a, b = pair
    with boxes(3) as (one, blue, far):
        one.attach(a)
        blue.attach(a, network="blue")
        far.attach(b)
        for family in FAMILIES:
            assert far.ping(blue.address(family))
            assert blue.ping(far.address(family))
            assert not one.ping(blue.address(family), timeout=0.5)


def test_a_second_interface_keeps_the_default_route_of_the_first(pair: Pair) -> None:
    """What Docker's own bridge gave a container is left as it is; the overlay is reached by the new interface."""
    a, b = pair
    with boxes(2) as (box, far):
        box.ip("link add theirs type veth peer name other", "addr add 172.31.0.2/24 dev theirs", "link set theirs up")
        box.ip("link set other up", "route add default via 172.31.0.1")
        box.attach(a, interface="eth1")
        far.attach(b)
        assert "default via 172.31.0.1 dev theirs" in box.run("ip", "route").stdout
        assert box.ping(far.address(4))


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_an_interface_or_an_attachment_that_is_there_already(pair: Pair) -> None:
    a, _ = pair
    with boxes(2) as (one, two):
        two.ip("link add eth0 type veth peer name x")
        assert refused(f"container {two.name} has an interface eth0 already", a, two).kind == "exists"
        one.attach(a)
        assert (
            refused(r"is attached by eth0 already \(10\.1\.1\.\d+ and fd00:\S+\); detach it", a, one).kind == "exists"
        )
        one.attach(a, interface="eth1")
        assert len(one.detach(a)) == 2
        assert one.run("ip", "-br", "link").stdout.split()[0] == "lo"
        with pytest.raises(AttachError, match="is not attached") as error:
            one.detach(a)
        assert error.value.kind == "unknown"


@pytest.mark.parametrize("name", ["docker0", "br9"])
def test_anothers_bridge_on_the_subnet_is_named(pair: Pair, name: str) -> None:
    a, _ = pair
    with boxes(1) as (box,):
        a.ip(f"link add {name} type bridge", f"addr add 10.1.1.1/24 dev {name}")
        error = refused(f"interface {name} has 10.1.1.1/24, an address of this host's subnet", a, box)
        assert f"ip link delete {name}" in str(error)
        assert error.kind == "conflict"
        a.ip(f"link delete {name}")
        box.attach(a)


def test_a_bridge_of_that_name_that_is_not_overlayds(pair: Pair) -> None:
    a, _ = pair
    with boxes(1) as (box,):
        a.ip("link add ovlbr0 type bridge")
        refused("device ovlbr0: File exists; it is not overlayd's: remove it", a, box)
        assert "10.1.1.1" not in a.run("ip", "address", "show", "ovlbr0").stdout
        assert (attachments(a), box.run("ip", "-br", "link").stdout.split()[0]) == ([], "lo")
        a.ip("link delete ovlbr0")
        box.attach(a)


def test_the_hosts_own_namespace_is_refused(pair: Pair) -> None:
    a, _ = pair
    request = parse_attach({"container": "me", "netns": f"/run/netns/{a.namespace}"})
    with pytest.raises(AttachError, match="is this host's own network namespace"):
        attach_client.attach(a.socket_path, request)


# --- kernel settings --------------------------------------------------------------------------------------------------


def test_kernel_settings_are_the_containers(pair: Pair) -> None:
    a, _ = pair
    with boxes(1) as (box,):
        before = a.read_sysctl("net/core/somaxconn")
        box.attach(a, sysctls={"net.core.somaxconn": "1234", "net/ipv4/conf/eth0/rp_filter": "2"})
        assert box.read_sysctl("net/core/somaxconn") == "1234"
        assert box.read_sysctl("net/ipv4/conf/eth0/rp_filter") == "2"
        assert a.read_sysctl("net/core/somaxconn") == before
        assert attachments(a)[0]["sysctls"]["net.core.somaxconn"] == "1234"


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("net.ipv4.tcp_mem", "1 2 3", "sysctl net.ipv4.tcp_mem is not per network namespace"),
        ("net.ipv4.no_such_thing", "1", "sysctl net.ipv4.no_such_thing is not known here"),
        ("net.ipv4.ip_forward", "maybe", "sysctl net.ipv4.ip_forward = maybe: Invalid argument"),
    ],
)
def test_a_kernel_setting_that_cannot_be_set_attaches_nothing(pair: Pair, name: str, value: str, text: str) -> None:
    a, _ = pair
    with boxes(1) as (box,):
        refused(text, a, box, sysctls={name: value})
        assert attachments(a) == []
        assert "eth0" not in box.run("ip", "link").stdout


def test_ipv6_that_is_off_in_the_container_is_on_for_this_interface(pair: Pair) -> None:
    """As Docker leaves a container without a network."""
    a, _ = pair
    with boxes(1) as (box,):
        box.sysctl({"net/ipv6/conf/all/disable_ipv6": 1, "net/ipv6/conf/default/disable_ipv6": 1})
        box.attach(a)
        assert len(box.addresses()) == 2
        assert box.read_sysctl("net/ipv6/conf/default/disable_ipv6") == "1"


def test_packets_are_steered_at_both_ends(pair: Pair) -> None:
    a, _ = pair
    default = a.read_sysctl("net/core/rps_default_mask")
    with boxes(2) as (box, other):
        device = box.attach(a, rps="0-1").device
        assert [_steered(a, device), _steered(box, "eth0")] == [3, 3]
        assert _steered(other, other.attach(a).interface) == _steered(a, other.attach(a, interface="eth1").device) == 0
        assert a.read_sysctl("net/core/rps_default_mask") == default
        assert int(box.read_sysctl("net/core/rps_default_mask"), 16) == 0
        refused("rps: 4000: Value too large", a, other, rps="4000")


def _steered(node: Namespace, device: str) -> int:
    file = f"/sys/class/net/{device}/queues/rx-0/rps_cpus"
    shown = subprocess.run(node.enter_with_sys("cat", file), capture_output=True, text=True, check=True).stdout
    return int(shown.replace(",", ""), 16)


# --- ends and restarts ------------------------------------------------------------------------------------------------


def test_a_container_that_ends_is_noticed(pair: Pair) -> None:
    a, _ = pair
    with boxes(2) as (one, two):
        one.attach(a), two.attach(a)
        one.end()
        eventually(lambda: [found["container"] for found in attachments(a)] == [two.name])
        assert "10.1.1.2" not in a.run("ip", "neigh", "show", "dev", "ovlbr0", "nud", "permanent").stdout
        assert two.ping("10.1.1.1")
    eventually(lambda: devices(a) == set(), "the bridge goes with the last one")


def test_attachments_outlive_the_daemon(pair: Pair) -> None:
    a, b = pair
    with boxes(4) as (one, gone, routed, far):
        one.attach(a), gone.attach(a), routed.attach(a, mode="routed"), far.attach(b)
        before, state = attachments(a), a.run("ip", "addr").stdout
        for end in (signal.SIGTERM, signal.SIGKILL):
            a.stop(end)
            assert far.ping(one.address(4))
            a.start()
            assert attachments(a) == before
            assert a.run("ip", "addr").stdout == state
            assert a.status()["repairs"] == 0
        a.stop()
        gone.end()
        a.start()
        assert gone.name not in [found["container"] for found in attachments(a)], "it ended while nobody looked"
        with boxes(1) as (new,):
            assert new.attach(a).addresses[0] not in [found.addresses[0] for found in map(_stored, before)]
            assert new.ping(far.address(6))


def _stored(found: dict[str, object]) -> Attachment:
    return Attachment.of({key: value for key, value in found.items() if key not in ("device", "problem")})


def test_a_reboot_frees_everything(pair: Pair) -> None:
    a, _ = pair
    with boxes(1) as (box,):
        box.attach(a)
        a.stop()
        file = a.directory / "state" / "attachments.json"
        state = json.loads(file.read_text())
        file.write_text(json.dumps({**state, "boot_id": "another"}))
        a.start()
        assert (attachments(a), devices(a)) == ([], set())


def test_a_damaged_state_file_is_put_aside(pair: Pair) -> None:
    a, _ = pair
    file = a.directory / "state" / "attachments.json"
    with boxes(1) as (box,):
        box.attach(a)
        a.stop()
        file.write_text(file.read_text()[:-20])
        a.start()
        assert "attached containers are not known" in a.log()
        assert (attachments(a), devices(a)) == ([], set())
        assert file.with_suffix(".invalid").exists()


def test_cleanup_removes_what_containers_are_attached_by(pair: Pair) -> None:
    a, _ = pair
    with boxes(2) as (one, two):
        one.attach(a), two.attach(a, mode="routed")
        a.stop()
        assert overlayd(a, "--cleanup").returncode == 0
        assert devices(a) == set()
        a.start()
        assert attachments(a) == []
        one.attach(a)
        assert one.ping("10.1.1.1")


STEPS = ("_plan", "_save", "_add", "_set_up", "_finish")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_at_any_step_leaks_nothing(pair: Pair, step: str, moment: str) -> None:
    a, _ = pair
    a.stop()
    code = (
        "import os, signal\n"
        "import overlayd.daemon.attacher as m\n"
        f"original = m.Attacher.{step}\n"
        "def end(): os.kill(os.getpid(), signal.SIGKILL)\n"
        "import inspect\n"
        "async def slow(self, *given):\n"
        f"    {'end()' if moment == 'before' else 'pass'}\n"
        "    found = await original(self, *given)\n"
        "    end()\n"
        "def quick(self, *given):\n"
        f"    {'end()' if moment == 'before' else 'pass'}\n"
        "    found = original(self, *given)\n"
        "    end()\n"
        f"m.Attacher.{step} = slow if inspect.iscoroutinefunction(original) else quick\n"
    )
    (a.directory / "sitecustomize.py").write_text(code)
    a.start(under=["env", f"PYTHONPATH={a.directory}:{Path.cwd()}"])
    with boxes(1) as (box,):
        with pytest.raises(AttachError, match=r"overlayd (has ended without an answer|does not answer)"):
            box.attach(a, ports=[{"host_port": 8080, "container_port": 80}])
        a.stop()
        a.start()
        whole = (step, moment) == ("_finish", "after")
        assert [found["container"] for found in attachments(a)] == ([box.name] if whole else [])
        assert len(devices(a)) == 2 * whole
        assert ("overlayd_ports" in a.run("nft", "list", "tables").stdout) == whole
        with suppress(AttachError):
            box.detach(a)
        assert str(box.attach(a).addresses[0].ip).startswith("10.1.1.")
        assert box.ping("10.1.1.1")


# --- damage -----------------------------------------------------------------------------------------------------------

DAMAGE = (
    "ip link set HOST nomaster",
    "ip link set HOST down",
    "ip link set HOST mtu 1300",
    "bridge link set dev HOST hairpin on",
    "ip link delete ovlbr0",
    "ip link set ovlbr0 down",
    "ip link set ovlbr0 address 02:00:00:00:00:01",
    "ip address delete 10.1.1.1/24 dev ovlbr0",
    "ip neigh delete 10.1.1.2 dev ovlbr0",
    "ip neigh replace fd00:10:1:1::2 lladdr 02:00:00:00:00:01 dev ovlbr0 nud permanent",
)


def test_damage_is_repaired(pair: Pair) -> None:
    a, b = pair
    with boxes(2) as (box, far):
        host_end = box.attach(a, addresses=["10.1.1.2", "fd00:10:1:1::2"]).device
        far.attach(b)
        for command in DAMAGE:
            repairs = a.status()["repairs"]
            a.run(*command.replace("HOST", host_end).split())
            if "hairpin" in command:  # no notification tells of it
                overlayctl(a, "reload")
            else:
                eventually(lambda repairs=repairs: a.status()["repairs"] > repairs, command)  # type: ignore[misc]
            for family in FAMILIES:
                eventually(lambda family=family: far.ping(box.address(family)), command)  # type: ignore[misc]
        assert "hairpin off" in a.run("ip", "-d", "link", "show", host_end).stdout


def test_a_deleted_host_end_takes_its_attachment_along(pair: Pair) -> None:
    """Nobody can make it again without the container's namespace."""
    a, _ = pair
    with boxes(1) as (box,):
        a.ip(f"link delete {box.attach(a).device}")
        eventually(lambda: attachments(a) == [])
        eventually(lambda: devices(a) == set())
        box.attach(a)
        assert box.ping("10.1.1.1")


# --- leases that change -----------------------------------------------------------------------------------------------


def test_a_refresh_gives_the_new_leases_addresses_and_mtu(pair: Pair) -> None:
    a, b = pair
    before, leases = a.status()["overlay"]["mtu"], a.lab.leases()
    moved = [
        {**one, "subnet": "10.1.9.0/24", "ipv6_subnet": "fd00:10:1:9::/64"} if one["name"] == "h1" else one
        for one in leases
    ]
    with boxes(2) as (box, far):
        address = box.attach(a).addresses[0].ip
        far.attach(b)
        try:
            reloaded(a, lambda: a.lab.write_leases(moved), b)
            a.ip(f"link set eth0 mtu {1400}")
            eventually(lambda: a.status()["overlay"]["mtu"] < before)
            text = f"container {box.name} eth0: its address {address} is not in this host's subnet 10.1.9.0/24"
            assert any(one.startswith(text) for one in a.status()["problems"])
            shown = overlayctl(a, "attachment", "refresh")
            assert shown.stdout.startswith(f"{box.name} eth0: 10.1.9."), shown
            assert [one.rsplit("/", 1)[1] for one in box.addresses()] == ["24", "64"]
            assert box.addresses()[0].startswith("10.1.9.")
            assert f"mtu {a.status()['overlay']['mtu']}" in box.run("ip", "link", "show", "eth0").stdout
            assert a.status()["problems"] == []
            for family in FAMILIES:
                eventually(lambda family=family: far.ping(box.address(family)))  # type: ignore[misc]
        finally:
            a.ip("link set eth0 mtu 1500")
            reloaded(a, lambda: a.lab.write_leases(leases), b)


# --- many -------------------------------------------------------------------------------------------------------------


def test_parallel_attachments_and_detachments_agree_with_a_model(pair: Pair) -> None:
    a, _ = pair
    with boxes(20) as many:
        addresses: dict[str, str] = {}
        lock = threading.Lock()

        def live(box: Box) -> None:
            for number in range(3):
                made = box.attach(a, mode="routed" if (hash(box.name) + number) % 3 == 0 else "bridge")
                with lock:
                    own = str(made.addresses[0].ip)
                    assert own not in addresses.values()
                    addresses[box.name] = own
                if number < 2:
                    with lock:
                        del addresses[box.name]
                    box.detach(a)

        with ThreadPoolExecutor(20) as pool:
            list(pool.map(live, many))
        assert {one["container"]: one["addresses"][0].split("/")[0] for one in attachments(a)} == addresses
        assert len(devices(a)) == 21
        with ThreadPoolExecutor(20) as pool:
            list(pool.map(lambda box: box.detach(a), many))
        assert (attachments(a), devices(a)) == ([], set())


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_line(pair: Pair) -> None:
    a, _ = pair
    with boxes(2) as (box, other):
        done = overlayctl(a, "attach", box.name, "--ip", "10.1.1.50", "--sysctl", "net.core.somaxconn=99")
        assert one_line(done.stdout).startswith(f"{box.name} eth0: 10.1.1.50/24, fd00:10:1:1::")
        assert box.read_sysctl("net/core/somaxconn") == "99"
        sleeper = other.popen("sleep", "1000")
        try:
            assert overlayctl(a, "attach", str(sleeper.pid), "--mode", "routed").returncode == 0
            listed = overlayctl(a, "attachment", "list").stdout
            assert box.name in listed
            assert f"pid-{sleeper.pid}" in listed
            assert "somaxconn = 99" in overlayctl(a, "attachment", "show", box.path).stdout
            shown = json.loads(overlayctl(a, "attachment", "show", str(sleeper.pid), "--json").stdout)
            assert [one["mode"] for one in shown] == ["routed"]
            assert overlayctl(a, "detach", str(sleeper.pid)).returncode == 0
        finally:
            sleeper.kill()
        assert overlayctl(a, "detach", box.name, "--interface", "eth0").returncode == 0
        again = overlayctl(a, "detach", box.name)
        assert (again.returncode, one_line(again.stderr)) == (
            1,
            f"overlayctl: container {box.name} is not attached; see overlayctl attachment list",
        )
        missing = one_line(overlayctl(a, "attach", "no-such-namespace").stderr)
        assert missing.startswith("overlayctl: network namespace /run/netns/no-such-namespace: No such file")
        assert "--ip" not in missing


def test_a_daemon_with_cap_net_admin_alone_attaches() -> None:
    with bare_hosts(1, mode="vxlan", start=False) as (host,), boxes(1) as (box,):
        host.start(under=ONLY_NET_ADMIN)
        box.attach(host)
        for gateway in ("10.1.1.1", "fd00:10:1:1::1"):
            assert box.ping(gateway)
        box.detach(host)
        assert devices(host) == set()
