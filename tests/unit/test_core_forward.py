"""What is drawn here:

own     10.1.1.0/24    fd00:1::/64   this host; its routers are the subnets' bases, its overlay MTU is 1472
ALPHA   10.1.2.0/24    fd00:2::/64   192.168.0.2
BETA    10.1.3.0/24                  192.168.0.3
GAMMA   10.1.3.128/25                192.168.0.4   nested in BETA's
nobody  10.1.9.0/24    fd00:9::/64
"""

from __future__ import annotations

from dataclasses import fields
from ipaddress import ip_address, ip_network
from typing import NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from overlayd.core.address import Network
from overlayd.core.forward import (
    DELIVER,
    DROP,
    Change,
    Deliver,
    Drop,
    DropReason,
    ForwardingTable,
    Peer,
    Reply,
    Send,
    Verdict,
    decide_inbound,
    decide_outbound,
    too_big_for,
)
from support.packets import ICMP, ICMPV6, UDP, IcmpError, any_bytes, packet, read_error

MTU = 1472
ALPHA = Peer("192.168.0.2", 8285, 4, "10.1.2.0-24&fd00:2::-64")
BETA = Peer("192.168.0.3", 8285, 4, "10.1.3.0-24")
GAMMA = Peer("192.168.0.4", 8285, 4, "10.1.3.128-25")
ROUTES = [
    (ip_network("10.1.2.0/24"), ALPHA),
    (ip_network("fd00:2::/64"), ALPHA),
    (ip_network("10.1.3.0/24"), BETA),
    (ip_network("10.1.3.128/25"), GAMMA),
]
OWN = [ip_network("10.1.1.0/24"), ip_network("fd00:1::/64")]
ROUTERS = [ip_address("10.1.1.0"), ip_address("fd00:1::")]
TABLE = ForwardingTable(OWN, ROUTERS, MTU, ROUTES)

ERROR_V4 = {"payload": bytes([3, *bytes(7)]), "protocol": ICMP}
ERROR_V6 = {"payload": bytes([1, *bytes(7)]), "next_header": ICMPV6}
BIG = bytes(MTU)
"""A payload that is too long with any header before it."""


def outbound(*addresses: str, table: ForwardingTable = TABLE, **fields: object) -> Verdict:
    return decide_outbound(packet(*addresses, **fields), table)


def inbound(outer_source: str, *addresses: str, table: ForwardingTable = TABLE, **fields: object) -> Verdict:
    return decide_inbound(packet(*addresses, **fields), outer_source, table)


def answer(verdict: Verdict, reason: DropReason) -> IcmpError:
    assert isinstance(verdict, Reply)
    assert verdict.reason is reason
    return read_error(verdict.packet)


# --- what goes through ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "destination", "peer"),
    [
        ("10.1.1.2", "10.1.2.3", ALPHA),
        ("10.1.1.0", "10.1.2.0", ALPHA),
        ("10.1.1.255", "10.1.2.255", ALPHA),
        ("fd00:1::2", "fd00:2::3", ALPHA),  # it is reached over IPv4
        ("10.1.1.2", "10.1.3.127", BETA),
        ("10.1.1.2", "10.1.3.128", GAMMA),
        ("10.1.1.2", "10.1.3.255", GAMMA),
    ],
)
def test_outbound_goes_to_the_holder_of_the_longest_prefix(source: str, destination: str, peer: Peer) -> None:
    assert outbound(source, destination) == Send(peer)


@pytest.mark.parametrize(
    ("outer_source", "source", "destination"),
    [
        ("192.168.0.2", "10.1.2.3", "10.1.1.2"),
        ("192.168.0.2", "fd00:2::3", "fd00:1::2"),
        ("192.168.0.3", "10.1.3.127", "10.1.1.2"),
        ("192.168.0.4", "10.1.3.128", "10.1.1.255"),
    ],
)
def test_inbound_from_the_holder_of_the_source_is_delivered(outer_source: str, source: str, destination: str) -> None:
    assert inbound(outer_source, source, destination) == DELIVER


