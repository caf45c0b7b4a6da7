"""Messages about published ports: connections, listening sockets, route_localnet, elements of maps."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.nfnetlink.nfctsocket import nfct_msg
from pyroute2.netlink.nfnetlink.nftsocket import nft_set_elem_list_msg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from overlayd.core.kernel.firewall import port_element
from overlayd.wire.address import Address
from overlayd.wire.netlink import conntrack, localnet, nft, sock_diag
from overlayd.wire.netlink.conntrack import ConntrackEntry, Endpoint
from overlayd.wire.netlink.message import attribute, nested
from overlayd.wire.netlink.uapi import (
    AF_INET,
    AF_INET6,
    IFINFOMSG,
    INET_DIAG_MSG,
    NFGENMSG,
    NLMSGHDR,
)

UDP = 17


def tuple_(source: Address, source_port: int, to: Address, port: int, protocol: int = UDP) -> bytes:
    v6 = 2 * (to.version == 6)
    ip = nested(1, attribute(1 + v6, source.packed), attribute(2 + v6, to.packed))
    ports = attribute(2, source_port.to_bytes(2)), attribute(3, port.to_bytes(2))
    return ip + nested(2, attribute(1, bytes([protocol])), *ports)


def connection(to: str, answering: str, protocol: int = UDP, zone: bytes = b"") -> bytes:
    """A body of the dump: a client's datagrams to port 53 of `to`, which port 5353 of `answering` answers."""
    sent_to, answers = ip_address(to), ip_address(answering)
    client = ip_address("192.0.2.9" if sent_to.version == 4 else "2001:db8::9")
    family = AF_INET if sent_to.version == 4 else AF_INET6
    return (
        NFGENMSG.pack(family, 0, 0)
        + nested(1, tuple_(client, 40000, sent_to, 53, protocol))
        + nested(2, tuple_(answers, 5353, client, 40000, protocol))
        + attribute(3, bytes(4))
        + (attribute(18, zone) if zone else b"")
        + attribute(12, b"\1\2\3\4")
    )


@pytest.mark.parametrize(("to", "answering"), [("192.0.2.1", "10.1.1.2"), ("2001:db8::1", "fd00::2")])
@pytest.mark.parametrize("zone", [b"", b"\0\7"])
def test_a_connection_is_read_and_forgotten_by_what_identifies_it(to: str, answering: str, zone: bytes) -> None:
    data = b"before" + connection(to, answering, zone=zone) + b"after"
    entry = conntrack.read_entry(data, 6, len(data) - 5, UDP)
    assert entry is not None
    assert entry.destination == Endpoint(ip_address(to), 53)
    assert entry.answering == Endpoint(ip_address(answering), 5353)
    found = nfct_msg(conntrack.delete_entry(entry, 7))
    found.decode()
    assert found["header"]["type"] == 0x102
    assert found["header"]["flags"] == 5
    assert found["nfgen_family"] == data[6]
    names = ["CTA_TUPLE_ORIG", *(["CTA_ZONE"] if zone else []), "CTA_ID"]
    assert [name for name, _ in found["attrs"]] == names
    original = found.get_attr("CTA_TUPLE_ORIG")
    assert original.get_attr("CTA_TUPLE_PROTO").get_attr("CTA_PROTO_DST_PORT") == 53
    assert found.get_attr("CTA_ID") == 0x01020304


def test_a_connection_of_another_protocol_is_left_out() -> None:
    data = connection("192.0.2.1", "10.1.1.2", protocol=6)
    assert conntrack.read_entry(data, 0, len(data), UDP) is None
    assert conntrack.read_entry(data, 0, len(data), 6) is not None


@pytest.mark.parametrize("port", [53, None])
def test_connections_are_asked_for_by_protocol_and_port(port: int | None) -> None:
    message = NLMSGHDR.pack(16, conntrack.GET, 0x301, 1, 0) + conntrack.dump_header(AF_INET, UDP, port)
    found = nfct_msg(len(message).to_bytes(4, "little") + message[4:])
    found.decode()
    proto = found.get_attr("CTA_TUPLE_ORIG").get_attr("CTA_TUPLE_PROTO")
    assert proto.get_attr("CTA_PROTO_NUM") == UDP
    assert proto.get_attr("CTA_PROTO_DST_PORT") == port
    flags = found.get_attr("CTA_FILTER").get_attr("CTA_FILTER_ORIG_FLAGS")
    assert flags == 1 << 3 | (1 << 5 if port else 0)


