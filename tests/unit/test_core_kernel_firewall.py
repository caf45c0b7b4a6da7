"""The rules are read back from nft's JSON and tried on packets, as nft itself would."""

from __future__ import annotations

import json
import re
import socket
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlayd.core.kernel.firewall import (
    FORWARD_MARK,
    SETS,
    FirewallPolicy,
    ForeignChain,
    ForeignRules,
    GuardedPort,
    OverlayRange,
    Sighting,
    Sign,
    forward_accepts,
    overlay_packets,
    own_table,
    peer_element,
    rulesets,
    sighting,
)
from overlayd.core.kernel.kinds import Ruleset

V4 = OverlayRange(ip_network("10.5.0.0/16"), ip_network("10.5.1.0/24"))
V6 = OverlayRange(ip_network("fd05::/48"), ip_network("fd05:0:0:1::/64"))
DEVICE, BRIDGE, UNDERLAY = "flannel.1", "cni0", "eth0"
MAC = "0e:00:00:00:00:01"
GUARDED = GuardedPort(underlay_family=4, port=8472, vni=1, mac=MAC)
DOCKER = ForeignChain("ip", "filter", "FORWARD")
POLICY = FirewallPolicy(
    (V4,), (DEVICE,), ("ovl-gso",), (), UNDERLAY, (4, 6), False, (), (), masquerade=False, forward_accept=True
)
VXLAN = replace(POLICY, guarded=(GUARDED,))


@dataclass(frozen=True)
class Packet:
    """What rules can see of a packet."""

    saddr: str
    daddr: str
    iifname: str = DEVICE
    mark: int = 0
    dport: int = 0
    vni: int = 0
    mac: str = "0e:00:00:00:00:09"
    state: str = "new"
    refused_port: int = 0
    """Of the datagram that it quotes, if it is ICMP's "port unreachable"."""
    reverse_path: bool = True


def rules_of(ruleset: Ruleset) -> list[dict[str, Any]]:
    """The rules in the order in which packets meet them."""
    rules: list[dict[str, Any]] = []
    for command in json.loads(ruleset.definition):
        if "rule" in command.get("add", {}):
            rules.append(command["add"]["rule"])
        elif "rule" in command.get("insert", {}):
            rules.insert(0, command["insert"]["rule"])
    return rules


def transport_bits(packet: Packet) -> dict[int, int]:
    """What stands at these offsets of the transport header: of VXLAN, or of a quoted IPv4 or IPv6 datagram."""
    quoted = dict.fromkeys((136, 112), socket.IPPROTO_UDP) | dict.fromkeys((240, 400), packet.refused_port)
    return {96: packet.vni, 128: int(packet.mac.replace(":", ""), 16), 135: int(packet.mac[:2], 16) & 1, **quoted}


def value(left: dict[str, Any], packet: Packet) -> object:
    """The left side of a match for this packet; None where the packet has no such header."""
    family = ip_address(packet.saddr).version
    match left:
        case {"meta": {"key": "nfproto"}}:
            return f"ipv{family}"
        case {"meta": {"key": key}}:
            return getattr(packet, key)
        case {"ct": {"key": "state"}}:
            return packet.state
        case {"payload": {"base": "th", "offset": offset}}:
            return transport_bits(packet)[offset]
        case {"fib": {"result": "oif", "flags": ["saddr", "iif"]}}:
            return packet.reverse_path
        case {"payload": {"protocol": "udp", "field": "dport"}}:
            return packet.dport if not packet.refused_port else None
        case {"payload": {"protocol": "icmp" | "icmpv6" as protocol, "field": field}}:
            error = {"type": "destination-unreachable", "code": "port-unreachable"}
            return error[field] if packet.refused_port and (protocol == "icmp") == (family == 4) else None
        case {"payload": {"protocol": "udp", "field": "dport"}}:
            return packet.dport if not packet.refused_port else None
        case {"payload": {"protocol": protocol, "field": field}}:
            return ip_address(getattr(packet, field)) if protocol == ("ip" if family == 4 else "ip6") else None
        case {"&": [inner, mask]}:
            found = value(inner, packet)
            assert isinstance(found, int)
            return found & mask
    raise AssertionError(f"a match on {left}")


