"""The rules of each chain of our own table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from overlayd.core.address import Family
from overlayd.core.kernel import nft_json as nft
from overlayd.core.kernel.firewall.model import (
    FORWARD_MARK,
    OUTBOUND,
    FirewallPolicy,
    GuardedPort,
    OverlayRange,
    Rule,
    is_marked,
)
from overlayd.core.kernel.firewall.signs import Sign, note
from overlayd.core.kernel.nft_json import Json

_EARLY, _LATE = -500, 500  # priorities before and after any filter chain

HOOKS: dict[str, Json] = {
    "guard": {"type": "filter", "hook": "input", "prio": -10, "policy": "accept"},
    "inner": {"type": "filter", "hook": "prerouting", "prio": -290, "policy": "accept"},
    "mark": {"type": "filter", "hook": "forward", "prio": _EARLY, "policy": "accept"},
    "unmark": {"type": "filter", "hook": "forward", "prio": _LATE, "policy": "accept"},
    "forwarded": {"type": "filter", "hook": "forward", "prio": -10, "policy": "accept"},
    "keep_source": {"type": "nat", "hook": "postrouting", "prio": 99, "policy": "accept"},
    "postrouting": {"type": "nat", "hook": "postrouting", "prio": 100, "policy": "accept"},
}
"""Of the base chains; the others are reached by a jump."""

_MASQUERADE_MARK = 0x4000  # set by Kubernetes, which masquerades these packets itself; flannel leaves them alone too


def chains(policy: FirewallPolicy, marked: Iterable[Rule], keep_source: bool) -> dict[str, list[Rule]]:
    """The rules of every chain that our table can have; see `table.own_table`."""
    ranges = policy.ranges
    inner = {_chain_of(one): list(_from_device(one, ranges)) for one in policy.devices} if policy.guarded else {}
    jumps = dict(zip(policy.devices, inner, strict=False))
    if policy.plain:
        inner["from_underlay"] = [rule for one in ranges for rule in _from_underlay(one)]
        jumps[policy.underlay] = "from_underlay"
    set_mark = {"mangle": {"key": nft.meta("mark"), "value": {"|": [nft.meta("mark"), FORWARD_MARK]}}}
    clear_mark = {"mangle": {"key": nft.meta("mark"), "value": {"&": [nft.meta("mark"), 0xFFFFFFFF - FORWARD_MARK]}}}
    mark = [(text, [*match, nft.counter(), set_mark]) for text, match in marked]
    return {
        "guard": [
            *(rule for item in policy.guarded for rule in _guard(item)),
            *(_refused(family, port) for family, port in policy.peer_ports),
        ],
        "inner": [("by device", _by_device(jumps))] if jumps else [],
        "mark": mark,
        "unmark": [("the mark is for the forward hook alone", [is_marked(), clear_mark])] if mark else [],
        "forwarded": [_to_ports(policy.ports)] if policy.ports else [],
        OUTBOUND: [*_outbound(policy)] if policy.ports else [],
        "keep_source": [_keep_source(one) for one in ranges] if keep_source else [],
        "postrouting": [rule for one in ranges for rule in _masquerade(one)] if policy.masquerade else [],
        **inner,
    }


def _chain_of(device: str) -> str:
    return f"from_{device}"


def _by_device(chains: Mapping[str, str]) -> list[Json]:
    """Every forwarded packet meets it, on whatever device: one name is compared, several are looked up at once."""
    verdicts: dict[str, Json] = {device: {"goto": {"target": chain}} for device, chain in chains.items()}
    if len(verdicts) == 1:
        [(device, verdict)] = verdicts.items()
        return [nft.equal(nft.meta("iifname"), device), verdict]
    return [{"vmap": {"key": nft.meta("iifname"), "data": {"set": [[*item] for item in verdicts.items()]}}}]


def _from_device(device: str, ranges: Sequence[OverlayRange]) -> Iterator[Rule]:
    for one in ranges:
        source, destination = nft.field(one.protocol, "saddr"), nft.field(one.protocol, "daddr")
        yield _peers_to_us(device, one, [nft.equal(source, nft.prefix(one.network))])
        for text, match, sign in (
            (f"source outside {one.network}", nft.differs(source, one.network), Sign.SOURCE_OUTSIDE),
            (f"source inside {one.subnet}", nft.equal(source, nft.prefix(one.subnet)), Sign.SOURCE_OWN),
            (f"destination outside {one.subnet}", nft.differs(destination, one.subnet), Sign.ASTRAY),
        ):
            yield from _refusal(f"{device}: {text}", [*_protocol(one), match], sign, one.network.version)
    protocols = ["ipv4" if one.network.version == 4 else "ipv6" for one in ranges]
    others = [{"match": {"op": "!=", "left": nft.meta("nfproto"), "right": protocol}} for protocol in protocols]
    yield f"{device}: no such family here", [*others, *nft.drop()]


def _peers_to_us(device: str, one: OverlayRange, also: Sequence[Json] = ()) -> Rule:
    """First of its chain, so that packets as they should be are done with after one rule."""
    to_us = nft.equal(nft.field(one.protocol, "daddr"), nft.prefix(one.subnet))
    not_from_us = nft.differs(nft.field(one.protocol, "saddr"), one.subnet)
    return f"{device}: from elsewhere to {one.subnet}", [to_us, *also, not_from_us, {"accept": None}]


def _from_underlay(one: OverlayRange) -> Iterator[Rule]:
    """Nothing of this for each lease: a host on the link can use the addresses of others."""
    yield _peers_to_us("underlay", one)
    source, destination, family = (
        nft.field(one.protocol, "saddr"),
        nft.field(one.protocol, "daddr"),
        one.network.version,
    )
    from_subnet = nft.equal(source, nft.prefix(one.subnet))
    yield from _refusal(f"underlay: source inside {one.subnet}", [from_subnet], Sign.SOURCE_OWN, family)
    transit = [nft.equal(end, nft.prefix(one.network)) for end in (source, destination)]
    yield from _refusal(f"underlay: from {one.network} for another host", transit, Sign.ASTRAY, family)


def _refusal(text: str, match: list[Json], sign: Sign, family: Family) -> Iterator[Rule]:
    yield f"{text}: noted", [*match, note(sign, family)]
    yield text, [*match, *nft.drop()]


def _guard(item: GuardedPort) -> Iterator[Rule]:
    family = item.underlay_family
    protocol = nft.equal(nft.meta("nfproto"), f"ipv{family}")
    port = nft.field("udp", "dport")
    # RFC 7348: behind 8 bytes of UDP header, flags and 3 reserved bytes, the VNI: bit 96 of the transport header.
    # Another VNI on the same port belongs to somebody else's device, unless the inner Ethernet destination is ours.
    ours = [protocol, nft.equal(port, item.port), nft.equal(nft.bits("th", 96, 24), item.vni)]
    to_our_mac = nft.equal(nft.bits("th", 128, 48), int.from_bytes(bytes.fromhex(item.mac.replace(":", ""))))
    from_peer = nft.equal(nft.field("ip" if family == 4 else "ip6", "saddr"), f"@peers{family}")
    unicast = nft.equal(nft.bits("th", 135, 1), 0)
    where = f"(IPv{family})"
    yield f"VXLAN from a peer {where}", [*ours, from_peer, to_our_mac, {"accept": None}]
    yield f"VXLAN for another MAC {where}: noted", [*ours, from_peer, unicast, note(Sign.OTHER_MAC, family)]
    yield f"other VXLAN from a peer {where}", [*ours, from_peer, {"accept": None}]
    yield from _refusal(f"VXLAN from a host without a lease {where}", ours, Sign.UNKNOWN_PEER, family)
    other_port = [protocol, {"match": {"op": "!=", "left": port, "right": item.port}}, to_our_mac]
    yield f"VXLAN to another port {where}: noted", [*other_port, note(Sign.OTHER_PORT, family)]
    other_vni = [protocol, nft.equal(port, item.port), to_our_mac]
    yield f"VXLAN with another VNI {where}: noted", [*other_vni, note(Sign.OTHER_VNI, family)]


def _refused(family: Family, port: int) -> Rule:
    """An ICMP error that quotes a datagram to this UDP port (RFC 792, RFC 4443): the quoted IP header stands behind 8
    bytes, and has no options in what we send."""
    icmp, next_header, destination = ("icmp", 136, 240) if family == 4 else ("icmpv6", 112, 400)
    match = [
        nft.equal(nft.field(icmp, "type"), "destination-unreachable"),
        nft.equal(nft.field(icmp, "code"), "port-unreachable"),
        nft.equal(nft.bits("th", next_header, 8), 17),
        nft.equal(nft.bits("th", destination, 16), port),
    ]
    return f"UDP port {port} refused (IPv{family}): noted", [*match, note(Sign.REFUSED, family)]


def _to_ports(ports: Sequence[int]) -> Rule:
    """Behind the forwarding decision, so that what the host itself receives does not meet it; what is not UDP is done
    with after one comparison."""
    return "to overlay ports", [
        nft.equal(nft.field("udp", "dport"), {"set": list(ports)}),
        {"goto": {"target": OUTBOUND}},
    ]


def _outbound(policy: FirewallPolicy) -> Iterator[Rule]:
    """Containers here, of whatever network, and whoever uses this host as a gateway. A peer may be behind it, too: its
    datagrams pass where they come from where the peer is."""
    listed = ", ".join(map(str, policy.ports))
    for device in policy.tunnels:
        yield f"{device}: this host's own datagrams", [nft.equal(nft.meta("iifname"), device), {"accept": None}]
    for one in policy.ranges:
        source, destination = nft.field(one.protocol, "saddr"), nft.field(one.protocol, "daddr")
        match = [nft.equal(source, nft.prefix(one.subnet)), nft.differs(destination, one.network)]
        yield f"from {one.subnet} to a host's overlay port (UDP {listed})", [*match, *nft.drop()]
    reverse_path = {"fib": {"result": "oif", "flags": ["saddr", "iif"]}}
    for family in policy.underlay_families:
        source, destination = (nft.field("ip" if family == 4 else "ip6", end) for end in ("saddr", "daddr"))
        to_peer, peers = nft.equal(destination, f"@peers{family}"), f"@peers{family}"
        not_peer = {"match": {"op": "!=", "left": source, "right": peers}}
        text = f"to a peer's overlay port (IPv{family}, UDP {listed})"
        yield f"from others than peers {text}", [to_peer, not_peer, *nft.drop()]
        yield f"with a peer's address from elsewhere {text}", [to_peer, nft.equal(reverse_path, False), *nft.drop()]


def _keep_source(one: OverlayRange) -> Rule:
    """A source NAT to the source itself: the kernel translates a connection once, so that later chains are skipped.

    Not for packets within the subnet: a container that goes to its own published port needs to be masqueraded.
    """
    source, destination = nft.field(one.protocol, "saddr"), nft.field(one.protocol, "daddr")
    match = [
        nft.lacks_mark(_MASQUERADE_MARK),
        nft.equal(source, nft.prefix(one.subnet)),
        nft.equal(destination, nft.prefix(one.network)),
        nft.differs(destination, one.subnet),
    ]
    identity = {"snat": {"family": one.protocol, "addr": source}}
    return f"{one.subnet} to other hosts' subnets", [*match, nft.counter(), identity]


def _masquerade(one: OverlayRange) -> list[Rule]:
    name = one.protocol
    source, destination = nft.field(name, "saddr"), nft.field(name, "daddr")
    multicast = "224.0.0.0/4" if name == "ip" else "ff00::/8"
    address, length = multicast.split("/")
    subnet, network = nft.prefix(one.subnet), nft.prefix(one.network)
    from_subnet, to_subnet = nft.equal(source, subnet), nft.equal(destination, subnet)
    from_network, to_network = nft.equal(source, network), nft.equal(destination, network)
    not_from_network = nft.differs(source, one.network)
    marked = nft.has_mark(_MASQUERADE_MARK)
    not_multicast = {
        "match": {"op": "!=", "left": destination, "right": {"prefix": {"addr": address, "len": int(length)}}}
    }
    leave: list[Json] = [nft.counter(), {"return": None}]
    masquerade: list[Json] = [nft.counter(), {"masquerade": {"flags": "fully-random"}}]
    return [
        (f"{name}: already marked", [*_protocol(one), marked, *leave]),
        (f"{name}: subnet to network", [from_subnet, to_network, *leave]),
        (f"{name}: network to subnet", [from_network, to_subnet, *leave]),
        (f"{name}: outside to subnet", [not_from_network, to_subnet, *leave]),
        (f"{name}: network to outside", [from_network, not_multicast, *masquerade]),
        (f"{name}: outside to network", [not_from_network, to_network, *masquerade]),
    ]


def _protocol(one: OverlayRange) -> list[Json]:
    return [nft.equal(nft.meta("nfproto"), "ipv4" if one.network.version == 4 else "ipv6")]