@pytest.mark.parametrize("ttl", [1, 2, 255])
def test_a_ttl_that_is_left_decides_nothing_and_is_never_changed(ttl: int) -> None:
    """A verdict that lets a packet through names no bytes: the caller has only those that came."""
    assert outbound("10.1.1.2", "10.1.2.3", ttl=ttl) == Send(ALPHA)
    assert inbound("192.168.0.2", "10.1.2.3", "10.1.1.2", ttl=ttl) == DELIVER
    assert outbound("fd00:1::2", "fd00:2::3", hop_limit=ttl) == Send(ALPHA)
    assert inbound("192.168.0.2", "fd00:2::3", "fd00:1::2", hop_limit=ttl) == DELIVER
    assert [field.name for field in fields(Send)] == ["peer"]
    assert fields(Deliver) == ()


@pytest.mark.parametrize(
    "payload",
    [
        {"protocol": ICMP, "payload": bytes([3, *bytes(7)])},
        {"protocol": UDP, "offset": 100, "more_fragments": True},
        {"protocol": 6, "options": b"\x01\x01\x01\x00"},
    ],
)
def test_what_may_not_be_answered_may_still_pass(payload: dict[str, object]) -> None:
    assert outbound("10.1.1.2", "10.1.2.3", **payload) == Send(ALPHA)
    assert inbound("192.168.0.2", "10.1.2.3", "10.1.1.2", **payload) == DELIVER


def test_the_longest_packet() -> None:
    for source, destination, header in (("10.1.1.2", "10.1.2.3", 20), ("fd00:1::2", "fd00:2::3", 40)):
        assert outbound(source, destination, payload=bytes(MTU - header)) == Send(ALPHA)
        assert inbound("192.168.0.2", destination, source, payload=bytes(MTU - header)) == DELIVER
        assert isinstance(outbound(source, destination, payload=bytes(MTU - header + 1)), Reply)
        assert isinstance(inbound("192.168.0.2", destination, source, payload=bytes(MTU - header + 1)), Reply)


# --- what is dropped without an answer --------------------------------------------------------------------------------

GOOD_OUT, GOOD_IN = packet("10.1.1.2", "10.1.2.3", b"payload"), packet("10.1.2.3", "10.1.1.2", b"payload")

MALFORMED = [
    ("empty", b"", DropReason.TOO_SHORT),
    ("cut in the header", GOOD_OUT[:19], DropReason.TOO_SHORT),
    ("version 5", b"\x55" + GOOD_OUT[1:], DropReason.BAD_VERSION),
    ("IHL 4", b"\x44" + GOOD_OUT[1:], DropReason.BAD_HEADER_LENGTH),
    ("cut in the payload", GOOD_OUT[:-1], DropReason.LENGTH_MISMATCH),
    ("longer than it says", GOOD_OUT + b"\0", DropReason.LENGTH_MISMATCH),
]

OUTBOUND_DROPS = [
    ("from nobody's address", packet("10.1.9.9", "10.1.2.3"), DropReason.SOURCE_NOT_OWN),
    ("from a peer's address: it may not go back", packet("10.1.3.3", "10.1.2.3"), DropReason.SOURCE_NOT_OWN),
    ("from an underlay address", packet("192.168.0.1", "10.1.2.3"), DropReason.SOURCE_NOT_OWN),
    ("from a link-local address", packet("fe80::1", "fd00:2::3"), DropReason.SOURCE_NOT_OWN),
    ("to its own subnet", packet("10.1.1.2", "10.1.1.3"), DropReason.DESTINATION_OWN),
    ("to its own IPv6 subnet", packet("fd00:1::2", "fd00:1::3"), DropReason.DESTINATION_OWN),
    ("an error to nobody", packet("10.1.1.2", "10.1.9.9", **ERROR_V4), DropReason.NO_LEASE),
    ("an IPv6 error to nobody", packet("fd00:1::2", "fd00:9::9", **ERROR_V6), DropReason.NO_LEASE),
    ("a multicast", packet("10.1.1.2", "224.0.0.251"), DropReason.NO_LEASE),
    ("a broadcast", packet("10.1.1.2", "255.255.255.255"), DropReason.NO_LEASE),
    ("an IPv6 multicast", packet("fd00:1::2", "ff02::16"), DropReason.NO_LEASE),
    ("a later fragment to nobody", packet("10.1.1.2", "10.1.9.9", offset=9), DropReason.NO_LEASE),
    ("a long error", packet("10.1.1.2", "10.1.2.3", b"\3" + BIG, protocol=ICMP), DropReason.TOO_LONG),
    ("a long later fragment", packet("10.1.1.2", "10.1.2.3", BIG, offset=9), DropReason.TOO_LONG),
]