def holds(match: dict[str, Any], packet: Packet, elements: set[str]) -> bool:
    found, right = value(match["left"], packet), match["right"]
    if found is None:
        return False  # a match on a header that is not there fails, a negated one too
    if isinstance(right, dict) and "prefix" in right:
        inside = found in ip_network(f"{right['prefix']['addr']}/{right['prefix']['len']}")
    elif isinstance(right, dict) and "set" in right:
        inside = found in right["set"]
    elif isinstance(right, list):
        inside = found in right
    elif isinstance(right, str) and right.startswith("@"):
        inside = any(found in ip_network(element) for element in elements)
    else:
        inside = found == right
    return inside is (match["op"] != "!=")


def verdict(ruleset: Ruleset | None, chain: str, packet: Packet, elements: set[str] = frozenset()) -> str | None:
    """drop, accept, return or masquerade; None where no rule of the chain decides."""
    assert ruleset is not None
    for rule in rules_of(ruleset):
        statements = rule["expr"]
        matches = [statement["match"] for statement in statements if "match" in statement]
        if rule["chain"] == chain and all(holds(match, packet, elements) for match in matches):
            last = statements[-1]
            if "set" in last:
                continue
            if "vmap" in last:
                last = dict(last["vmap"]["data"]["set"]).get(value(last["vmap"]["key"], packet))
            if last is None:
                continue
            if "goto" in last:
                return verdict(ruleset, last["goto"]["target"], packet, elements)
            [decision] = last
            return decision
    return None


def noted(ruleset: Ruleset | None, chain: str, packet: Packet, elements: set[str] = frozenset()) -> list[str]:
    """The sets in which the rules of the chain note the packet's sender before one of them decides."""
    assert ruleset is not None
    sets = []
    for rule in rules_of(ruleset):
        *matches, last = [one for one in rule["expr"] if "counter" not in one]
        if rule["chain"] == chain and all(holds(one["match"], packet, elements) for one in matches):
            if "set" not in last:
                break
            sets.append(last["set"]["set"])
    return sets


# --- our own table ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (Packet("192.168.77.2", "192.168.77.1", UNDERLAY, dport=8472, vni=1), "accept"),  # a peer
        (Packet("192.168.77.9", "192.168.77.1", UNDERLAY, dport=8472, vni=1), "drop"),
        (Packet("192.168.77.9", "192.168.77.1", UNDERLAY, dport=8472, vni=2), None),  # somebody else's device
        (Packet("192.168.77.9", "192.168.77.1", UNDERLAY, dport=22), None),
        (Packet("fd77::9", "fd77::1", UNDERLAY, dport=8472, vni=1), None),  # no device of ours on IPv6
    ],
)
def test_guard(packet: Packet, expected: str | None) -> None:
    table = own_table(VXLAN)
    assert verdict(table, "guard", packet, {"192.168.77.2"}) == expected


def test_guard_of_ipv6() -> None:
    table = own_table(replace(POLICY, ranges=(V6,), guarded=(replace(GUARDED, underlay_family=6),)))
    stranger = Packet("fd77::9", "fd77::1", UNDERLAY, dport=8472, vni=1)
    assert verdict(table, "guard", stranger, {"fd77::2"}) == "drop"
    assert verdict(table, "guard", replace(stranger, saddr="fd77::2"), {"fd77::2"}) == "accept"


OUTER = Packet("192.168.77.2", "192.168.77.1", UNDERLAY, dport=8472, vni=1, mac=MAC)


@pytest.mark.parametrize(
    ("packet", "sign"),
    [
        (OUTER, None),
        (replace(OUTER, saddr="192.168.77.9"), "unknown_peer"),
        (replace(OUTER, dport=4789), "other_port"),
        (replace(OUTER, vni=7), "other_vni"),
        (replace(OUTER, dport=4789, mac="0e:00:00:00:00:02"), None),  # another overlay's, or no VXLAN
        (replace(OUTER, vni=7, mac="0e:00:00:00:00:02"), None),
        (replace(OUTER, mac="0e:00:00:00:00:02"), "other_mac"),
        (replace(OUTER, mac="ff:ff:ff:ff:ff:ff"), None),
        (replace(OUTER, refused_port=8472), "refused"),
        (replace(OUTER, refused_port=53), None),
    ],
)
def test_who_sends_vxlan_otherwise_is_noted(packet: Packet, sign: str | None) -> None:
    for family, one, peer in ((4, packet, "192.168.77.2"), (6, as_ipv6(packet), "fd77::2")):
        guarded = replace(GUARDED, underlay_family=family)
        table = own_table(replace(POLICY, guarded=(guarded,), peer_ports=((family, 8472),)))
        assert noted(table, "guard", one, {peer}) == ([f"@{sign}{family}"] if sign else [])


