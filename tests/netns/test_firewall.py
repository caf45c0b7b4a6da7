"""Rules: the overlay talks through foreign firewalls that drop, lets in nothing else, and masquerades as flannel does.

h1c1 10.1.1.2 -- br0 10.1.1.1 [h1] eth0 192.0.2.1 ======== eth0 192.0.2.2 [h2] br0 10.1.2.1 -- h2c1 10.1.2.2
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from overlayd.core.address import Address, Family
from overlayd.lab import Host, Namespace, hosts
from overlayd.lab.namespace import ip_batch, within
from support.commands import overlayctl, overlayd, reloaded
from support.dump import assert_same, dump
from support.waiting import eventually
from support.wire import FAMILIES, MODES, UDP_PORT, VXLAN_PORT, Capture, inet, inject, udp_packet, vxlan_datagram

Pair = tuple[Host, Host]
PROBE_PORT = 8286
NFT_DROP = "add table inet filter; add chain inet filter forward { type filter hook forward priority 0; policy drop; }"


def docker_drops(host: Host) -> None:
    """What Docker does to FORWARD: the policy, and a chain for the user's own rules."""
    for tables in ("iptables", "ip6tables"):
        host.run(tables, "-P", "FORWARD", "DROP")
        host.run(tables, "-N", "DOCKER-USER")
        host.run(tables, "-A", "DOCKER-USER", "-j", "RETURN")
        host.run(tables, "-A", "FORWARD", "-j", "DOCKER-USER")


@contextlib.contextmanager
def docker_masquerades(host: Host) -> Iterator[None]:
    """What Docker does for a bridge, unless told otherwise."""
    rules = [
        (f"ip{'6' if subnet.version == 6 else ''}tables", f"POSTROUTING -s {subnet} ! -o docker0 -j MASQUERADE".split())
        for subnet in host.subnets
    ]
    for tables, rule in rules:
        host.run(tables, "-t", "nat", "-A", *rule)
    # Our table follows the chain, which stays when the rule goes, and counts anew from then on.
    eventually(lambda: "keep_source" in host.run("nft", "list", "table", "inet", "overlayd").stdout)
    try:
        yield
    finally:
        for tables, rule in rules:
            host.run(tables, "-t", "nat", "-D", *rule)


def nft_drops(host: Host) -> None:
    """What a firewall written for nftables does."""
    host.run("nft", NFT_DROP)


def talks(a: Host, b: Host, timeout: float = 2) -> bool:
    """Whether containers of both hosts reach each other in both directions and families."""
    return all(
        one.container(0).ping(other.container(0).address(family), timeout=timeout)
        for one, other in ((a, b), (b, a))
        for family in (4, 6)
    )


# Which firewall drops has nothing to do with the mode: Docker's for each mode, the other one once.
CASES = [*((mode, docker_drops) for mode in MODES), ("vxlan", nft_drops)]


@pytest.mark.parametrize(("mode", "drops"), CASES)
def test_a_forward_policy_that_drops_before_the_start(mode: str, drops: Callable[[Host], None]) -> None:
    with hosts(2, mode=mode, start=False, family="dual", underlay="dual") as (a, b):
        for host in (a, b):
            host.sysctl({"net/ipv4/ip_forward": 1, "net/ipv6/conf/all/forwarding": 1})
            drops(host)
        before = dump(a)
        a.lab.start()
        assert talks(a, b)
        running = dump(a)
        a.restart()
        assert_same(running, dump(a))  # the rules are there once, not twice
        assert talks(a, b)
        a.stop()
        assert overlayd(a, "--cleanup").returncode == 0
        assert_same(before, dump(a))
        a.start()
        assert talks(a, b)