INBOUND_DROPS = [
    ("a stranger", "192.168.0.9", GOOD_IN, DropReason.UNKNOWN_PEER),
    ("this host itself", "192.168.0.1", GOOD_IN, DropReason.UNKNOWN_PEER),
    ("a stranger inside the overlay", "10.1.2.3", GOOD_IN, DropReason.UNKNOWN_PEER),
    ("an unleased source", "192.168.0.2", packet("10.1.9.9", "10.1.1.2"), DropReason.SPOOFED_SOURCE),
    ("a source outside the overlay", "192.168.0.2", packet("8.8.8.8", "10.1.1.2"), DropReason.SPOOFED_SOURCE),
    ("the receiver's own source", "192.168.0.2", packet("10.1.1.3", "10.1.1.2"), DropReason.SPOOFED_SOURCE),
    ("another peer's source", "192.168.0.2", packet("10.1.3.3", "10.1.1.2"), DropReason.SPOOFED_SOURCE),
    ("a source in a hole of its subnet", "192.168.0.3", packet("10.1.3.200", "10.1.1.2"), DropReason.SPOOFED_SOURCE),
    ("a source around its subnet", "192.168.0.4", packet("10.1.3.3", "10.1.1.2"), DropReason.SPOOFED_SOURCE),
    ("a family it has no lease of", "192.168.0.3", packet("fd00:2::3", "fd00:1::2"), DropReason.SPOOFED_SOURCE),
    ("a loopback source", "192.168.0.2", packet("127.0.0.1", "10.1.1.2"), DropReason.SPOOFED_SOURCE),
    ("to an underlay host", "192.168.0.2", packet("10.1.2.3", "192.168.0.9"), DropReason.DESTINATION_NOT_OWN),
    ("to this host's underlay", "192.168.0.2", packet("10.1.2.3", "192.168.0.1"), DropReason.DESTINATION_NOT_OWN),
    ("to this host's loopback", "192.168.0.2", packet("10.1.2.3", "127.0.0.1"), DropReason.DESTINATION_NOT_OWN),
    ("to another peer", "192.168.0.2", packet("10.1.2.3", "10.1.3.3"), DropReason.DESTINATION_NOT_OWN),
    ("back to itself", "192.168.0.2", packet("10.1.2.3", "10.1.2.4"), DropReason.DESTINATION_NOT_OWN),
    ("to nobody", "192.168.0.2", packet("10.1.2.3", "10.1.9.9"), DropReason.DESTINATION_NOT_OWN),
    ("to a multicast group", "192.168.0.2", packet("10.1.2.3", "224.0.0.1"), DropReason.DESTINATION_NOT_OWN),
    ("to all IPv6 nodes", "192.168.0.2", packet("fd00:2::3", "ff02::1"), DropReason.DESTINATION_NOT_OWN),
    ("with a TTL of 0", "192.168.0.2", packet("10.1.2.3", "10.1.1.2", ttl=0), DropReason.TTL_EXPIRED),
    ("with a hop limit of 0", "192.168.0.2", packet("fd00:2::3", "fd00:1::2", hop_limit=0), DropReason.TTL_EXPIRED),
    ("a long error", "192.168.0.2", packet("10.1.2.3", "10.1.1.2", b"\3" + BIG, protocol=ICMP), DropReason.TOO_LONG),
]


@pytest.mark.parametrize(("datagram", "reason"), [case[1:] for case in MALFORMED], ids=[case[0] for case in MALFORMED])
def test_malformed(datagram: bytes, reason: DropReason) -> None:
    assert decide_outbound(datagram, TABLE) == Drop(reason)
    assert decide_inbound(datagram, ALPHA.host, TABLE) == Drop(reason)
    assert too_big_for(datagram, 1400, TABLE) == Drop(reason)


@pytest.mark.parametrize(
    ("datagram", "reason"), [case[1:] for case in OUTBOUND_DROPS], ids=[case[0] for case in OUTBOUND_DROPS]
)
def test_outbound_drop(datagram: bytes, reason: DropReason) -> None:
    assert decide_outbound(datagram, TABLE) == Drop(reason)


@pytest.mark.parametrize(
    ("outer_source", "datagram", "reason"),
    [case[1:] for case in INBOUND_DROPS],
    ids=[case[0] for case in INBOUND_DROPS],
)
def test_inbound_drop(outer_source: str, datagram: bytes, reason: DropReason) -> None:
    assert decide_inbound(datagram, outer_source, TABLE) == Drop(reason)


