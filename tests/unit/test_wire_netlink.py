"""The hand-written messages, held against pyroute2's decoder; and acknowledgements that nobody wrote."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from overlayd.wire.netlink.message import ADD, PUT, acknowledgements
from overlayd.wire.netlink.message import SET as REMOVE
from overlayd.wire.netlink.neighbour import delete_fdb, delete_neighbour, put_fdb, put_neighbour
from overlayd.wire.netlink.route import delete_route, put_route
from overlayd.wire.netlink.uapi import NLMSG_ERROR, NLMSGHDR

NEWROUTE, DELROUTE, NEWNEIGH, DELNEIGH = 24, 25, 28, 29

MAC = "06:47:0f:9c:01:2a"


def decoded(message: bytes, kind: type) -> tuple[dict[str, Any], dict[str, Any]]:
    """The header and the other fields of one message, attributes by name."""
    found = kind(message)
    found.decode()
    assert found["header"]["length"] == len(message)
    assert len(message) % 4 == 0
    fields = {key: found[key] for key, *_ in kind.fields}
    return dict(found["header"]), {**fields, **dict(found["attrs"])}


def route(message: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    return decoded(message, rtmsg)


def neighbour(message: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    return decoded(message, ndmsg)


BASE = {"src_len": 0, "tos": 0, "table": 254, "proto": 178}


@pytest.mark.parametrize(
    ("destination", "link", "gateway", "onlink", "meant"),
    [
        ("10.1.2.0/24", 7, None, False, {"scope": 253, "type": 1, "flags": 0, "RTA_OIF": 7}),
        (
            "10.1.2.0/24",
            7,
            "10.1.2.0",
            True,
            {"scope": 0, "type": 1, "flags": 4, "RTA_OIF": 7, "RTA_GATEWAY": "10.1.2.0"},
        ),
        (
            "10.1.2.0/24",
            2,
            "192.0.2.2",
            False,
            {"scope": 0, "type": 1, "flags": 0, "RTA_OIF": 2, "RTA_GATEWAY": "192.0.2.2"},
        ),
        (
            "10.1.2.0/24",
            2,
            "fd00::2",
            False,
            {"scope": 0, "type": 1, "flags": 0, "RTA_OIF": 2, "RTA_VIA": {"family": 10, "addr": "fd00::2"}},
        ),
        ("10.1.0.0/16", None, None, False, {"scope": 0, "type": 7, "flags": 0}),
        (
            "fd00:10:1:2::/64",
            7,
            "fd00:10:1:2::",
            True,
            {"scope": 0, "type": 1, "flags": 4, "RTA_OIF": 7, "RTA_GATEWAY": "fd00:10:1:2::"},
        ),
        ("fd00:10:1::/48", None, None, False, {"scope": 0, "type": 7, "flags": 0}),
    ],
)
@pytest.mark.parametrize("replace", [False, True])
def test_put_route(
    destination: str, link: int | None, gateway: str | None, onlink: bool, meant: dict[str, Any], replace: bool
) -> None:
    network = ip_network(destination)
    message = put_route(network, link, ip_address(gateway) if gateway else None, onlink, sequence=9, replace=replace)
    header, fields = route(message)
    assert (header["type"], header["flags"], header["sequence_number"]) == (NEWROUTE, PUT if replace else ADD, 9)
    family = 2 if network.version == 4 else 10
    own = {"family": family, "dst_len": network.prefixlen, "RTA_DST": str(network[0])}
    assert fields == {**BASE, **own, **meant}


@pytest.mark.parametrize("destination", ["10.1.2.0/24", "fd00:10:1:2::/64", "0.0.0.0/0"])
@pytest.mark.parametrize("link", [7, None])
def test_delete_route(destination: str, link: int | None) -> None:
    network = ip_network(destination)
    header, fields = route(delete_route(network, link, 3))
    assert (header["type"], header["flags"], header["sequence_number"]) == (DELROUTE, REMOVE, 3)
    assert (fields["family"], fields["dst_len"]) == (2 if network.version == 4 else 10, network.prefixlen)
    assert fields["RTA_DST"] == str(network[0])
    assert (fields["table"], fields["proto"]) == (254, 178), "else a route of somebody else's could match"
    assert fields["scope"] == 255, "RT_SCOPE_NOWHERE matches any"
    assert (fields.get("RTA_OIF"), fields["type"]) == ((7, 1) if link is not None else (None, 7))


@pytest.mark.parametrize(("ip", "family"), [("10.1.2.0", 2), ("fd00:10:1:2::", 10)])
def test_neighbours(ip: str, family: int) -> None:
    header, fields = neighbour(put_neighbour(7, ip_address(ip), MAC, 4))
    assert (header["type"], header["flags"], header["sequence_number"]) == (NEWNEIGH, PUT, 4)
    own = {"family": family, "ifindex": 7, "state": 0x80, "flags": 0, "NDA_DST": ip, "NDA_LLADDR": MAC}
    assert own.items() <= fields.items()

    header, fields = neighbour(delete_neighbour(7, ip_address(ip), 5))
    assert (header["type"], header["flags"], header["sequence_number"]) == (DELNEIGH, REMOVE, 5)
    assert {"family": family, "ifindex": 7, "NDA_DST": ip}.items() <= fields.items()
    assert "NDA_LLADDR" not in fields


@pytest.mark.parametrize("vtep", ["192.0.2.2", "fd00:192:0:2::2"])
def test_fdb_entries(vtep: str) -> None:
    for make, kind, flags in ((put_fdb, NEWNEIGH, PUT), (delete_fdb, DELNEIGH, REMOVE)):
        message = make(7, MAC, ip_address(vtep), 6)
        header, fields = neighbour(message)
        assert (header["type"], header["flags"], header["sequence_number"]) == (kind, flags, 6)
        own = {"family": 7, "ifindex": 7, "state": 0xC0, "flags": 2, "NDA_LLADDR": MAC}
        assert own.items() <= fields.items()
        # pyroute2 reads the bytes of NDA_DST by the family, which says AF_BRIDGE here: look at them ourselves.
        packed = ip_address(vtep).packed
        assert message.endswith(struct.pack("=HH", 4 + len(packed), 1) + packed)


prefixes4 = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)).map(
    lambda pair: ip_network(f"{IPv4Address(pair[0])}/{pair[1]}", strict=False)
)
prefixes6 = st.tuples(st.integers(0, 2**128 - 1), st.integers(0, 128)).map(
    lambda pair: ip_network(f"{IPv6Address(pair[0])}/{pair[1]}", strict=False)
)


@given(st.one_of(prefixes4, prefixes6), st.integers(1, 2**31 - 1), st.integers(0, 2**32 - 1))
def test_any_route(network: Any, link: int, sequence: int) -> None:
    header, fields = route(put_route(network, link, network[0], True, sequence, replace=False))
    assert header["sequence_number"] == sequence
    assert ip_address(fields["RTA_DST"]) == ip_address(fields["RTA_GATEWAY"]) == network[0]
    assert (fields["dst_len"], fields["RTA_OIF"]) == (network.prefixlen, link)


# --- acknowledgements -------------------------------------------------------------------------------------------------


def ack(sequence: int, error: int) -> bytes:
    """What the kernel answers with NETLINK_CAP_ACK: the error and the header of the request."""
    body = struct.pack("=i", -error) + NLMSGHDR.pack(36, NEWROUTE, ADD, sequence, 0)
    return NLMSGHDR.pack(16 + len(body), NLMSG_ERROR, 0, sequence, 0) + body


answers = st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 133)))


@given(answers)
def test_every_acknowledgement_is_read(expected: list[tuple[int, int]]) -> None:
    assert acknowledgements(b"".join(ack(*pair) for pair in expected)) == expected


@given(answers, st.integers(0, 400))
def test_what_is_cut_off_is_left_out(expected: list[tuple[int, int]], length: int) -> None:
    data = b"".join(ack(*pair) for pair in expected)[:length]
    assert acknowledgements(data) == expected[: len(data) // 36]


@given(st.binary(max_size=300))
def test_garbage_never_raises(data: bytes) -> None:
    assert len(acknowledgements(data)) <= len(data) // 20


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**16 - 1), st.binary(max_size=64))
def test_any_header_never_raises(length: int, kind: int, rest: bytes) -> None:
    data = NLMSGHDR.pack(length, kind, 0, 1, 0) + rest + ack(5, 17)
    assert len(acknowledgements(data)) <= 4


def test_other_messages_are_passed_over() -> None:
    done = NLMSGHDR.pack(20, 3, 0, 1, 0) + bytes(4)
    odd = NLMSGHDR.pack(17, 3, 0, 1, 0) + bytes(4)  # length not a multiple of 4: the next one is aligned
    assert acknowledgements(done + ack(1, 0) + odd + ack(2, 17)) == [(1, 0), (2, 17)]
