"""Notifications of the kernel, read by hand: what they say is understood, and nothing that they could say raises."""

from __future__ import annotations

import struct
from ipaddress import ip_address, ip_interface, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlayd.wire.netlink.link import AddressEntry, LinkEntry, address_index, read_address, read_link
from overlayd.wire.netlink.message import messages
from overlayd.wire.netlink.neighbour import (
    NeighbourEntry,
    NeighbourEvent,
    delete_neighbour,
    neighbour_index,
    put_fdb,
    put_neighbour,
    read_neighbour_event,
)
from overlayd.wire.netlink.nft import concerns
from overlayd.wire.netlink.route import RouteEntry, RouteEvent, put_route, read_path, read_route_event
from overlayd.wire.netlink.uapi import RTM_DELNEIGH, RTM_DELROUTE, RTM_NEWNEIGH, RTM_NEWROUTE

MAC = "06:47:0f:9c:01:2a"
REPLACE = 0x100
ROUTE = ip_network("10.5.2.0/24")


def body(message: bytes) -> tuple[bytes, int, int]:
    ((*_, begin, end),) = messages(message)
    return message, begin, end


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def bare(data: bytes) -> tuple[bytes, int, int]:
    return data, 0, len(data)


def route(protocol: int = 178, table: int = 254, mtu: int | None = None) -> tuple[bytes, int, int]:
    made = bytearray(put_route(ROUTE, 7, ip_address("10.5.2.0"), True, 1, replace=False, mtu=mtu))
    made[16 + 4], made[16 + 5] = table, protocol
    return body(bytes(made))


def test_a_route_of_overlayds() -> None:
    entry = RouteEntry(ROUTE, False, 7, ip_address("10.5.2.0"), True)
    assert read_route_event(RTM_NEWROUTE, 0, *route()) == RouteEvent(ROUTE, True, entry)
    assert read_route_event(RTM_NEWROUTE, 0, *route(mtu=1350)) == RouteEvent(ROUTE, True, entry._replace(mtu=1350))
    assert read_route_event(RTM_DELROUTE, 0, *route()) == RouteEvent(ROUTE, True, None)


def test_a_route_of_others_counts_where_it_took_or_leaves_a_place() -> None:
    assert read_route_event(RTM_NEWROUTE, 0, *route(protocol=4)) is None
    assert read_route_event(RTM_NEWROUTE, REPLACE, *route(protocol=4)) == RouteEvent(ROUTE, False, None)
    assert read_route_event(RTM_DELROUTE, 0, *route(protocol=4)) == RouteEvent(ROUTE, False, None)
    assert read_route_event(RTM_DELROUTE, 0, *route(protocol=4, table=255)) is None
    assert read_route_event(RTM_DELROUTE, 0, *route(table=255)) is None


@pytest.mark.parametrize("ip", ["10.5.2.0", "fd00::1"])
def test_a_neighbour(ip: str) -> None:
    address = ip_address(ip)
    there = NeighbourEntry(7, address, MAC)
    permanent, gone = put_neighbour(7, address, MAC, 1), delete_neighbour(7, address, 1)
    assert neighbour_index(*body(permanent)) == 7
    assert read_neighbour_event(RTM_NEWNEIGH, *body(permanent)) == NeighbourEvent(False, there, there)
    assert read_neighbour_event(RTM_DELNEIGH, *body(permanent)) == NeighbourEvent(False, there, None)
    stale = read_neighbour_event(RTM_NEWNEIGH, *body(gone))  # in no state that is permanent
    assert stale == NeighbourEvent(False, NeighbourEntry(7, address, None), None)


@pytest.mark.parametrize("vtep", ["192.0.2.2", "2001:db8::2"])
def test_an_fdb_entry(vtep: str) -> None:
    there = NeighbourEntry(7, ip_address(vtep), MAC)
    made = put_fdb(7, MAC, ip_address(vtep), 1)
    assert read_neighbour_event(RTM_NEWNEIGH, *body(made)) == NeighbourEvent(True, there, there)
    assert read_neighbour_event(RTM_DELNEIGH, *body(made)) == NeighbourEvent(True, there, None)