def test_every_reason_to_drop_is_tested() -> None:
    reached = {case[-1] for cases in (MALFORMED, OUTBOUND_DROPS, INBOUND_DROPS) for case in cases}
    of_the_caller = {DropReason.CE_NOT_ECT, DropReason.SEND_ERROR, DropReason.SEND_BUFFER_FULL, DropReason.TUN_ERROR}
    assert reached == set(DropReason) - of_the_caller
    assert {reason: Drop(reason) for reason in DropReason} == DROP


# --- the order of the checks: the first reason that holds is the one that is counted ----------------------------------


def test_order_outbound() -> None:
    assert decide_outbound(packet("10.1.9.9", "10.1.9.9")[:-1], TABLE) == Drop(DropReason.TOO_SHORT)
    assert outbound("10.1.9.9", "10.1.9.9", payload=BIG) == Drop(DropReason.SOURCE_NOT_OWN)
    assert outbound("10.1.1.2", "10.1.1.3", payload=BIG) == Drop(DropReason.DESTINATION_OWN)
    assert answer(outbound("10.1.1.2", "10.1.9.9", payload=BIG), DropReason.NO_LEASE)


def test_order_inbound() -> None:
    assert decide_inbound(b"noise", "192.168.0.9", TABLE) == Drop(DropReason.UNKNOWN_PEER)
    assert decide_inbound(packet("10.1.9.9", "10.1.9.9")[:-1], ALPHA.host, TABLE) == Drop(DropReason.TOO_SHORT)
    assert inbound(ALPHA.host, "10.1.9.9", "10.1.9.9", payload=BIG) == Drop(DropReason.SPOOFED_SOURCE)
    assert inbound(ALPHA.host, "10.1.2.3", "10.1.9.9", payload=BIG) == Drop(DropReason.DESTINATION_NOT_OWN)


# --- what is answered -------------------------------------------------------------------------------------------------


def test_nobodys_address_is_unreachable() -> None:
    sent = packet("10.1.1.2", "10.1.9.9", bytes([8, *bytes(7)]), protocol=ICMP)  # a ping
    error = answer(decide_outbound(sent, TABLE), DropReason.NO_LEASE)
    assert error == IcmpError("10.1.1.0", "10.1.1.2", kind=3, code=1, mtu=0, quoted=sent)


def test_nobodys_ipv6_address_is_unreachable() -> None:
    sent = packet("fd00:1::2", "fd00:9::9", bytes([128, *bytes(7)]), next_header=ICMPV6)
    error = answer(decide_outbound(sent, TABLE), DropReason.NO_LEASE)
    assert error == IcmpError("fd00:1::", "fd00:1::2", kind=1, code=3, mtu=0, quoted=sent)


@pytest.mark.parametrize("dont_fragment", [True, False])
def test_too_long_is_answered_with_the_mtu(dont_fragment: bool) -> None:
    """Whatever DF says: the kernel has fragmented what it may, so what still is too long must become shorter."""
    sent = packet("10.1.1.2", "10.1.2.3", BIG, dont_fragment=dont_fragment)
    error = answer(decide_outbound(sent, TABLE), DropReason.TOO_LONG)
    assert error == IcmpError("10.1.1.0", "10.1.1.2", kind=3, code=4, mtu=MTU, quoted=sent[:548])


def test_too_long_ipv6_is_answered_with_the_mtu() -> None:
    sent = packet("fd00:1::2", "fd00:2::3", BIG)
    error = answer(decide_outbound(sent, TABLE), DropReason.TOO_LONG)
    assert error == IcmpError("fd00:1::", "fd00:1::2", kind=2, code=0, mtu=MTU, quoted=sent[:1232])


def test_too_long_inbound_is_answered_to_the_sender_beyond_the_peer() -> None:
    v4, v6 = packet("10.1.2.3", "10.1.1.2", BIG), packet("fd00:2::3", "fd00:1::2", BIG)
    error = answer(decide_inbound(v4, ALPHA.host, TABLE), DropReason.TOO_LONG)
    assert error == IcmpError("10.1.1.0", "10.1.2.3", kind=3, code=4, mtu=MTU, quoted=v4[:548])
    error = answer(decide_inbound(v6, ALPHA.host, TABLE), DropReason.TOO_LONG)
    assert error == IcmpError("fd00:1::", "fd00:2::3", kind=2, code=0, mtu=MTU, quoted=v6[:1232])