def as_ipv6(packet: Packet) -> Packet:
    """The same packet on an IPv6 underlay."""
    saddr, daddr = (one.replace("192.168.77.", "fd77::") for one in (packet.saddr, packet.daddr))
    return replace(packet, saddr=saddr, daddr=daddr)


@pytest.mark.parametrize(
    ("packet", "sign"),
    [
        (Packet("10.5.2.7", "10.5.1.7"), None),
        (Packet("192.168.77.9", "10.5.1.7"), "source_outside4"),
        (Packet("10.5.1.9", "10.5.1.7"), "source_own4"),
        (Packet("10.5.2.7", "10.5.3.7"), "astray4"),
        (Packet("fd05:0:0:2::7", "fd05:0:0:3::7"), "astray6"),
    ],
)
def test_whose_packets_do_not_belong_here_is_noted(packet: Packet, sign: str | None) -> None:
    vxlan = own_table(replace(VXLAN, ranges=(V4, V6)))
    host_gw = own_table(replace(POLICY, ranges=(V4, V6), devices=(), plain=True))
    assert noted(vxlan, f"from_{DEVICE}", packet) == ([f"@{sign}"] if sign else [])
    expected = sign if sign != "source_outside4" else None  # what crosses the underlay may come from anywhere
    assert noted(host_gw, "from_underlay", packet) == ([f"@{expected}"] if expected else [])


def test_a_rule_that_notes_decides_nothing() -> None:
    """A full set breaks off the rule: a drop behind it would not be done."""
    table = own_table(replace(VXLAN, ranges=(V4, V6), plain=True))
    assert table is not None
    for rule in rules_of(table):
        kinds = {key for one in rule["expr"] for key in one}
        assert "set" not in kinds or kinds == {"match", "set"}, rule["comment"]


@pytest.mark.parametrize(
    ("name", "key", "expected"),
    [
        ("unknown_peer4", bytes([192, 0, 2, 9]), Sighting(Sign.UNKNOWN_PEER, ip_address("192.0.2.9"))),
        (
            "other_port4",
            bytes([192, 0, 2, 9, 0x21, 0x18, 0, 0]),
            Sighting(Sign.OTHER_PORT, ip_address("192.0.2.9"), 8472),
        ),
        ("refused6", ip_address("fd77::2").packed, Sighting(Sign.REFUSED, ip_address("fd77::2"))),
        (
            "astray6",
            ip_address("fd05::1").packed + ip_address("fd05::2").packed,
            Sighting(Sign.ASTRAY, ip_address("fd05::1"), ip_address("fd05::2")),
        ),
        ("astray4", bytes([10, 5, 1, 1]), None),
        ("refused6", bytes(4), None),
    ],
)
def test_elements_of_noting_sets(name: str, key: bytes, expected: Sighting | None) -> None:
    assert sighting(name, key) == expected


@given(st.sampled_from(sorted(SETS)), st.binary(max_size=40))
def test_whatever_an_element_holds(name: str, key: bytes) -> None:
    sighting(name, key)