@given(st.binary(max_size=200), st.integers(0, 60))
def test_whatever_comes_is_no_connection(noise: bytes, cut: int) -> None:
    conntrack.read_entry(noise, 0, len(noise), UDP)
    whole = connection("192.0.2.1", "10.1.1.2")
    entry = conntrack.read_entry(whole, 0, max(0, len(whole) - 8 - cut), UDP)
    assert entry is None or isinstance(entry, ConntrackEntry)


def socket_entry(family: int, address: bytes, extra: bytes = b"") -> bytes:
    fields: list[Any] = [family, 10, 0, 0, b"\x1f\x90", bytes(2), address.ljust(16, b"\0"), bytes(16), 0, bytes(8)]
    return INET_DIAG_MSG.pack(*fields, 0, 0, 0, 33, 4711) + extra


@pytest.mark.parametrize(
    ("family", "packed", "address"),
    [
        (AF_INET, IPv4Address("127.0.0.1").packed, "127.0.0.1"),
        (AF_INET6, IPv6Address("::").packed, "::"),
        (AF_INET6, IPv6Address("::ffff:192.0.2.1").packed, "192.0.2.1"),
    ],
)
def test_a_listening_socket_is_read(family: int, packed: bytes, address: str) -> None:
    extra = attribute(11, b"\1") + attribute(21, (1 << 40).to_bytes(8, "little"))
    data = socket_entry(family, packed, extra)
    entry = sock_diag.read_socket(data, 0, len(data))
    assert entry == sock_diag.SocketEntry(ip_address(address), 8080, True, 33, 4711, 1 << 40)
    bare = socket_entry(family, packed)
    assert sock_diag.read_socket(bare, 0, len(bare)) == entry._replace(v6_only=False, cgroup=0)
    assert sock_diag.read_socket(data, 0, INET_DIAG_MSG.size - 1) is None


@given(st.binary(max_size=120))
def test_whatever_comes_is_no_socket_and_no_setting(noise: bytes) -> None:
    sock_diag.read_socket(noise, 0, len(noise))
    localnet.read_route_localnet(noise, 0, len(noise))


@pytest.mark.parametrize("on", [True, False])
def test_route_localnet(on: bool) -> None:
    message = localnet.set_route_localnet(7, 1, on=on)
    found = ifinfmsg(message)
    found.decode()
    assert (found["index"], found["flags"], found["change"]) == (7, 0, 0)
    conf = (25 * 4 * b"\1" + int(on).to_bytes(4, "little") + 8 * b"\1",)
    header = IFINFOMSG.pack(0, 0, 1, 7, 0, 0)
    body = header + nested(26, nested(AF_INET, attribute(1, conf[0])))
    assert localnet.read_route_localnet(body, 0, len(body)) == (7, on)
    assert localnet.read_route_localnet(header, 0, len(header)) is None


@pytest.mark.parametrize("delete", [False, True])
def test_elements_of_a_map(delete: bool) -> None:
    """Each field of a key and of a value is padded to 4 bytes."""
    element = port_element("udp", IPv4Address("192.0.2.1"), 0x1234, IPv4Address("10.1.1.2"), 53)
    key, value = element.encoded_key, element.encoded_value
    assert key.hex(" ", 4) == "11000000 c0000201 12340000"
    assert value.hex(" ", 4) == "0a010102 00350000"
    found = nft_set_elem_list_msg(nft.change_elements(element.table, element.set, [(key, value)], 7, delete=delete))
    found.decode()
    assert found["header"]["type"] == (0xA0E if delete else 0xA0C)
    assert found.get_attr("NFTA_SET_ELEM_LIST_SET") == "address_ports4"
    [one] = found.get_attr("NFTA_SET_ELEM_LIST_ELEMENTS")
    assert one.get_attr("NFTA_SET_ELEM_KEY").get_attr("NFTA_DATA_VALUE") == key
    assert one.get_attr("NFTA_SET_ELEM_DATA").get_attr("NFTA_DATA_VALUE") == value


def test_a_message_holds_the_most_elements() -> None:
    six = port_element("sctp", IPv6Address("2001:db8::1"), 1, IPv6Address("fd00::2"), 1)
    elements = [(six.encoded_key, six.encoded_value)] * nft.ELEMENTS_MAX
    made = nft.change_elements(six.table, six.set, elements, 1, delete=False)
    assert len(made) == int.from_bytes(made[:4], "little")