@pytest.mark.parametrize("kind", [RTM_NEWNEIGH, RTM_DELNEIGH])
def test_the_second_word_on_an_fdb_entry_says_nothing(kind: int) -> None:
    """As Linux 6.1 sends it after the first."""
    (made, begin, end), vtep = body(put_fdb(7, MAC, ip_address("192.0.2.2"), 1)), 8  # bytes of NDA_DST
    assert read_neighbour_event(kind, made, begin, end - vtep) is None


def link(family: int = 0, name: bytes = b"ovl.1\0", flags: int = 1) -> tuple[bytes, int, int]:
    head = struct.pack("=BBHiII", family, 0, 1, 7, flags, 0)
    return bare(head + attribute(3, name) + attribute(4, struct.pack("=I", 1450)))


def test_a_link() -> None:
    assert read_link(*link()) == LinkEntry(7, "ovl.1", 1, 1450)
    assert LinkEntry(7, "ovl.1", 1).up
    assert not LinkEntry(7, "ovl.1", 0).up


def test_what_a_bridge_says_of_its_port_is_no_word_on_the_device() -> None:
    assert read_link(*link(family=7)) is None
    assert read_link(*link(name=b"\0")) is None


@pytest.mark.parametrize("own", ["10.5.1.0/32", "fd00:0:0:1::/128"])
def test_an_address(own: str) -> None:
    interface = ip_interface(own)
    family, length = (2, 32) if interface.version == 4 else (10, 128)
    data = struct.pack("=BBBBI", family, length, 0x80, 0, 7) + attribute(1, interface.ip.packed)
    assert address_index(*bare(data)) == 7
    assert read_address(*bare(data)) == AddressEntry(7, interface, 0x80)
    assert read_address(*bare(data[:8])) is None


def test_of_a_point_to_point_link_the_own_end_counts() -> None:
    ends = attribute(1, ip_address("10.5.1.9").packed) + attribute(2, ip_address("10.5.1.1").packed)
    event = read_address(*bare(struct.pack("=BBBBI", 2, 32, 0, 0, 7) + ends))
    assert event == AddressEntry(7, ip_interface("10.5.1.1/32"), 0)


def test_a_path() -> None:
    head = struct.pack("=BBBBBBBBI", 2, 32, 0, 0, 254, 0, 0, 1, 0x200)
    metrics = attribute(8, attribute(2, struct.pack("=I", 1400)))
    data = head + attribute(1, ip_address("192.0.2.2").packed)
    assert read_path(*bare(data + metrics)) == (ip_address("192.0.2.2"), 1400)
    assert read_path(*bare(data)) is None
    assert read_path(*bare(head[:8] + bytes(4) + data[12:] + metrics)) is None, "a route, not what was learnt by one"


def test_rules() -> None:
    new_chain, new_rule = 10 << 8 | 3, 10 << 8 | 6
    theirs = bytes(4) + attribute(1, b"filter\0") + attribute(3, b"FORWARD\0")
    assert not concerns(new_rule, *bare(theirs), b"overlayd")
    assert not concerns(new_chain, *bare(theirs), b"overlayd")
    assert concerns(new_chain, *bare(theirs + attribute(4 | 0x8000, bytes(8))), b"overlayd"), "a base chain"
    assert concerns(new_rule, *bare(theirs + attribute(7, b"overlayd: to 10.5.1.0/24 #1a2b3c4d")), b"overlayd")
    assert concerns(new_rule, *bare(bytes(4) + attribute(1, b"overlayd\0")), b"overlayd")


@given(st.binary(max_size=120), st.integers(0, 60), st.booleans(), st.sampled_from((0, REPLACE)))
def test_nothing_that_comes_raises(data: bytes, at: int, ours: bool, flags: int) -> None:
    if ours and len(data) >= 6:
        data = data[:4] + bytes((254, 178)) + data[6:]
    begin = min(at, len(data))
    for kind in (RTM_NEWROUTE, RTM_DELROUTE):
        read_route_event(kind, flags, data, begin, len(data))
    for kind in (RTM_NEWNEIGH, RTM_DELNEIGH):
        read_neighbour_event(kind, data, begin, len(data))
    read_address(data, begin, len(data))
    read_link(data, begin, len(data))
    neighbour_index(data, begin, len(data))
    address_index(data, begin, len(data))
    read_path(data, begin, len(data))
    concerns(10 << 8 | 3, data, begin, len(data), b"overlayd")