INNER = [
    (Packet("10.5.2.7", "10.5.1.7"), "accept"),
    (Packet("10.5.1.9", "10.5.1.7"), "drop"),  # in this host's own name
    (Packet("10.5.9.77", "10.5.1.7", BRIDGE), None),
    (Packet("10.5.2.7", "192.168.77.9"), "drop"),  # the underlay
    (Packet("10.5.2.7", "8.8.8.8"), "drop"),
    (Packet("10.5.2.7", "10.5.3.7"), "drop"),  # another host's
    (Packet("192.168.77.9", "10.5.1.7"), "drop"),
    (Packet("8.8.8.8", "192.168.77.9"), "drop"),
    (Packet("10.5.1.7", "8.8.8.8", BRIDGE), None),
    (Packet("192.168.77.9", "192.168.77.1", UNDERLAY), None),
]


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        *INNER,
        (Packet("fd05:0:0:2::7", "fd05:0:0:1::7"), "accept"),
        (Packet("fd05:0:0:2::7", "fd77::9"), "drop"),
        (Packet("fd77::9", "fd05:0:0:1::7"), "drop"),
        (Packet("fd05:0:0:1::9", "fd05:0:0:1::7"), "drop"),
    ],
)
def test_inner(packet: Packet, expected: str | None) -> None:
    assert verdict(own_table(replace(VXLAN, ranges=(V4, V6))), "inner", packet) == expected


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        *INNER,
        (Packet("fd05:0:0:2::7", "fd77::9"), "drop"),
        (Packet("fe80::7", "fd77::1"), "drop"),
    ],
)
def test_a_family_that_the_overlay_has_not_may_not_come_out_of_it(packet: Packet, expected: str | None) -> None:
    """Else the underlay's IPv6 could be reached through an IPv4 overlay."""
    assert verdict(own_table(VXLAN), "inner", packet) == expected


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (Packet("10.5.1.7", "8.8.8.8", mark=0x4000), "return"),
        (Packet("10.5.1.7", "8.8.8.8", mark=0x4001), "return"),
        (Packet("10.5.1.7", "8.8.8.8", mark=0x8000), "masquerade"),
        (Packet("10.5.1.7", "10.5.2.7"), "return"),
        (Packet("10.5.2.7", "10.5.1.7"), "return"),
        (Packet("192.168.77.9", "10.5.1.7"), "return"),
        (Packet("10.5.1.7", "192.168.77.9"), "masquerade"),
        (Packet("10.5.1.7", "224.0.0.251"), None),
        (Packet("192.168.77.1", "10.5.2.7"), "masquerade"),
        (Packet("192.168.77.1", "8.8.8.8"), None),
        (Packet("fd05:0:0:1::7", "fd05:0:0:2::7"), "return"),
        (Packet("fd05:0:0:1::7", "2001:db8::1"), "masquerade"),
        (Packet("fd05:0:0:1::7", "ff02::1"), None),
        (Packet("2001:db8::1", "fd05:0:0:1::7"), "return"),
    ],
)
def test_masquerading_as_flannel_does(packet: Packet, expected: str | None) -> None:
    assert verdict(own_table(replace(POLICY, ranges=(V4, V6), masquerade=True)), "postrouting", packet) == expected


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (Packet("10.5.1.7", "192.168.77.2", BRIDGE, dport=8285), "drop"),
        (Packet("10.5.1.7", "192.168.77.2", BRIDGE, dport=8286), "drop"),
        (Packet("10.5.1.7", "192.168.77.2", BRIDGE, dport=53), None),
        (Packet("10.5.1.7", "10.5.2.7", BRIDGE, dport=8285), None),  # an overlay of the containers' own
        (Packet("10.5.2.7", "10.5.1.7", dport=8285), None),
        (Packet("10.5.1.7", "192.168.77.9", BRIDGE, dport=8285), "drop"),  # a host that may be a peer by then
        (Packet("172.17.0.7", "192.168.77.2", "docker0", dport=8285), "drop"),
        (Packet("172.17.0.7", "192.168.77.2", "docker0", dport=8286), "drop"),
        (Packet("172.17.0.7", "192.168.77.2", "docker0", dport=53), None),
        (Packet("172.17.0.7", "192.168.77.9", "docker0", dport=8285), None),  # some other overlay's host
        (Packet("192.168.77.3", "192.168.77.2", "eth1", dport=8285), None),  # a host of the overlay behind this one
        (Packet("192.168.77.3", "192.168.77.2", "docker0", dport=8285, reverse_path=False), "drop"),
        (Packet("192.168.77.1", "192.168.77.2", "docker0", dport=8285), "drop"),  # this host's own address
        (Packet("192.168.77.1", "192.168.77.2", "ovl-gso", dport=8285), "accept"),  # tunnel GSO
        (Packet("fd77::1", "fd77::2", "ovl-gso", dport=8285), "accept"),
        (Packet("fd05:0:0:1::7", "fd77::2", BRIDGE, dport=8285), "drop"),
        (Packet("fd05:0:0:1::7", "fd05:0:0:2::7", BRIDGE, dport=8285), None),
        (Packet("fd17::7", "fd77::2", "docker0", dport=8285), "drop"),
        (Packet("fd17::7", "fd77::9", "docker0", dport=8285), None),
        (Packet("fd77::3", "fd77::2", "eth1", dport=8285), None),
        (Packet("fd77::3", "fd77::2", "docker0", dport=8285, reverse_path=False), "drop"),
        (Packet("fd77::1", "fd77::2", "docker0", dport=8285), "drop"),
    ],
)
def test_only_peers_reach_the_ports_of_peers_through_this_host(packet: Packet, expected: str | None) -> None:
    table = own_table(replace(POLICY, ranges=(V4, V6), ports=(8285, 8286)))
    peers = {f"{prefix}{number}" for prefix in ("192.168.77.", "fd77::") for number in (2, 3)}
    assert verdict(table, "forwarded", packet, peers) == expected


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (Packet("10.5.1.7", "10.5.2.7", BRIDGE), "snat"),
        (Packet("10.5.1.7", "10.5.2.7", BRIDGE, mark=0x4000), None),  # Kubernetes masquerades it
        (Packet("10.5.1.7", "10.5.1.7", BRIDGE), None),  # to its own published port
        (Packet("10.5.1.7", "8.8.8.8", BRIDGE), None),
        (Packet("172.17.0.2", "10.5.2.7", "docker0"), None),
        (Packet("fd05:0:0:1::7", "fd05:0:0:2::7", BRIDGE), "snat"),
        (Packet("fd05:0:0:1::7", "2001:db8::1", BRIDGE), None),
    ],
)
def test_sources_are_kept_across_hosts(packet: Packet, expected: str | None) -> None:
    [table] = rulesets(replace(POLICY, ranges=(V4, V6)), ForeignRules(source_nat=True))
    assert verdict(table, "keep_source", packet) == expected