def test_too_big_for_the_path_is_answered_with_what_the_path_takes() -> None:
    assert answer(too_big_for(GOOD_OUT, 1372, TABLE), DropReason.TOO_LONG).mtu == 1372
    sent = packet("fd00:1::2", "fd00:2::3", b"payload")
    assert answer(too_big_for(sent, 1300, TABLE), DropReason.TOO_LONG).mtu == 1300
    unanswerable = packet("10.1.1.2", "10.1.2.3", **ERROR_V4)
    assert too_big_for(unanswerable, 1372, TABLE) == Drop(DropReason.TOO_LONG)


def test_without_a_router_of_the_family_there_is_no_answer() -> None:
    table = ForwardingTable(OWN, ROUTERS[:1], MTU, ROUTES)
    assert outbound("fd00:1::2", "fd00:9::9", table=table) == Drop(DropReason.NO_LEASE)
    assert isinstance(outbound("10.1.1.2", "10.1.9.9", table=table), Reply)


# --- tables -----------------------------------------------------------------------------------------------------------


def test_no_leases_but_this_hosts() -> None:
    alone = ForwardingTable(OWN, ROUTERS, MTU, [])
    assert isinstance(outbound("10.1.1.2", "10.1.2.3", table=alone), Reply)
    assert inbound("192.168.0.2", "10.1.2.3", "10.1.1.2", table=alone) == Drop(DropReason.UNKNOWN_PEER)


def test_two_holders_of_one_subnet() -> None:
    with pytest.raises(ValueError, match=r"^10\.1\.2\.0/24 is in the table twice$"):
        ForwardingTable(OWN, ROUTERS, MTU, [*ROUTES, (ip_network("10.1.2.0/24"), BETA)])


def test_this_hosts_subnet_inside_a_peers() -> None:
    """The longest prefix is this host's: nobody else sends from it, and nothing to it leaves."""
    table = ForwardingTable(OWN, ROUTERS, MTU, [(ip_network("10.1.0.0/16"), ALPHA)])
    assert inbound(ALPHA.host, "10.1.1.3", "10.1.1.2", table=table) == Drop(DropReason.SPOOFED_SOURCE)
    assert outbound("10.1.1.2", "10.1.1.3", table=table) == Drop(DropReason.DESTINATION_OWN)
    assert inbound(ALPHA.host, "10.1.9.9", "10.1.1.2", table=table) == DELIVER
    assert outbound("10.1.1.2", "10.1.9.9", table=table) == Send(ALPHA)


class Layout(NamedTuple):
    """What a table was made of, for looking up the slow way."""

    own: list[Network]
    routes: dict[Network, Peer]
    table: ForwardingTable


def layouts() -> st.SearchStrategy[Layout]:
    """Tables over few networks, nested ones among them, and few hosts."""
    networks = [
        *("10.1.1.0/24", "10.1.2.0/24", "10.1.2.128/25", "10.1.0.0/16", "0.0.0.0/0"),
        *("fd00:1::/64", "fd00:2::/64", "fd00::/16", "::/0"),
    ]
    some = st.lists(st.sampled_from([ip_network(network) for network in networks]), unique=True, max_size=6)
    many = st.permutations([ip_network(network) for network in networks]).map(lambda found: found[:6])

    def make(own: list[Network], held: list[Network], holders: list[Peer], routers: int, mtu: int) -> Layout:
        routes = dict(zip((network for network in held if network not in own), holders, strict=False))
        return Layout(own, routes, ForwardingTable(own, ROUTERS[:routers], mtu, routes.items()))

    peers = st.lists(st.sampled_from((ALPHA, ALPHA, BETA)), min_size=6, max_size=6)
    return st.builds(make, st.one_of(st.just(OWN), some), many, peers, st.integers(0, 2), st.integers(40, 120))


def inner_packets() -> st.SearchStrategy[bytes]:
    """Sound packets between addresses in and around the networks of `layouts`."""
    v4 = st.sampled_from(["10.1.1.2", "10.1.2.3", "10.1.2.200", "8.8.8.8"])
    v6 = st.sampled_from(["fd00:1::2", "fd00:2::3", "2001:db8::1"])
    payloads = st.binary(max_size=70)
    return st.one_of(st.builds(packet, v4, v4, payloads), st.builds(packet, v6, v6, payloads))


def addresses_of(datagram: bytes) -> tuple[str, str]:
    start, size = (12, 4) if datagram[0] >> 4 == 4 else (8, 16)
    source, destination = datagram[start : start + size], datagram[start + size : start + 2 * size]
    return str(ip_address(source)), str(ip_address(destination))