def test_a_forward_policy_that_drops_after_the_start() -> None:
    """flannel.md 19. All cases at once, for the periodic comparison takes its time."""
    with contextlib.ExitStack() as labs:
        pairs = [labs.enter_context(hosts(2, mode=mode, family="dual", underlay="dual")) for mode, _ in CASES]
        for pair, (_, drops) in zip(pairs, CASES, strict=True):
            for host in pair:
                drops(host)
        for a, b in pairs:
            eventually(lambda a=a, b=b: talks(a, b, timeout=0.3), f"{a.lab.spec.mode}: the overlay talks again")
            assert 'msg="kernel state repaired" operation="+ nft table' in a.log()


@pytest.fixture(scope="module", params=MODES)
def docker(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """A pair whose FORWARD policy is Docker's."""
    with hosts(2, mode=request.param, start=False, family="dual", underlay="dual") as (a, b):
        for host in (a, b):
            docker_drops(host)
        a.lab.start()
        assert a.container(0).ping(b.container(0).address())
        yield a, b


def test_iptables_still_works_on_the_chain_and_shows_the_rules(docker: Pair) -> None:
    """Docker, kubelet and firewall scripts list, check and save with iptables: they must not be broken."""
    a, _ = docker
    listing = a.run("iptables", "-S", "FORWARD", check=False)
    assert listing.returncode == 0, listing.stderr
    assert "-A FORWARD -j DOCKER-USER" in listing.stdout
    assert "overlayd: " in listing.stdout
    assert a.run("iptables", "-C", "FORWARD", "-j", "DOCKER-USER", check=False).returncode == 0
    saved = a.run("iptables-save").stdout
    assert "-A FORWARD -j DOCKER-USER" in saved
    assert "incompatible" not in saved


def test_docker_may_add_and_delete_its_rules(docker: Pair) -> None:
    a, b = docker
    for verb in ("-I", "-D"):
        done = a.run("iptables", verb, "FORWARD", "-o", "docker0", "-j", "DROP", check=False)
        assert done.returncode == 0, done.stderr
    assert a.container(0).ping(b.container(0).address())


# --- what the accept rules let in -------------------------------------------------------------------------------------


def send(node: Namespace, target: str, *, source: str | None = None) -> None:
    """Send one UDP datagram to port 7777."""
    with node.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        if source is not None:
            sock.bind((source, 0))
        sock.sendto(b"one", (target, 7777))


def receiver(node: Namespace, family: Family = 4) -> socket.socket:
    """A socket that hears port 7777."""
    sock = node.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    sock.bind(("", 7777))
    sock.settimeout(5)
    return sock


def test_overlay_addresses_are_accepted_only_through_the_overlay(docker: Pair) -> None:
    """A packet with addresses of the overlay that came past it; in host-gw mode the underlay is the way."""
    a, b = docker
    b.ip("addr add 10.1.2.200/32 dev lo", "route add 10.1.1.2/32 via 192.0.2.1 dev eth0")
    try:
        with receiver(a.container(0)) as heard:
            before = forward_drops(a)
            send(b, "10.1.1.2", source="10.1.2.200")  # straight over the underlay
            if a.lab.spec.mode == "host-gw":
                assert heard.recvfrom(100)[1][0] == "10.1.2.200"
            else:
                eventually(lambda: forward_drops(a) > before, "the packet has met the policy")
            b.ip("route del 10.1.1.2/32")
            send(b, "10.1.1.2", source="10.1.2.1")  # as the overlay goes
            assert heard.recvfrom(100)[1][0] == "10.1.2.1"
    finally:
        b.ip("addr del 10.1.2.200/32 dev lo")
    rules = a.run("nft", "list", "chain", "ip", "filter", "FORWARD").stdout
    assert all("meta mark" in line for line in rules.splitlines() if "overlayd: " in line)


def test_others_are_still_dropped(docker: Pair) -> None:
    a, b = docker
    a.ip("link add other type bridge", "addr add 10.88.0.1/24 dev other", "link set other up")
    b.ip("route add 10.88.0.0/24 via 192.0.2.1")
    try:
        before = forward_drops(a)
        send(b, "10.88.0.9")
        eventually(lambda: forward_drops(a) > before, "the packet to another network has met the policy")
    finally:
        b.ip("route del 10.88.0.0/24")
        a.ip("link del other")


def forward_drops(host: Host) -> int:
    """Packets that came to the end of FORWARD, where the policy drops them."""
    text = host.run("nft", "list", "chain", "ip", "filter", "DOCKER-USER").stdout
    found = re.search(r"counter packets (\d+)", text)
    assert found is not None
    return int(found[1])


def test_forward_rules_can_be_turned_off() -> None:
    with hosts(2, mode="vxlan", start=False, settings={"forward_rules": False}) as (a, b):
        for host in (a, b):
            docker_drops(host)
        before = a.run("nft", "list", "table", "ip", "filter").stdout
        a.lab.start()
        assert not a.container(0).ping(b.container(0).address(), timeout=0.3)
        after = a.run("nft", "list", "table", "ip", "filter").stdout
        assert "overlayd" not in after
        assert before.count("\n") == after.count("\n")


# --- masquerading -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=MODES)
def masquerading(request: pytest.FixtureRequest) -> Iterator[tuple[Host, Host, Host]]:
    """Two hosts of the overlay, and a third that is an ordinary neighbour on the underlay."""
    with hosts(3, mode=request.param, start=False, family="dual", underlay="dual", settings={"ip_masq": True}) as three:
        a, b, outside = three
        a.lab.write_leases([host.plan.lease_entry() for host in (a, b)])
        for host in (a, b):
            host.start()
        # The outside world knows the way to the first host's containers, and to the whole overlay through it.
        outside.ip("route add 10.1.0.0/16 via 192.0.2.1", "route add 172.31.0.0/16 via 192.0.2.1")
        outside.run("ip", "-6", "route", "add", "fd00:10:1::/48", "via", "fd00:192:0:2::1")
        yield a, b, outside


def source_seen(sender: Namespace, target: str, listener: Namespace, mark: int = 0) -> str:
    """The source address that the listener sees of a datagram that the sender sends to `target`."""
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    with receiver(listener, 6 if ":" in target else 4) as heard, sender.socket(family, socket.SOCK_DGRAM) as sock:
        if mark:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        sock.sendto(b"one", (target, 7777))
        return str(heard.recvfrom(100)[1][0])


def test_probes_keep_their_port_though_connections_are_tracked(masquerading: tuple[Host, Host, Host]) -> None:
    """The two hosts, of which one was silent at first, send to each other from and to one port."""
    hosts_with_leases = masquerading[:2]
    for host in hosts_with_leases:
        states = partial(lambda host: {one["state"] for peer in host.status()["peers"] for one in peer["probes"]}, host)
        eventually(lambda states=states: states() == {"reachable"})
    for host in hosts_with_leases:
        assert json.loads(overlayctl(host, "counters", "--json").stdout)["probes"]["drops"] == {}


def test_container_to_the_outside_is_masqueraded(masquerading: tuple[Host, Host, Host]) -> None:
    a, _, outside = masquerading
    assert source_seen(a.container(0), "192.0.2.3", outside) == "192.0.2.1"
    assert source_seen(a.container(0), "fd00:192:0:2::3", outside) == "fd00:192:0:2::1"


def test_container_to_a_remote_container_is_not(masquerading: tuple[Host, Host, Host]) -> None:
    a, b, _ = masquerading
    for one, other in ((a, b), (b, a)):
        for family in (4, 6):
            inner, far = one.container(0), other.container(0)
            assert source_seen(inner, str(far.address(family)), far) == str(inner.address(family))


def test_the_outside_to_an_own_container_is_not(masquerading: tuple[Host, Host, Host]) -> None:
    a, _, outside = masquerading
    assert source_seen(outside, "10.1.1.2", a.container(0)) == "192.0.2.3"
    assert source_seen(outside, "fd00:10:1:1::2", a.container(0)) == "fd00:192:0:2::3"


def test_the_outside_to_a_remote_container_is(masquerading: tuple[Host, Host, Host]) -> None:
    """A packet from outside that this host passes on into the overlay: the answer must come back through it."""
    a, b, outside = masquerading
    seen = source_seen(outside, "10.1.2.2", b.container(0))
    assert seen == {"udp": "10.1.1.0", "vxlan": "10.1.1.0", "host-gw": "192.0.2.1"}[a.lab.spec.mode]


def test_docker_may_masquerade_but_not_between_hosts(docker: Pair) -> None:
    """Its default rule says: whatever leaves by another device than its bridge."""
    a, b = docker
    for family in FAMILIES:  # a connection is translated, or not, as its first packet was
        assert source_seen(a.container(0), str(b.container(0).address(family)), b.container(0)) == str(
            a.container(0).address(family)
        )
    with docker_masquerades(a):
        for family in FAMILIES:
            inner, far = a.container(0), b.container(0)
            assert source_seen(inner, str(far.address(family)), far) == str(inner.address(family))
            assert source_seen(inner, str(b.public(family)), b) == str(a.public(family))


def test_docker_restarts_when_masquerading_was_turned_on() -> None:
    """Our table follows its rules; nothing was damaged, and what is logged says in short what is new."""
    with hosts(2, mode="vxlan", settings={"ip_masq": False}) as (a, b):
        reloaded(a, lambda: a.write_config({**a.config, "ip_masq": True}))
        for policy, present in (("DROP", True), ("ACCEPT", False), ("DROP", True)):
            a.run("iptables", "-P", "FORWARD", policy)
            table = ("nft", "list", "table", "inet", "overlayd")
            eventually(lambda present=present, table=table: ("unmark" in a.run(*table).stdout) is present)
        assert a.container(0).ping(b.container(0).address())
        lines = [line for line in a.log().splitlines() if "nft table inet overlayd" in line]
        assert all('msg="rules adapted to other firewalls"' in line and len(line) < 500 for line in lines), lines
        assert len(lines) == 3
        assert 'msg="kernel state repaired" operation="+ nft element' not in a.log()


# --- ports of the overlay ---------------------------------------------------------------------------------------------

PORTS = {"udp": (UDP_PORT, PROBE_PORT), "vxlan": (VXLAN_PORT, PROBE_PORT), "host-gw": (PROBE_PORT,)}


def assert_ports_are_closed(a: Host, b: Host) -> None:
    """The first host's container reaches the second at other ports, but not at the overlay's; the drops are counted."""
    inner, ports = a.container(0), PORTS[a.lab.spec.mode]
    before, listed = Counter(a.status()["drops"]["tx"]), ", ".join(map(str, sorted(ports)))
    with Capture(b, "eth0") as capture:
        for family in FAMILIES:
            for port in ports:
                inject(inner, b.public(family), port, b"forged", b"forged")
            inject(inner, b.public(family), 9, b"control")
        eventually(lambda: len([one for one in capture.incoming("eth0") if b"control" in one.data]) == 2)
        assert not [frame for frame in capture.incoming("eth0") if b"forged" in frame.data]
    rules = [f"from {subnet} to a host's overlay port (UDP {listed})" for subnet in a.subnets]
    found = Counter(a.status()["drops"]["tx"]) - before
    assert {rule: found[rule] for rule in rules} == dict.fromkeys(rules, 2 * len(ports))
    assert all(rule in overlayctl(a, "counters").stdout for rule in rules)


def test_a_container_cannot_speak_for_its_host(masquerading: tuple[Host, Host, Host]) -> None:
    """Its datagram would arrive with the address of a peer."""
    a, b, _ = masquerading
    assert_ports_are_closed(a, b)


def test_a_container_cannot_speak_for_its_host_by_dockers_masquerading(docker: Pair) -> None:
    a, b = docker
    assert_ports_are_closed(a, b)  # where nobody masquerades
    with docker_masquerades(a):
        assert_ports_are_closed(a, b)


BRIDGED = {4: "172.17.0.", 6: "fd17::"}


@contextlib.contextmanager
def docker_network(host: Host) -> Iterator[Namespace]:
    """A container on Docker's own bridge, which Docker masquerades and lets out."""
    box = Namespace("h9", host.lab.spec.namespace("h9"))  # a name that the lab removes and does not use
    ip_batch([f"netns add {box.namespace}"])
    host.ip("link add docker0 type bridge", f"link add box type veth peer name eth0 netns {box.namespace}")
    host.ip("link set box master docker0 up", "link set docker0 up")
    box.ip("link set eth0 up")
    rules = []
    for family, prefix in BRIDGED.items():
        length, nodad = (16, "") if family == 4 else (64, " nodad")
        host.ip(f"addr add {prefix}1/{length} dev docker0{nodad}")
        box.ip(f"addr add {prefix}2/{length} dev eth0{nodad}")
        box.run("ip", f"-{family}", "route", "add", "default", "via", f"{prefix}1")
        tables = "iptables" if family == 4 else "ip6tables"
        rules.append((tables, f"POSTROUTING -t nat -s {prefix}0/{length} ! -o docker0 -j MASQUERADE"))
        rules.append((tables, "FORWARD -i docker0 -j ACCEPT"))
    for tables, rule in rules:
        host.run(*f"{tables} -A {rule}".split())
    eventually(lambda: "keep_source" in host.run("nft", "list", "table", "inet", "overlayd").stdout)
    try:
        yield box
    finally:
        for tables, rule in rules:
            host.run(*f"{tables} -D {rule}".split())
        host.ip("link del docker0", "link del box")
        ip_batch([f"netns del {box.namespace}"])


def test_containers_of_other_networks_cannot_speak_for_their_host(masquerading: tuple[Host, Host, Host]) -> None:
    a, b, _ = masquerading
    assert_ports_are_closed_to_other_networks(a, b)


def test_nor_where_only_docker_masquerades(docker: Pair) -> None:
    assert_ports_are_closed_to_other_networks(*docker)


def assert_ports_are_closed_to_other_networks(a: Host, b: Host) -> None:
    """Nor can they by a forged source, be it their host's or a peer's, which nobody masquerades."""
    ports = PORTS[a.lab.spec.mode]
    listed = ", ".join(map(str, sorted(ports)))
    with docker_network(a) as box, Capture(b, "eth0") as capture:
        before = Counter(a.status()["drops"]["tx"])
        for family in FAMILIES:
            for port in ports:
                inject(box, b.public(family), port, b"forged", b"forged")
                forge(box, b.public(family), b.public(family), port)
                if family == 6:  # over IPv4 the kernel refuses its own addresses as a source
                    forge(box, a.public(family), b.public(family), port)
            inject(box, b.public(family), 9, b"control")
        eventually(lambda: len([one for one in capture.incoming("eth0") if b"control" in one.data]) == 2)
        frames = capture.incoming("eth0")
        assert not [frame for frame in frames if b"forged" in frame.data]
        controls = [frame.ip for frame in frames if b"control" in frame.data]
        assert all(a.public(ip[0] >> 4).packed in ip for ip in controls), "they are masqueraded"
        found = Counter(a.status()["drops"]["tx"]) - before
    del found["source_not_own"]
    text = "{} to a peer's overlay port (IPv{}, UDP {})"
    number = len(ports)
    assert found == {
        text.format("from others than peers", 4, listed): 2 * number,
        text.format("from others than peers", 6, listed): 3 * number,
        text.format("with a peer's address from elsewhere", 4, listed): number,
        text.format("with a peer's address from elsewhere", 6, listed): number,
    }


def forge(sender: Namespace, source: Address, target: Address, port: int) -> None:
    """Send one UDP datagram under another source address."""
    with sender.socket(inet(target), socket.SOCK_RAW, socket.IPPROTO_RAW) as out:
        out.sendto(udp_packet(source, target, b"forged", port), (str(target), 0))


def refused(host: Host) -> Counter[str]:
    """What came to the host from senders that are no peers, probes included."""
    counted = json.loads(overlayctl(host, "counters", "--json").stdout)
    return Counter(counted["drops"]["rx"]) + Counter(counted["probes"]["drops"])


def test_its_own_host_refuses_a_container_at_the_overlays_ports(docker: Pair) -> None:
    """To the host itself nothing is masqueraded: the sender holds no lease."""
    a, _ = docker
    ports, before = PORTS[a.lab.spec.mode], refused(a)
    for family in FAMILIES:
        for port in ports:
            inject(a.container(0), a.public(family), port, vxlan_datagram(1, *["02:00:00:00:00:01"] * 2, b"\x45"))
    eventually(lambda: (refused(a) - before).total() == 2 * len(ports))


def test_what_is_marked_already_is_left_alone(masquerading: tuple[Host, Host, Host]) -> None:
    """Kubernetes marks with 0x4000 what it masquerades itself; the mark is set by the host, not the container."""
    a, _, outside = masquerading
    rule = "add table ip k8s; add chain ip k8s pre { type filter hook prerouting priority -150; };"
    a.run("nft", f"{rule} add rule ip k8s pre ip saddr 10.1.1.2 meta mark set 0x4000")
    try:
        outside.ip("route replace 10.1.1.0/24 via 192.0.2.1")
        assert source_seen(a.container(0), "192.0.2.3", outside) == "10.1.1.2"
    finally:
        a.run("nft", "delete table ip k8s")


def test_multicast_is_not_masqueraded(masquerading: tuple[Host, Host, Host]) -> None:
    """A host does not forward multicast by itself; what it sends with a container subnet's address must keep it."""
    a, _, outside = masquerading
    group = "239.1.2.3"
    with receiver(outside) as heard, a.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        join = partial(
            heard.setsockopt,
            socket.IPPROTO_IP,
            socket.IP_ADD_MEMBERSHIP,
            socket.inet_aton(group) + socket.inet_aton("192.0.2.3"),
        )
        within(outside.namespace, join)
        sock.bind(("10.1.1.1", 0))
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("192.0.2.1"))
        sock.sendto(b"one", (group, 7777))
        assert heard.recvfrom(100)[1][0] == "10.1.1.1"