def test_without_others_nat_there_is_none_of_ours() -> None:
    """It would have the kernel track every connection."""
    assert rulesets(replace(POLICY, masquerade=False), ForeignRules()) == []


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (Packet("10.5.2.7", "10.5.1.7", UNDERLAY), "accept"),
        (Packet("10.5.2.7", "192.168.77.1", UNDERLAY), None),  # a remote container to this host
        (Packet("8.8.8.8", "10.5.1.7", UNDERLAY), "accept"),
        (Packet("192.168.77.9", "10.5.3.7", UNDERLAY), None),  # a neighbour that uses this host as a gateway
        (Packet("10.5.1.9", "10.5.1.7", UNDERLAY), "drop"),
        (Packet("10.5.1.1", "192.168.77.1", UNDERLAY), "drop"),
        (Packet("10.5.2.7", "10.5.3.7", UNDERLAY), "drop"),
        (Packet("10.5.1.7", "10.5.3.7", BRIDGE), None),
        (Packet("fd05:0:0:2::7", "fd05:0:0:1::7", UNDERLAY), "accept"),
        (Packet("fd05:0:0:1::9", "fd05:0:0:1::7", UNDERLAY), "drop"),
        (Packet("fd05:0:0:2::7", "fd05:0:0:3::7", UNDERLAY), "drop"),
    ],
)
def test_what_the_underlay_may_bring_as_it_is(packet: Packet, expected: str | None) -> None:
    host_gw = replace(POLICY, ranges=(V4, V6), devices=(), plain=True)
    direct = replace(VXLAN, ranges=(V4, V6), plain=True)
    for policy in (host_gw, direct):
        assert verdict(own_table(policy), "inner", packet) == expected


def test_protection_alone_is_not_required() -> None:
    """A host without nft can be in an overlay of udp mode."""
    found = [own_table(replace(policy, ports=(8285,))) for policy in (POLICY, VXLAN, replace(POLICY, masquerade=True))]
    assert [table.essential for table in found if table is not None] == [False, True, True]


def test_nothing_wanted_is_no_table() -> None:
    assert own_table(replace(POLICY, ranges=(V4, V6))) is None


def test_the_table_is_replaced_in_one_transaction() -> None:
    """Adding it first makes deleting it safe where there is none."""
    table = own_table(replace(VXLAN, masquerade=True))
    assert table is not None
    overlayd = {"table": {"family": "inet", "name": "overlayd"}}
    first, second, third, *rest = json.loads(table.definition)
    assert (first, second, third) == ({"add": overlayd}, {"delete": overlayd}, {"add": overlayd})
    added = [command["add"] for command in rest]
    chains = [thing["chain"] for thing in added if "chain" in thing]
    assert [(chain["name"], chain.get("hook"), chain.get("policy")) for chain in chains] == [
        ("guard", "input", "accept"),
        ("inner", "prerouting", "accept"),
        ("postrouting", "postrouting", "accept"),
        (f"from_{DEVICE}", None, None),
    ]
    assert {rule["chain"] for rule in rules_of(table)} == {chain["name"] for chain in chains}
    assert [(thing["set"]["name"], thing["set"]["type"]) for thing in added if "set" in thing] == [
        ("peers4", "ipv4_addr"),
        ("peers6", "ipv6_addr"),
        ("astray4", ["ipv4_addr", "ipv4_addr"]),
        ("other_mac4", "ipv4_addr"),
        ("other_port4", ["ipv4_addr", "inet_service"]),
        ("other_vni4", "ipv4_addr"),
        ("source_outside4", ["ipv4_addr", "ipv4_addr"]),
        ("source_own4", ["ipv4_addr", "ipv4_addr"]),
        ("unknown_peer4", "ipv4_addr"),
    ]


