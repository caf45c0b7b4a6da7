"""Published ports in the kernel: maps written and read back, UDP clients that follow a port, who listens on a host.

h1c1, h1c2 10.1.1.2, .3 -- br0 10.1.1.1 [h1] eth0 192.0.2.1 ======== eth0 192.0.2.2 [h2] br0 -- h2c1; no daemon
"""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest

from overlayd.core.address import Address, Family
from overlayd.core.kernel.firewall import PORTS_TABLE, OverlayRange, port_element, ports_table
from overlayd.core.kernel.kinds import KernelState, PortElement, Ruleset, state_of
from overlayd.lab import Host, Namespace, hosts
from overlayd.lab.namespace import within
from overlayd.system.netlink.conntrack import ConntrackReader
from overlayd.system.netlink.sockets import SocketReader
from overlayd.wire.netlink.nft import ELEMENTS_MAX
from support.kernel import bring_to, reading

AF = {4: socket.AF_INET, 6: socket.AF_INET6}
PORT = 5353


@pytest.fixture
def pair() -> Iterator[tuple[Host, Host]]:
    with hosts(2, mode="none", family="dual", underlay="dual", containers=2) as (one, other):
        one.sysctl({"net/ipv4/ip_forward": 1, "net/ipv6/conf/all/forwarding": 1})
        yield one, other


@pytest.fixture
def host(pair: tuple[Host, Host]) -> Host:
    return pair[0]


def table(host: Host) -> Ruleset:
    networks = map(ip_network, ("10.1.0.0/16", "fd00:10:1::/48"))
    return ports_table([OverlayRange(*one) for one in zip(networks, host.subnets, strict=True)])


def published(host: Host, *elements: PortElement) -> KernelState:
    return state_of([table(host), *elements])


