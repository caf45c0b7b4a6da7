"""Published ports: reached from everywhere, in both families and all protocols, and closed to what they must not open.

                                                 h2 ===== eth0 192.0.2.1 [h1] ovlbr0 10.1.1.1 -- web 10.1.1.2
from another host, from the host itself, from its 127.0.0.1,                                  -- other 10.1.1.3
from another container, from the container itself
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pytest

from overlayd.core.address import Address, Family
from overlayd.core.attach.errors import AttachError
from overlayd.lab import Host, Namespace
from support.commands import overlayctl
from support.containers import Box, attachments, bare_hosts, boxes, devices
from support.waiting import eventually
from support.wire import FAMILIES, inet, udp_packet

ONLY_NET_ADMIN = ("setpriv", "--bounding-set", "-all,+net_admin", "--inh-caps", "-all")
HOST_ADDRESSES = {4: "192.0.2.1", 6: "fd00:192:0:2::1"}
GATEWAYS = {4: "10.1.1.1", 6: "fd00:10:1:1::1"}
KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
LIMIT = 10  # seconds; only a failure takes that long

Pair = tuple[Host, Host]


@pytest.fixture(scope="module")
def hosts_() -> Iterator[Pair]:
    with bare_hosts(2, mode="vxlan") as (a, b):
        # The kernel sends one "port unreachable" a second to each host: too few for tests that follow one another.
        a.sysctl({"net/ipv4/icmp_ratelimit": 0, "net/ipv6/icmp/ratelimit": 0})
        yield a, b


@pytest.fixture
def pair(hosts_: Pair) -> Iterator[Pair]:
    """Two hosts on which nothing is published, before and after."""
    a, b = hosts_
    yield a, b
    if a.pid is None:
        a.start()
    eventually(lambda: attachments(a) == [], "containers that have ended are free")
    eventually(lambda: devices(a) == set(), "nothing is left of them")
    eventually(lambda: "overlayd_ports" not in a.run("nft", "list", "tables").stdout, "nor of their ports")
    assert a.status()["problems"] == []


def published(host: Host, box: Box, *ports: dict[str, Any], **given: Any) -> list[int]:
    """Attach it with these ports of both families; the host's ports."""
    wanted = [{"protocol": "tcp", "host_address": None, "host_port": 0, **port} for port in ports]
    return [port.host_port for port in box.attach(host, ports=wanted, **given).ports]


# --- connections ------------------------------------------------------------------------------------------------------


def listener(namespace: Namespace, family: Family, protocol: str, port: int, address: str = "") -> socket.socket:
    server = namespace.socket(socket.AF_INET if family == 4 else socket.AF_INET6, KINDS[protocol])
    if family == 6:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((address, port))
    server.settimeout(LIMIT)
    if protocol == "tcp":
        server.listen()
    return server


def who_connects(namespace: Namespace, address: Address | str, port: int, server: socket.socket) -> Address:
    """A question and an answer between a client in `namespace` and the server; the client's address there."""
    with namespace.socket(inet(address), server.type) as client:
        client.settimeout(LIMIT)
        client.connect((str(address), port))
        client.send(b"question")
        if server.type == socket.SOCK_STREAM:
            connection, peer = server.accept()
            connection.settimeout(LIMIT)
            with connection:
                assert connection.recv(100) == b"question"
                connection.send(b"answer")
        else:
            text, peer = server.recvfrom(100)
            assert text == b"question"
            server.sendto(b"answer", peer)
        assert client.recv(100) == b"answer"
    return ip_address(peer[0])


def is_refused(namespace: Namespace, address: Address | str, port: int, protocol: str = "tcp") -> bool:
    """Whether nobody takes what is sent there, and the sender learns it at once."""
    with namespace.socket(inet(address), KINDS[protocol]) as client:
        client.settimeout(LIMIT)
        try:
            client.connect((str(address), port))
            client.send(b"question")
            client.recv(100)
        except ConnectionRefusedError:
            return True
    return False


