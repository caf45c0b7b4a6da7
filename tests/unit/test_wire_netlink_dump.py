"""Dumps of the kernel, read by hand: what it says is understood, and nothing that it could say raises."""

from __future__ import annotations

import struct
import sys
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlayd.wire.netlink.message import dump_request, family_header, messages
from overlayd.wire.netlink.neighbour import NeighbourEntry, delete_neighbour, put_fdb, put_neighbour, read_neighbour
from overlayd.wire.netlink.nft import change_elements, read_keys
from overlayd.wire.netlink.route import RouteEntry, put_route, read_route
from overlayd.wire.netlink.uapi import NDMSG, RTM_GETNEIGH, RTM_GETROUTE, RTMSG


def body(message: bytes) -> tuple[bytes, int, int]:
    ((*_, begin, end),) = messages(message)
    return message, begin, end


@pytest.mark.parametrize(
    ("destination", "link", "gateway", "onlink"),
    [
        ("10.5.1.0/24", 7, None, False),
        ("10.5.1.0/24", 7, "10.5.1.0", True),
        ("10.5.1.0/24", 7, "fd00::1", False),
        ("fd00:0:0:1::/64", 7, "fd00::1", True),
        ("10.5.0.0/16", None, None, False),
        ("fd00::/48", None, None, False),
    ],
)
def test_a_route_that_overlayd_made(destination: str, link: int | None, gateway: str | None, onlink: bool) -> None:
    """The kernel gives a route back in the form in which it is made."""
    via = ip_address(gateway) if gateway else None
    made = put_route(ip_network(destination), link, via, onlink, 1, replace=False)
    assert read_route(*body(made)) == RouteEntry(ip_network(destination), link is None, link or 0, via, onlink)


def test_a_route_that_flannel_made_is_read_where_it_is_asked_for() -> None:
    """And what `ip route` makes. What the kernel or a routing daemon made is not."""
    network, via = ip_network("10.5.1.0/24"), ip_address("10.5.1.0")
    made = bytearray(put_route(network, 7, via, True, 1, replace=False, ours=False))
    found = RouteEntry(network, False, 7, via, True, ours=False)
    assert read_route(*body(bytes(made)), foreign=True) == found
    assert read_route(*body(bytes(made))) is None
    for offset, value in ((16 + 5, 2), (16 + 5, 186), (16 + 3, 8), (16 + 7, 7)):  # kernel, bgp; a TOS; unreachable
        other = made.copy()
        other[offset] = value
        assert read_route(*body(bytes(other)), foreign=True) is None
    ours = put_route(network, 7, via, True, 1, replace=False)
    assert read_route(*body(ours), foreign=True) is None


def test_routes_of_others_are_passed_over() -> None:
    made = bytearray(put_route(ip_network("10.5.1.0/24"), 7, None, False, 1, replace=False))
    # rtm_protocol boot; rtm_table local; RTM_F_CLONED, a path MTU that the kernel keeps as a copy of the route
    for offset, value in ((16 + 5, 4), (16 + 4, 255), (16 + 9 - (sys.byteorder == "big"), 2)):
        other = made.copy()
        other[offset] = value
        assert read_route(*body(bytes(other))) is None


@pytest.mark.parametrize("ip", ["10.5.1.0", "fd00::1"])
def test_a_neighbour(ip: str) -> None:
    made = put_neighbour(7, ip_address(ip), "06:47:0f:9c:01:2a", 1)
    assert read_neighbour(*body(made)) == NeighbourEntry(7, ip_address(ip), "06:47:0f:9c:01:2a")


@pytest.mark.parametrize("vtep", ["192.0.2.2", "2001:db8::2"])
def test_an_fdb_entry(vtep: str) -> None:
    made = put_fdb(7, "06:47:0f:9c:01:2a", ip_address(vtep), 1)
    assert read_neighbour(*body(made)) == NeighbourEntry(7, ip_address(vtep), "06:47:0f:9c:01:2a")


def test_neighbours_that_are_not_permanent_are_passed_over() -> None:
    assert read_neighbour(*body(delete_neighbour(7, ip_address("10.5.1.0"), 1))) is None


def test_requests() -> None:
    made = dump_request(RTM_GETROUTE, family_header(2, RTMSG), 9)
    header, rest = made[:16], made[16:]
    assert struct.unpack("=IHHII", header) == (28, 26, 0x301, 9, 0)
    assert rest == bytes([2]) + bytes(11)
    assert struct.unpack_from("=IH", dump_request(RTM_GETNEIGH, family_header(7, NDMSG), 9)) == (28, 30)


MESSAGES = st.builds(
    lambda family, prefix, head, rest: struct.pack("=BBBBBBBBI", family, prefix, 0, 0, 254, 178, 0, 1, 0) + head + rest,
    st.sampled_from([2, 10, 0]),
    st.integers(0, 255),
    st.builds(lambda size, kind: struct.pack("=HH", size, kind), st.integers(0, 40), st.sampled_from([1, 4, 5, 18, 2])),
    st.binary(max_size=40),
)


@given(st.binary(max_size=80) | MESSAGES)
def test_no_body_raises(data: bytes) -> None:
    route, neighbour = read_route(data, 0, len(data)), read_neighbour(data, 0, len(data))
    assert route is None or isinstance(route, RouteEntry)
    assert neighbour is None or isinstance(neighbour, NeighbourEntry)


@given(st.binary(max_size=120))
def test_no_answer_raises_and_none_is_read_past_its_end(data: bytes) -> None:
    assert all(16 <= begin <= end <= len(data) for *_, begin, end in messages(data))


@pytest.mark.parametrize("texts", [("192.0.2.1", "192.0.2.7"), ("fd00::1",), ()])
def test_elements_of_a_set(texts: tuple[str, ...]) -> None:
    """The kernel gives elements back in the form in which they are made."""
    addresses = [ip_address(text) for text in texts]
    made = change_elements("overlayd", "set", [(address.packed, None) for address in addresses], 1, delete=False)
    assert read_keys(*body(made)) == [address.packed for address in addresses]


@given(st.binary(max_size=300))
def test_elements_of_whatever_comes(data: bytes) -> None:
    read_keys(data, 0, len(data))