def some_ports(count: int, target: int = 2) -> list[PortElement]:
    """Elements of all four maps, with all protocols."""
    four, six = IPv4Address("10.1.1.0") + target, IPv6Address("fd00:10:1:1::") + target
    protocols = ("tcp", "udp", "sctp")
    hosts4, hosts6 = (None, IPv4Address("192.0.2.1")), (None, IPv6Address("fd00:192:0:2::1"))
    return [
        port_element(protocols[number % 3], own[number // 4 % 2], 1 + number, to, 65535 - number)
        for number in range(count)
        for own, to in [[(hosts4, four), (hosts6, six)][number // 2 % 2]]
    ]


@pytest.mark.parametrize("count", [1, 12, ELEMENTS_MAX // 2, ELEMENTS_MAX])
def test_elements_are_made_changed_and_deleted(host: Host, count: int) -> None:
    """As nft reads them: few by messages of ours, many by nft."""
    for elements in ([], some_ports(count), some_ports(count, target=3), some_ports(count // 2), []):
        assert bring_to(host, published(host, *elements)) == []
        assert reading(host) == published(host, *elements)
    assert bring_to(host, {}) == []
    assert reading(host) == {}


def test_a_table_that_somebody_changed_is_restored_with_its_elements(host: Host) -> None:
    desired = published(host, *some_ports(20))
    assert bring_to(host, desired) == []
    for damage in (
        f"flush chain inet {PORTS_TABLE} publish",
        f"delete table inet {PORTS_TABLE}",
        f"flush map inet {PORTS_TABLE} ports4",
        f"add rule inet {PORTS_TABLE} forward drop",
    ):
        host.run("nft", damage)
        assert reading(host) != desired
        assert bring_to(host, desired) == []
        assert reading(host) == desired


def test_elements_of_another_form_are_left_alone(host: Host) -> None:
    assert bring_to(host, published(host)) == []
    host.run("nft", f"add map inet {PORTS_TABLE} own {{ type ipv4_addr : mark; elements = {{ 192.0.2.9 : 7 }}; }}")
    assert reading(host) == published(host)


# --- UDP clients that go on sending -----------------------------------------------------------------------------------


def serve(namespace: Namespace, family: Family, port: int) -> socket.socket:
    server = namespace.socket(AF[family], socket.SOCK_DGRAM)
    server.bind(("", port))
    return server


def client(namespace: Namespace, address: Address, port: int) -> socket.socket:
    """A socket that sends all it sends from one port: one connection for conntrack."""
    found = namespace.socket(AF[address.version], socket.SOCK_DGRAM)
    found.connect((str(address), port))
    return found


def received_by(sender: socket.socket, servers: list[socket.socket]) -> int | None:
    """The index of the server that gets what the client sends; None where it is refused."""
    while True:
        try:
            sender.send(b"question")
        except ConnectionRefusedError:  # of the datagram before
            continue
        readable, _, _ = select.select([sender, *servers], [], [], 10)
        assert readable, "what was sent vanishes"
        if sender in readable:
            with pytest.raises(ConnectionRefusedError):
                sender.recv(100)
            return None
        text, back = readable[0].recvfrom(100)
        assert text == b"question"
        readable[0].sendto(b"answer", back)
        assert select.select([sender], [], [], 10)[0]
        assert sender.recv(100) == b"answer"
        return servers.index(readable[0])


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("on_one_address", [False, True])
def test_a_udp_client_follows_its_port(pair: tuple[Host, Host], family: Family, on_one_address: bool) -> None:
    """From nobody to a container, to another one, and back to nobody, with no pause in which it would be forgotten."""
    host, elsewhere = pair
    servers = [serve(one, family, 53) for one in host.containers]
    to = host.public(family)
    assert to is not None

    def leads_to(index: int) -> KernelState:
        own = to if on_one_address else None
        return published(host, port_element("udp", own, PORT, host.container(index).address(family), 53))

    sender = client(elsewhere, to, PORT)
    assert bring_to(host, published(host)) == []
    assert received_by(sender, servers) is None
    for state, receiver in ((leads_to(0), 0), (leads_to(1), 1), (published(host), None), (leads_to(0), 0)):
        assert bring_to(host, state) == []
        assert received_by(sender, servers) == receiver


@pytest.mark.parametrize("family", [4, 6])
def test_other_connections_to_the_same_port_stay(pair: tuple[Host, Host], family: Family) -> None:
    """What a container sends to that port elsewhere, and what the port leads to already."""
    host, elsewhere = pair
    server, remote = serve(host.container(0), family, 53), serve(elsewhere, family, PORT)
    to, remote_address = host.public(family), elsewhere.public(family)
    assert to is not None
    assert remote_address is not None
    elsewhere.ip(f"route add {host.subnets[family == 6]} via {to}")
    element = port_element("udp", None, PORT, host.container(0).address(family), 53)
    assert bring_to(host, published(host, element)) == []
    outgoing, incoming = client(host.container(1), remote_address, PORT), client(elsewhere, to, PORT)
    assert received_by(outgoing, [remote]) == 0
    assert received_by(incoming, [server]) == 0
    before = entries(host)
    assert len(before) == 2
    host.run("nft", f"flush map inet {PORTS_TABLE} ports{family}")
    assert bring_to(host, published(host, element)) == []
    assert entries(host) == before
    assert bring_to(host, published(host)) == []
    assert entries(host) == [entry for entry in before if entry[0] == remote_address]


def entries(host: Host) -> list[tuple[Address, Address, bytes]]:
    """The UDP connections to the port: where to, who answers, and the kernel's identity of each."""

    def read() -> list[tuple[Address, Address, bytes]]:
        reader = ConntrackReader()
        try:
            found = [entry for version in (4, 6) for entry in reader.entries(version, {PORT})]
        finally:
            reader.close()
        return [(entry.destination.address, entry.answering.address, entry.identity) for entry in found]

    return within(host.namespace, read)


def test_ports_that_move_together(pair: tuple[Host, Host]) -> None:
    """More than one: the kernel is asked once for all of them."""
    host, elsewhere = pair
    ports = range(PORT, PORT + 20)
    servers = [serve(one, 4, 53) for one in host.containers]
    to = host.public(4)
    assert to is not None
    senders = [client(elsewhere, to, port) for port in ports]
    for index in (0, 1, 0):
        target = host.container(index).address(4)
        assert bring_to(host, published(host, *(port_element("udp", None, port, target, 53) for port in ports))) == []
        assert [received_by(sender, servers) for sender in senders] == [index] * len(ports)


# --- who listens ------------------------------------------------------------------------------------------------------


def test_listening_sockets_are_found(host: Host) -> None:
    tcp4, tcp6, udp6 = (
        host.socket(family, kind)
        for family, kind in (
            (socket.AF_INET, socket.SOCK_STREAM),
            (socket.AF_INET6, socket.SOCK_STREAM),
            (socket.AF_INET6, socket.SOCK_DGRAM),
        )
    )
    tcp6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    tcp4.bind(("127.0.0.1", 0))
    tcp6.bind(("::", 0))
    udp6.bind(("::", 0))
    tcp4.listen()
    tcp6.listen()

    def listening(protocol: int) -> list[tuple[str, int, bool]]:
        def read() -> list[tuple[str, int, bool]]:
            reader = SocketReader()
            try:
                return [(str(one.address), one.port, one.v6_only) for one in reader.listening(protocol)]
            finally:
                reader.close()

        return within(host.namespace, read)

    assert listening(socket.IPPROTO_TCP) == [
        ("127.0.0.1", tcp4.getsockname()[1], False),
        ("::", tcp6.getsockname()[1], True),
    ]
    assert listening(socket.IPPROTO_UDP) == [("::", udp6.getsockname()[1], False)]
    assert listening(socket.IPPROTO_SCTP) == []
    udp6.connect(("::1", 9))
    assert listening(socket.IPPROTO_UDP) == []
