"""Published ports: how they are written, who has which, and what they come to in the kernel's maps."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from overlayd.core.attach.errors import AttachError
from overlayd.core.attach.model import Attachment, PublishedPort
from overlayd.core.attach.ports import CHOSEN, Claim, PortTable, claims, elements
from overlayd.core.attach.publish import parse_published
from overlayd.core.kernel.kinds import state_of
from overlayd.wire.netlink.sock_diag import SocketEntry

V4, V6 = ip_interface("10.1.1.2/24"), ip_interface("fd00:10:1:1::2/64")
DUAL = (V4, V6)
FREE = lambda claim: None  # noqa: E731


def port(word: str) -> PublishedPort:
    [found] = parse_published(word)
    return found


def attachment(name: str, *words: str, number: int = 2) -> Attachment:
    addresses = (ip_interface(f"10.1.1.{number}/24"), ip_interface(f"fd00:10:1:1::{number}/64"))
    return Attachment(
        container=name,
        interface="eth0",
        addresses=addresses,
        mac="02:6f:0a:01:01:02",
        mtu=1450,
        netns=f"/run/netns/{name}",
        netns_id=1,
        ports=tuple(map(port, words)),
    )


# --- how they are written ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "ports"),
    [
        ("80", [("tcp", None, 0, 80)]),
        ("0:80", [("tcp", None, 0, 80)]),
        ("8080:80", [("tcp", None, 8080, 80)]),
        ("5353:53/udp", [("udp", None, 5353, 53)]),
        ("9:9/sctp", [("sctp", None, 9, 9)]),
        ("127.0.0.1:8080:80", [("tcp", "127.0.0.1", 8080, 80)]),
        ("192.0.2.1::80", [("tcp", "192.0.2.1", 0, 80)]),
        ("[2001:db8::1]:8080:80", [("tcp", "2001:db8::1", 8080, 80)]),
        ("[::]::80/udp", [("udp", "::", 0, 80)]),
        ("8000-8001:90-91", [("tcp", None, 8000, 90), ("tcp", None, 8001, 91)]),
        ("90-91", [("tcp", None, 0, 90), ("tcp", None, 0, 91)]),
        ("1-65535:1-65535", None),
    ],
)
def test_ports_are_read(word: str, ports: list[tuple[str, str | None, int, int]] | None) -> None:
    if ports is None:
        with pytest.raises(AttachError, match="not a range of 1 to 1024 ports"):
            parse_published(word)
        return
    wanted = [(one, ip_address(two) if two else None, three, four) for one, two, three, four in ports]
    found = parse_published(word)
    assert [(one.protocol, one.host_address, one.host_port, one.container_port) for one in found] == wanted


@pytest.mark.parametrize(
    ("word", "error"),
    [
        ("", "port '' is not written as [[ADDRESS:]PORT:]CONTAINER_PORT[/PROTOCOL]"),
        ("http", "port 'http' is not written as"),
        ("8080:", "port '8080:' is not written as"),
        ("127.0.0.1:80", "port '127.0.0.1:80' is not written as"),
        ("2001:db8::1:8080:80", "is not written as"),
        ("8080:80/", "is not written as"),
        ("80/tpc", "port 80/tpc: protocol: 'tpc' is not one of tcp, udp, sctp; did you mean tcp?"),
        ("1.2.3:8080:80", "port 1.2.3:8080:80: address: '1.2.3' is not an IP address"),
        ("[1.2.3.4]:8080:80", None),
        ("70000:80", "port 70000:80: 70000 is not a number from 0 to 65535"),
        ("8080:0", "port 8080:0: 0 is not a number from 1 to 65535"),
        ("8080-8081:80", "port 8080-8081:80: 2 ports of the host and 1 of the container"),
        ("8081-8080:80-81", "port 8081-8080:80-81: 8081-8080 is not a range of 1 to 1024 ports"),
        ("0-1:80-81", "port 0-1:80-81: 0-1 is not a range of 1 to 1024 ports"),
    ],
)
def test_ports_that_are_refused(word: str, error: str | None) -> None:
    if error is None:
        assert port(word).host_address == ip_address("1.2.3.4")
        return
    with pytest.raises(AttachError) as caught:
        parse_published(word)
    assert error in str(caught.value)


@given(st.text(alphabet="0123456789.:-[]/tcpudx", max_size=30))
def test_whatever_is_written_is_read_or_refused(word: str) -> None:
    try:
        found = parse_published(word)
    except AttachError:
        return
    assert all(0 <= one.host_port <= 65535 and 1 <= one.container_port <= 65535 for one in found)


# --- what they come to ------------------------------------------------------------------------------------------------


def test_elements() -> None:
    found = elements(attachment("c1", "8080:80", "127.0.0.1:53:53/udp", "[2001:db8::1]:9:9/sctp", "0.0.0.0:7:7"))
    assert [str(one) for one in found] == [
        "nft element inet overlayd_ports ports4 { tcp . 8080 : 10.1.1.2 . 80 }",
        "nft element inet overlayd_ports ports6 { tcp . 8080 : fd00:10:1:1::2 . 80 }",
        "nft element inet overlayd_ports address_ports4 { udp . 127.0.0.1 . 53 : 10.1.1.2 . 53 }",
        "nft element inet overlayd_ports address_ports6 { sctp . 2001:db8::1 . 9 : fd00:10:1:1::2 . 9 }",
        "nft element inet overlayd_ports ports4 { tcp . 7 : 10.1.1.2 . 7 }",
    ]


# --- who has which ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("held", "wanted", "free"),
    [
        ("8080:80", "8080:81", False),
        ("8080:80", "8081:80", True),
        ("8080:80", "8080:80/udp", True),
        ("8080:80", "192.0.2.1:8080:80", False),
        ("192.0.2.1:8080:80", "8080:80", False),
        ("192.0.2.1:8080:80", "192.0.2.2:8080:80", True),
        ("192.0.2.1:8080:80", "[2001:db8::1]:8080:80", True),
        ("0.0.0.0:8080:80", "[::]:8080:80", True),
        ("0.0.0.0:8080:80", "8080:80", False),
        ("[::]:8080:80", "[2001:db8::1]:8080:80", False),
    ],
)
def test_a_port_has_one_holder(held: str, wanted: str, free: bool) -> None:
    table = PortTable()
    first = attachment("c1", held)
    table.put(first)
    assert table.assign(first.key, first.ports, DUAL, FREE) == first.ports  # its own
    if free:
        assert table.assign(("c2", "eth0"), [port(wanted)], DUAL, FREE) == (port(wanted),)
    else:
        with pytest.raises(AttachError, match="is taken by container c1 eth0; publish another one") as caught:
            table.assign(("c2", "eth0"), [port(wanted)], DUAL, FREE)
        assert caught.value.kind == "taken"
    table.remove(first)
    assert not table
    assert table.assign(("c2", "eth0"), [port(wanted)], DUAL, FREE) == (port(wanted),)


@pytest.mark.parametrize(
    ("words", "addresses", "error"),
    [
        (["8080:80", "8080:81"], DUAL, "port 8080/tcp is published twice; leave out one of the two"),
        (["192.0.2.1:8080:80", "8080:80"], DUAL, "port 8080/tcp is published twice"),
        (["[2001:db8::1]:8080:80"], (V4,), "the container has no IPv6 address; leave 2001:db8::1 out"),
        (["[::1]:8080:80"], DUAL, "Linux sends nothing from ::1 to a container; publish on 127.0.0.1"),
        (["224.0.0.1:8080:80"], DUAL, "224.0.0.1 is not an address of a host"),
        (["255.255.255.255:8080:80"], DUAL, "255.255.255.255 is not an address of a host"),
    ],
)
def test_ports_that_cannot_be_published(words: list[str], addresses: Any, error: str) -> None:
    with pytest.raises(AttachError) as caught:
        PortTable().assign(("c1", "eth0"), list(map(port, words)), addresses, FREE)
    assert error in str(caught.value)
    assert caught.value.kind == "invalid"


def test_a_program_has_the_port() -> None:
    with pytest.raises(AttachError) as caught:
        PortTable().assign(("c1", "eth0"), [port("[2001:db8::1]:80:80")], DUAL, lambda claim: "nginx (process 812)")
    assert str(caught.value) == "port [2001:db8::1]:80/tcp is taken by nginx (process 812); publish another one"
    assert caught.value.kind == "taken"


@pytest.mark.parametrize(
    ("word", "listens", "v6_only", "at_odds"),
    [
        ("80:1", "0.0.0.0", False, {4}),
        ("80:1", "::", False, {4, 6}),
        ("80:1", "::", True, {6}),
        ("80:1", "127.0.0.1", False, {4}),
        ("80:1", "::1", False, set()),
        ("80:1", "192.0.2.1", False, {4}),
        ("80:1", "224.0.0.251", False, set()),
        ("81:1", "0.0.0.0", False, set()),
        ("192.0.2.1:80:1", "127.0.0.1", False, set()),
        ("192.0.2.1:80:1", "192.0.2.1", False, {4}),
        ("192.0.2.1:80:1", "::", False, {4}),
        ("[2001:db8::1]:80:1", "0.0.0.0", False, set()),
        ("[2001:db8::1]:80:1", "2001:db8::1", False, {6}),
    ],
)
def test_sockets_that_a_port_would_be_taken_from(word: str, listens: str, v6_only: bool, at_odds: set[int]) -> None:
    socket = SocketEntry(ip_address(listens), 80, v6_only, 0, 1, 0)
    assert {one.family for one in claims(port(word), DUAL) if one.meets_socket(socket)} == at_odds


def test_port_0_is_replaced_with_the_next_free_one() -> None:
    table = PortTable()
    first = CHOSEN[0]
    taken = {first + 1: 4, first + 3: 6}  # by programs, in one family

    def listening(claim: Claim) -> str | None:
        return "sshd" if taken.get(claim.port) == claim.family else None

    def chosen(name: str, *words: str) -> list[int]:
        ports = table.assign((name, "eth0"), list(map(port, words)), DUAL, listening)
        table.put(replace(attachment(name), ports=ports))
        return [one.host_port for one in ports]

    assert chosen("c1", "80", f"{first + 2}:81", "82") == [first, first + 2, first + 4]
    table.remove(replace(attachment("c1"), ports=table.assign(("c1", "eth0"), [port(f"{first}:80")], DUAL, FREE)))
    assert chosen("c2", "80") == [first + 5]  # what was given back comes last


def test_port_0_when_all_are_taken() -> None:
    with pytest.raises(AttachError, match="no tcp port from 49152 to 65535 is free; name another"):
        PortTable().assign(("c1", "eth0"), [port("80")], DUAL, lambda claim: "sshd")


WORDS = st.sampled_from(["80:1", "0:1", "81:1", "80:1/udp", "192.0.2.1:80:1", "192.0.2.2:80:1", "0.0.0.0:80:1"])


class Ports(RuleBasedStateMachine):
    """Any order of coming and going, against the kernel's own rule: one element for each key, and none that an element
    for all addresses hides or is hidden by."""

    attached = Bundle("attached")

    def __init__(self) -> None:
        super().__init__()
        self.table = PortTable()
        self.present: dict[str, Attachment] = {}
        self.count = 0

    @rule(target=attached, words=st.lists(WORDS, max_size=4))
    def attach(self, words: list[str]) -> str:
        self.count += 1
        made = attachment(f"c{self.count}", number=2 + self.count)
        try:
            made = replace(made, ports=self.table.assign(made.key, list(map(port, words)), made.addresses, FREE))
        except AttachError:
            return made.container
        self.table.put(made)
        self.present[made.container] = made
        return made.container

    @rule(name=consumes(attached))
    def detach(self, name: str) -> None:
        if (gone := self.present.pop(name, None)) is not None:
            self.table.remove(gone)

    @invariant()
    def one_element_for_each_key(self) -> None:
        found = [element for one in self.present.values() for element in elements(one)]
        assert len(state_of(found)) == len(found)
        everywhere = {(one.protocol, one.port, one.target.version) for one in found if one.address is None}
        assert not any((one.protocol, one.port, one.target.version) in everywhere for one in found if one.address)
        assert bool(self.table) == bool(found)


TestPorts = Ports.TestCase
TestPorts.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