def longest(networks: list[Network], address: str) -> Network | None:
    matches = [network for network in networks if ip_address(address) in network]
    return max(matches, key=lambda network: network.prefixlen, default=None)


def assert_sound_reply(reply: Reply, datagram: bytes) -> None:
    error = read_error(reply.packet)
    assert error.destination == addresses_of(datagram)[0]
    assert ip_address(error.source) in ROUTERS
    assert datagram.startswith(error.quoted)


WIDE = {ip_network("10.1.0.0/16"): ALPHA}
OWN_INSIDE_WIDE = Layout(OWN[:1], WIDE, ForwardingTable(OWN[:1], ROUTERS, 80, WIDE.items()))


@given(layouts(), st.one_of(any_bytes(), inner_packets()))
@example(OWN_INSIDE_WIDE, packet("10.1.1.2", "10.1.1.3"))
def test_outbound_whatever_comes(layout: Layout, datagram: bytes) -> None:
    verdict = decide_outbound(datagram, layout.table)
    assert not isinstance(verdict, Deliver)
    if isinstance(verdict, Reply):
        assert_sound_reply(verdict, datagram)
    if isinstance(verdict, Send):
        source, destination = addresses_of(datagram)
        assert longest(layout.own, source)
        way = longest([*layout.own, *layout.routes], destination)
        assert way is not None
        assert layout.routes.get(way) == verdict.peer
        assert len(datagram) <= layout.table.mtu


@given(layouts(), st.one_of(any_bytes(), inner_packets()), st.sampled_from([ALPHA.host, BETA.host, "192.168.0.9", ""]))
@example(OWN_INSIDE_WIDE, packet("10.1.1.3", "10.1.1.2"), ALPHA.host)
def test_inbound_whatever_comes(layout: Layout, datagram: bytes, outer_source: str) -> None:
    verdict = decide_inbound(datagram, outer_source, layout.table)
    assert not isinstance(verdict, Send)
    if isinstance(verdict, Reply):
        assert_sound_reply(verdict, datagram)
    if isinstance(verdict, Deliver):
        source, destination = addresses_of(datagram)
        holder = longest([*layout.own, *layout.routes], source)
        assert holder is not None
        assert holder in layout.routes, "the source is this host's own"
        assert layout.routes[holder].host == outer_source
        assert longest(layout.own, destination)
        assert len(datagram) <= layout.table.mtu


@given(layouts(), inner_packets())
def test_what_was_delivered_does_not_go_back_into_the_overlay(layout: Layout, datagram: bytes) -> None:
    """No loop: were a host to forward what it got from a peer to the TUN, it would end there."""
    if any(decide_inbound(datagram, peer.host, layout.table) == DELIVER for peer in (ALPHA, BETA, GAMMA)):
        assert not isinstance(decide_outbound(datagram, layout.table), Send)


PLANS = st.dictionaries(
    st.integers(0, 5).map(lambda number: ip_network(f"10.1.{number}.0/24")), st.integers(2, 5), max_size=6
)


@given(PLANS, PLANS)
def test_a_changed_table_decides_as_one_made_anew(old: dict[Network, int], new: dict[Network, int]) -> None:
    """Also where several leases name one address."""

    def routes(plan: dict[Network, int]) -> dict[Network, Peer]:
        return {one: Peer(f"192.168.0.{host}", 8285, 4, f"{one}@{host}") for one, host in plan.items()}

    before, after = routes(old), routes(new)
    kept = {one: before[one] for one in old.keys() & new.keys() if old[one] == new[one]}
    table = ForwardingTable([], [], MTU, before.items())
    change = Change(
        [(one, peer) for one, peer in before.items() if one not in kept],
        [(one, peer) for one, peer in after.items() if one not in kept],
    )
    changed = table.changed(change)
    expected = ForwardingTable([], [], MTU, {**after, **kept}.items())
    assert changed.peers.keys() == expected.peers.keys()
    owners = {owner.peer for owner in changed.owners if isinstance(owner, Send)}
    assert owners == set({**after, **kept}.values())
    assert all(peer in owners and peer.host == host for host, peer in changed.peers.items())
    assert (changed.mtu, changed.routers) == (expected.mtu, expected.routers)
    assert table.peers.keys() == {peer.host for peer in before.values()}, "the old one is as it was"