def test_without_masquerading_sources_stay(docker: Pair) -> None:
    a, b = docker
    assert "masquerade" not in a.run("nft", "list", "ruleset").stdout
    b.ip("route add 10.1.1.2/32 via 192.0.2.1")
    try:
        assert source_seen(a.container(0), "192.0.2.2", b) == "10.1.1.2"
    finally:
        b.ip("route del 10.1.1.2/32")


# --- forwarding -------------------------------------------------------------------------------------------------------


def test_forwarding_is_turned_on_or_only_reported() -> None:
    keys = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding")
    with hosts(2, mode="vxlan", start=False, family="dual", underlay="dual") as (a, b):
        a.start()
        assert [a.read_sysctl(key) for key in keys] == ["1", "1"]
        assert a.log().count('msg="forwarding turned on"') == 2
        a.sysctl(dict.fromkeys(keys, 0))
        eventually(lambda: [a.read_sysctl(key) for key in keys] == ["1", "1"], "forwarding is repaired", timeout=3)
        for key in keys:
            assert f'msg="kernel state repaired" operation="{key.replace("/", ".")} = 1"' in a.log()
        eventually(lambda: (a.status()["problems"], a.status()["repairs"]) == ([], 2))
        b.write_config({**b.config, "ip_forward": "check"})
        b.start()
        assert [b.read_sysctl(key) for key in keys] == ["0", "0"]
        said = [line for line in b.log().splitlines() if 'msg="forwarding is off' in line]
        assert len(said) == 2
        assert all("level=error" in line for line in said)
        assert 'remedy="sysctl -w net.ipv4.ip_forward=1, or ip_forward: set"' in said[0]
        eventually(lambda: any("net.ipv4.ip_forward is off" in one for one in b.status()["problems"]))
        b.sysctl(dict.fromkeys(keys, 1))
        mark = len(b.log())
        b.restart()
        assert "forwarding" not in b.log()[mark:]