def test_elements_stand_in_the_set_that_the_guard_reads() -> None:
    element = peer_element(ip_address("192.168.77.2"))
    table = own_table(VXLAN)
    assert table is not None
    assert element.parent == table.key
    assert f"@{element.set}" in table.definition
    assert peer_element(ip_address("fd77::2")).set == "peers6"


def test_packets_that_come_by_other_devices_meet_one_look_up() -> None:
    """They are all that this host receives: its own traffic, and the datagrams before they are decapsulated."""
    table = own_table(replace(VXLAN, ranges=(V4, V6), devices=(DEVICE, "flannel6.1")))
    assert table is not None
    assert [rule["expr"][0].keys() for rule in rules_of(table) if rule["chain"] == "inner"] == [{"vmap"}]


# --- comments: how rules are known again ------------------------------------------------------------------------------


def test_comments_name_every_rule_in_order_and_end_in_a_digest() -> None:
    own = own_table(replace(VXLAN, ranges=(V4, V6), masquerade=True))
    foreign = forward_accepts(DOCKER, [V4])
    assert own is not None
    assert foreign is not None
    assert own.comments == tuple(f"{rule['chain']}: {rule['comment']}" for rule in rules_of(own))
    assert foreign.comments == tuple(rule["comment"] for rule in rules_of(foreign))
    for ruleset in (own, foreign):
        assert len(set(ruleset.comments)) == len(ruleset.comments)
        for rule in rules_of(ruleset):
            assert re.fullmatch(r"overlayd: .+ #[0-9a-f]{8}", rule["comment"])
            assert len(rule["comment"]) <= 128, "nft's limit"


def test_comments_are_in_the_order_in_which_the_kernel_lists_rules() -> None:
    """By chain, as the chains were made: else the table would differ for ever, and be replaced at each comparison."""
    marked = list(overlay_packets([V4], (DEVICE,), UNDERLAY))
    table = own_table(replace(VXLAN, masquerade=True), marked)
    assert table is not None
    added = [command.get("add", {}) for command in json.loads(table.definition)]
    made = [thing["chain"]["name"] for thing in added if thing.keys() == {"chain"}]
    assert set(made) == {"guard", "inner", "mark", "unmark", "postrouting", f"from_{DEVICE}"}
    chains = [comment.partition(":")[0] for comment in table.comments]
    assert chains == sorted(chains, key=made.index)


def test_a_changed_rule_has_another_comment() -> None:
    def table(vni: int, masquerade: bool) -> Ruleset | None:
        return own_table(replace(POLICY, guarded=(replace(GUARDED, vni=vni),), masquerade=masquerade))

    assert table(1, True) == table(1, True)
    assert table(1, True) != table(2, True)
    assert table(1, True) != table(1, False)


# --- somebody else's forward chain ------------------------------------------------------------------------------------

FORWARDED = [
    (Packet("10.5.2.7", "10.5.1.7"), "accept"),
    (Packet("10.5.2.7", "10.5.3.7"), None),
    (Packet("192.168.77.9", "10.5.1.7"), None),
    (Packet("10.5.1.7", "10.5.2.7", BRIDGE), "accept"),
    (Packet("10.5.1.7", "8.8.8.8", BRIDGE), "accept"),
    (Packet("8.8.8.8", "10.5.1.7", UNDERLAY), None),
    (Packet("8.8.8.8", "10.5.1.7", UNDERLAY, state="established"), "accept"),
    (Packet("8.8.8.8", "10.5.1.7", UNDERLAY, state="related"), "accept"),
    (Packet("8.8.8.8", "10.5.1.7", UNDERLAY, state="invalid"), None),
    (Packet("10.5.1.7", "8.8.8.8", UNDERLAY), None),  # a spoofed source
    (Packet("10.5.1.7", "8.8.8.8"), None),
    (Packet("172.17.0.2", "8.8.8.8", "docker0"), None),  # not the overlay's business
]