@pytest.mark.parametrize("protocol", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mode", ["bridge", "routed"])
@pytest.mark.parametrize("bridge_filter", [0, 1])
def test_a_port_is_reached_from_everywhere(
    pair: Pair, protocol: str, family: Family, mode: str, bridge_filter: int
) -> None:
    host, elsewhere = pair
    filters = {f"net/bridge/bridge-nf-call-{name}": bridge_filter for name in ("iptables", "ip6tables")}
    host.sysctl(filters)
    with boxes(2) as (web, other):
        other.attach(host, mode=mode)
        [port] = published(host, web, {"protocol": protocol, "host_port": 8080, "container_port": 80}, mode=mode)
        server = listener(web, family, protocol, 80)
        own, gateway = ip_address(HOST_ADDRESSES[family]), ip_address(GATEWAYS[family])
        assert who_connects(elsewhere, own, port, server) == elsewhere.public(family), "seen as it is"
        assert who_connects(host, own, port, server) in (own, gateway)
        assert who_connects(host, gateway, port, server) == gateway
        if family == 4:
            assert who_connects(host, "127.0.0.1", port, server) == gateway
        else:
            assert is_refused(host, "::1", port, protocol), "programs go on to 127.0.0.1"
        for to in (own, gateway):
            assert who_connects(other, to, port, server) == gateway, f"another container to {to}"
            assert who_connects(web, to, port, server) == gateway, f"itself to {to}"
        assert is_refused(elsewhere, own, port + 1, protocol)
        web.detach(host)
        assert is_refused(elsewhere, own, port, protocol)


def test_a_port_of_one_address(pair: Pair) -> None:
    host, elsewhere = pair
    host.ip("address add 192.0.2.101/24 dev eth0", "address add fd00:192:0:2::101/64 dev eth0 nodad")
    try:
        with boxes(3) as (first, second, local):
            for box, suffix in ((first, "1"), (second, "101")):
                addresses = (f"192.0.2.{suffix}", f"fd00:192:0:2::{suffix}")
                published(
                    host, box, *({"host_address": one, "host_port": 80, "container_port": 8} for one in addresses)
                )
            published(host, local, {"host_address": "127.0.0.1", "host_port": 80, "container_port": 8})
            for family in FAMILIES:
                one, two = (listener(box, family, "tcp", 8) for box in (first, second))
                suffixes = {4: ("192.0.2.1", "192.0.2.101"), 6: ("fd00:192:0:2::1", "fd00:192:0:2::101")}[family]
                for address, server in zip(suffixes, (one, two), strict=True):
                    assert who_connects(elsewhere, address, 80, server) == elsewhere.public(family)
            assert who_connects(host, "127.0.0.1", 80, listener(local, 4, "tcp", 8)) == ip_address("10.1.1.1")
            assert is_refused(elsewhere, "10.1.1.1", 80)
    finally:
        host.ip("address del 192.0.2.101/24 dev eth0", "address del fd00:192:0:2::101/64 dev eth0")


@pytest.mark.parametrize("mode", ["bridge", "routed"])
def test_from_a_container_on_another_host(pair: Pair, mode: str) -> None:
    """By the gateway's address; with addresses of its own, as between any two hosts."""
    host, elsewhere = pair
    with boxes(2) as (web, far):
        made = far.attach(elsewhere)
        published(host, web, {"host_port": 8080, "container_port": 80}, mode=mode)
        for family in FAMILIES:
            server = listener(web, family, "tcp", 80)
            assert who_connects(far, GATEWAYS[family], 8080, server) == made.address(family)
        far.detach(elsewhere)


def test_through_a_firewall_that_drops(pair: Pair) -> None:
    host, elsewhere = pair
    drop = "add table inet filter; add chain inet filter forward { type filter hook forward priority 0; policy drop; }"
    host.run("nft", drop)
    try:
        eventually(lambda: "overlayd" in host.run("nft", "list", "chain", "inet", "filter", "forward").stdout)
        with boxes(1) as (web,):
            published(host, web, {"host_port": 8080, "container_port": 80})
            for family in FAMILIES:
                server = listener(web, family, "tcp", 80)
                assert who_connects(elsewhere, HOST_ADDRESSES[family], 8080, server) == elsewhere.public(family)
    finally:
        host.run("nft", "delete table inet filter")


# --- what stays closed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["bridge", "routed"])
def test_loopback_addresses_stay_out_of_reach(pair: Pair, mode: str) -> None:
    """Of the host's programs, and of a port that is published there; for containers and for other hosts."""
    host, elsewhere = pair
    with boxes(2) as (web, intruder), contextlib.ExitStack() as stack:
        any_port = {"protocol": "tcp", "host_address": None, "host_port": 0, "container_port": 1}
        made = intruder.attach(host, mode=mode, ports=[any_port])
        local = {"protocol": "udp", "host_address": "127.0.0.1", "host_port": 5353, "container_port": 53}
        published(host, web, local, mode=mode)
        own, inner = listener(host, 4, "udp", 9000, "127.0.0.1"), listener(web, 4, "udp", 53)
        stack.enter_context(own), stack.enter_context(inner)
        assert who_connects(host, "127.0.0.1", 5353, inner) == ip_address("10.1.1.1")
        device = made.device if mode == "routed" else "ovlbr0"
        senders = [(intruder, mac_of(host, device), made.address(4)), (elsewhere, mac_of(host, "eth0"), "192.0.2.2")]
        for sender, mac, source in senders:
            for to, port in (("127.0.0.1", 9000), ("127.0.0.1", 5353), ("127.0.0.2", 9000)):
                send_frame(sender, mac, udp_packet(str(source), to, b"intruder", port))
        send_frame(intruder, senders[0][1], udp_packet("127.0.0.1", "10.1.1.1", b"intruder", 9000))
        eventually(lambda: drops(host, "to a loopback address") >= 2)
        assert not select.select([own, inner], [], [], 0.2)[0]
        host.stop(signal.SIGKILL)
        host.run("nft", "flush chain inet overlayd_ports loopback")
        send_frame(intruder, senders[0][1], udp_packet(str(made.address(4)), "127.0.0.1", b"proof", 9000))
        assert own.recv(100) == b"proof", "it is the rules that keep them out"
        host.start()
        assert drops(host, "to a loopback address") == 0
        send_frame(intruder, senders[0][1], udp_packet(str(made.address(4)), "127.0.0.1", b"again", 9000))
        eventually(lambda: drops(host, "to a loopback address") == 1)


def mac_of(host: Host, device: str) -> bytes:
    [found] = json.loads(host.run("ip", "-j", "link", "show", "dev", device).stdout)
    return bytes.fromhex(found["address"].replace(":", ""))


def send_frame(sender: Namespace, mac: bytes, content: bytes) -> None:
    """An Ethernet frame as no IP stack would send it."""
    with sender.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as raw:
        raw.sendto(content, ("eth0", 0x0800, 0, 0, mac))


def drops(host: Host, text: str) -> int:
    """What the rules with this in their comment have dropped."""
    listing = json.loads(host.run("nft", "-j", "list", "table", "inet", "overlayd_ports").stdout)["nftables"]
    rules = [item["rule"] for item in listing if text in item.get("rule", {}).get("comment", "")]
    return sum(one["counter"]["packets"] for rule in rules for one in rule["expr"] if "counter" in one)


# --- who has a port ---------------------------------------------------------------------------------------------------


def test_a_port_that_is_taken_names_its_holder(pair: Pair) -> None:
    host, _ = pair
    with boxes(2) as (web, other), listener(host, 4, "tcp", 8081, "127.0.0.1"), listener(host, 6, "udp", 8081):
        published(host, web, {"host_port": 8080, "container_port": 80})
        here = f"python3? .process {os.getpid()}.|pytest.*process {os.getpid()}.|.* .process {os.getpid()}."
        for port, text in (
            ({"host_port": 8080}, f"port 8080/tcp is taken by container {web.name} eth0; publish another one"),
            ({"host_port": 8080, "host_address": "192.0.2.1"}, "port 192.0.2.1:8080/tcp is taken by container"),
            ({"host_port": 8081}, f"port 8081/tcp is taken by ({here}); publish another one"),
            ({"host_port": 8081, "protocol": "udp"}, f"port 8081/udp is taken by ({here})"),
            ({"host_port": 8285, "protocol": "udp", "host_address": "::1"}, "Linux sends nothing from ::1"),
        ):
            with pytest.raises(AttachError, match=text) as caught:
                published(host, other, {"container_port": 81, **port})
            assert caught.value.kind in ("taken", "invalid")
        assert len(attachments(host)) == 1
        published(host, other, {"host_port": 8081, "host_address": "192.0.2.1", "container_port": 81})


def test_ports_are_chosen_published_and_listed(pair: Pair) -> None:
    host, elsewhere = pair
    with boxes(1) as (web,):
        ways = ("-p", "80", "-p", "5353:53/udp", "--publish", "127.0.0.1:8080-8081:80-81")
        own = ("--ip", "10.1.1.99", "--ip", "fd00:10:1:1::99")
        said = overlayctl(host, "attach", web.path, "--name", "web", *own, *ways).stdout
        chosen = attachments(host)[0]["ports"][0]["host_port"]
        assert chosen >= 49152
        ports = f"{chosen}->80/tcp, 5353->53/udp, 127.0.0.1:8080->80/tcp, 127.0.0.1:8081->81/tcp"
        assert said.strip().endswith(f", ports {ports}")
        for family in FAMILIES:
            server = listener(web, family, "tcp", 80)
            assert who_connects(elsewhere, HOST_ADDRESSES[family], chosen, server) == elsewhere.public(family)
        lines = overlayctl(host, "port", "list").stdout.splitlines()
        assert [line.split() for line in lines] == [
            ["PORT", "LEADS", "TO", "CONTAINER", "INTERFACE"],
            ["*:5353/udp", "10.1.1.99:53", "web", "eth0"],
            ["*:5353/udp", "[fd00:10:1:1::99]:53", "web", "eth0"],
            ["127.0.0.1:8080/tcp", "10.1.1.99:80", "web", "eth0"],
            ["127.0.0.1:8081/tcp", "10.1.1.99:81", "web", "eth0"],
            [f"*:{chosen}/tcp", "10.1.1.99:80", "web", "eth0"],
            [f"*:{chosen}/tcp", "[fd00:10:1:1::99]:80", "web", "eth0"],
        ]
        listed = json.loads(overlayctl(host, "port", "list", "--json").stdout)
        assert len(listed) == 6
        assert listed[0]["container"] == "web"
        overlayctl(host, "detach", "web")
    assert "no ports are published" in overlayctl(host, "port", "list").stdout


# --- life -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["bridge", "routed"])
def test_ports_survive_the_daemon_and_end_with_their_container(pair: Pair, mode: str) -> None:
    host, elsewhere = pair
    with boxes(2) as (web, other):
        published(host, web, {"host_port": 8080, "container_port": 80}, mode=mode)
        published(host, other, {"host_port": 8081, "container_port": 80}, mode=mode)
        server = listener(web, 4, "tcp", 80)

        def connects() -> bool:
            return who_connects(elsewhere, "192.0.2.1", 8080, server) == elsewhere.public(4)

        assert connects()
        host.stop(signal.SIGKILL)
        assert connects()
        host.start()
        assert connects()
        assert host.status()["repairs"] == 0
        other.end()
        eventually(lambda: elements(host) == {8080}, "the dead container's port is free")
        assert is_refused(elsewhere, "192.0.2.1", 8081)
        host.stop(signal.SIGKILL)
        server.close()
        web.end()  # while nobody looks
        host.start()
        eventually(lambda: elements(host) == set())
        assert is_refused(elsewhere, "192.0.2.1", 8080)


def elements(host: Host) -> set[int]:
    """The published ports in the kernel."""
    listing = json.loads(host.run("nft", "-j", "list", "ruleset").stdout)["nftables"]
    return {key["concat"][-1] for item in listing for key, _ in item.get("map", {}).get("elem", [])}


def test_what_somebody_damages_is_repaired(pair: Pair) -> None:
    host, elsewhere = pair
    with boxes(1) as (web,):
        published(host, web, {"host_port": 8080, "container_port": 80})
        server = listener(web, 4, "tcp", 80)
        before = host.run("nft", "list", "table", "inet", "overlayd_ports").stdout
        for damage in ("flush map inet overlayd_ports ports4", "delete table inet overlayd_ports"):
            host.run("nft", damage)
            eventually(lambda: host.run("nft", "list", "table", "inet", "overlayd_ports", check=False).stdout == before)
            assert who_connects(elsewhere, "192.0.2.1", 8080, server) == elsewhere.public(4)
        setting = "net/ipv4/conf/ovlbr0/route_localnet"
        assert host.read_sysctl(setting) == "1"
        web.detach(host)


def test_a_udp_client_follows_its_port(pair: Pair) -> None:
    """From one container to the next: the client goes on sending, and the kernel would go on sending it astray, even
    without a table of ours, for the sake of somebody else's NAT."""
    host, elsewhere = pair
    host.run("nft", "add table inet nat; add chain inet nat none { type nat hook prerouting priority -99; }")
    port = {"protocol": "udp", "host_port": 5353, "container_port": 53}
    for family in FAMILIES:
        with boxes(2) as found, elsewhere.socket(inet(HOST_ADDRESSES[family]), socket.SOCK_DGRAM) as client:
            client.settimeout(LIMIT)
            client.connect((HOST_ADDRESSES[family], 5353))
            for box in found:
                client.send(b"nobody yet")
                with pytest.raises(ConnectionRefusedError):
                    client.recv(100)
                published(host, box, port)
                with listener(box, family, "udp", 53) as server:
                    client.send(b"question")
                    assert server.recv(100) == b"question"
                box.detach(host)
    host.run("nft", "delete table inet nat")


def test_a_daemon_with_cap_net_admin_alone() -> None:
    with bare_hosts(2, mode="vxlan", start=False) as (host, elsewhere), boxes(2) as (web, other):
        host.start(under=ONLY_NET_ADMIN)
        published(host, web, {"host_port": 80, "container_port": 80}, {"protocol": "udp", "container_port": 53})
        assert who_connects(host, "127.0.0.1", 80, listener(web, 4, "tcp", 80)) == ip_address("10.1.1.1")
        for family in FAMILIES:
            server = listener(web, family, "udp", 53)
            port = attachments(host)[0]["ports"][1]["host_port"]
            who_connects(elsewhere, HOST_ADDRESSES[family], port, server)
        web.detach(host)
        assert is_refused(elsewhere, HOST_ADDRESSES[4], port, "udp"), "forgotten by conntrack as well"
        assert other.attach(host).ports == ()


# --- SCTP -------------------------------------------------------------------------------------------------------------


def crc32c(data: bytes) -> int:
    """RFC 9260 appendix A, bit by bit."""
    found = 0xFFFFFFFF
    for byte in data:
        found ^= byte
        for _ in range(8):
            found = found >> 1 ^ (0x82F63B78 if found & 1 else 0)
    return found ^ 0xFFFFFFFF


def sctp_init(port: int) -> bytes:
    """The first packet of an association: this kernel has no SCTP sockets."""
    chunk = struct.pack("!BBHIIHHI", 1, 0, 20, 0x01020304, 65535, 1, 1, 7)
    header = struct.pack("!HHI", 40000, port, 0)
    checksum = crc32c(header + bytes(4) + chunk)
    return header + struct.pack("<I", checksum) + chunk


@pytest.mark.parametrize("family", FAMILIES)
def test_sctp(pair: Pair, family: Family) -> None:
    host, elsewhere = pair
    with boxes(1) as (web,):
        published(host, web, {"protocol": "sctp", "host_port": 9000, "container_port": 90})
        address = HOST_ADDRESSES[family]
        with (
            web.socket(inet(address), socket.SOCK_RAW, 132) as server,
            elsewhere.socket(inet(address), socket.SOCK_RAW, 132) as client,
        ):
            server.settimeout(LIMIT)
            client.sendto(sctp_init(9000), (address, 0))
            received = server.recv(1000)[20 if family == 4 else 0 :]
        assert struct.unpack_from("!HH", received) == (40000, 90)
        assert received[12:] == sctp_init(9000)[12:]