def forwarded(packet: Packet, chain: ForeignChain = DOCKER, devices: tuple[str, ...] = (DEVICE,)) -> str | None:
    """What becomes of a packet that meets our marking chain and then the foreign chain."""
    table = own_table(replace(POLICY, ranges=(V4, V6), devices=devices), overlay_packets([V4, V6], devices, UNDERLAY))
    if verdict(table, "mark", packet) == "mangle":
        packet = replace(packet, mark=packet.mark | FORWARD_MARK)
    return verdict(forward_accepts(chain, [V4, V6]), chain.chain, packet)


@pytest.mark.parametrize(("packet", "expected"), [*FORWARDED, (Packet("10.5.2.7", "10.5.1.7", UNDERLAY), None)])
def test_forward_accepts_the_overlays_packets_and_no_others(packet: Packet, expected: str | None) -> None:
    assert forwarded(packet) == expected


def test_host_gw_packets_come_over_the_underlay() -> None:
    assert forwarded(Packet("10.5.2.7", "10.5.1.7", UNDERLAY), devices=()) == "accept"
    assert forwarded(Packet("10.5.1.7", "10.5.2.7", BRIDGE), devices=()) == "accept"
    assert forwarded(Packet("192.168.77.9", "10.5.1.7", UNDERLAY), devices=()) is None


def test_another_users_mark_opens_nothing_but_this_hosts_subnet() -> None:
    assert forwarded(Packet("172.17.0.2", "8.8.8.8", "docker0", mark=FORWARD_MARK)) is None


def test_the_mark_is_gone_when_the_packet_has_been_forwarded() -> None:
    table = own_table(POLICY, overlay_packets([V4], (DEVICE,), UNDERLAY))
    assert table is not None
    [rule] = [rule for rule in rules_of(table) if rule["chain"] == "unmark"]
    assert rule["expr"][-1]["mangle"]["value"] == {"&": [{"meta": {"key": "mark"}}, 0xFFFFFFFF - FORWARD_MARK]}
    assert verdict(table, "unmark", Packet("10.5.2.7", "10.5.1.7", mark=FORWARD_MARK | 1)) == "mangle"
    assert verdict(table, "unmark", Packet("10.5.2.7", "10.5.1.7", mark=1)) is None


def test_iptables_can_read_the_foreign_rules() -> None:
    """iptables-nft gives up on a chain with a connection state or a set in it, and drops a second interface."""
    ruleset = forward_accepts(DOCKER, [V4])
    assert ruleset is not None
    assert "ct" not in ruleset.definition.replace("protocol", "")
    assert '"set"' not in ruleset.definition
    assert "iifname" not in ruleset.definition


@pytest.mark.parametrize(
    ("family", "v4", "v6"), [("ip", "accept", None), ("ip6", None, "accept"), ("inet", "accept", "accept")]
)
def test_a_chain_gets_the_rules_of_its_family(family: str, v4: str | None, v6: str | None) -> None:
    chain = ForeignChain(family, "filter", "FORWARD")
    assert forwarded(Packet("10.5.2.7", "10.5.1.7"), chain) == v4
    assert forwarded(Packet("fd05:0:0:2::7", "fd05:0:0:1::7"), chain) == v6


def test_no_rules_for_a_chain_of_another_family() -> None:
    assert forward_accepts(ForeignChain("ip6", "filter", "FORWARD"), [V4]) is None


# --- all of it --------------------------------------------------------------------------------------------------------


def test_rulesets() -> None:
    wanted = VXLAN
    docker6 = ForeignChain("ip6", "filter", "FORWARD")
    own, foreign = rulesets(wanted, ForeignRules((DOCKER, docker6)))
    assert (own.table, own.chain) == ("overlayd", None)
    assert (foreign.table, foreign.chain) == ("filter", "FORWARD")
    [alone] = rulesets(wanted, ForeignRules())
    assert rulesets(replace(wanted, forward_accept=False), ForeignRules((DOCKER,))) == [alone]
    assert set(alone.comments) < set(own.comments), "marks are set only where a foreign chain asks for them"
    udp = replace(wanted, devices=("flannel0",), guarded=())
    assert rulesets(udp, ForeignRules()) == []  # the daemon checks each packet itself
