"""The rules of each chain of our own table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

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
from overlayd.core.kernel.nft_json import Json

_EARLY, _LATE = -500, 500  # priorities before and after any filter chain

HOOKS: dict[str, Json] = {
    "guard": {"type": "filter", "hook": "input", "prio": -10, "policy": "accept"},
    "inner": {"type": "filter", "hook": "prerouting", "prio": -290, "policy": "accept"},
    "mark": {"type": "filter", "hook": "forward", "prio": _EARLY, "policy": "accept"},
    "unmark": {"type": "filter", "hook": "forward", "prio": _LATE, "policy": "accept"},
    OUTBOUND: {"type": "filter", "hook": "forward", "prio": -10, "policy": "accept"},
    "keep_source": {"type": "nat", "hook": "postrouting", "prio": 99, "policy": "accept"},
    "postrouting": {"type": "nat", "hook": "postrouting", "prio": 100, "policy": "accept"},
}
"""Of the base chains; the others are reached by a jump."""

_MASQUERADE_MARK = 0x4000  # set by Kubernetes, which masquerades these packets itself; flannel leaves them alone too


def chains(policy: FirewallPolicy, marked: Iterable[Rule], keep_source: bool) -> dict[str, list[Rule]]:
    """The rules of every chain that our table can have; see `table.own_table`."""
    ranges = policy.ranges
    inner = {_chain_of(one): _from_device(one, ranges) for one in policy.devices} if policy.guarded else {}
    jumps = dict(zip(policy.devices, inner, strict=False))
    if policy.plain:
        inner["from_underlay"] = [rule for one in ranges for rule in _from_underlay(one)]
        jumps[policy.underlay] = "from_underlay"
    foreign = "VXLAN from a host without a lease"
    set_mark = {"mangle": {"key": nft.meta("mark"), "value": {"|": [nft.meta("mark"), FORWARD_MARK]}}}
    clear_mark = {"mangle": {"key": nft.meta("mark"), "value": {"&": [nft.meta("mark"), 0xFFFFFFFF - FORWARD_MARK]}}}
    mark = [(text, [*match, nft.counter(), set_mark]) for text, match in marked]
    return {
        "guard": [(f"{foreign} (IPv{item.underlay_family})", _guard(item)) for item in policy.guarded],
        "inner": [("by device", _by_device(jumps))] if jumps else [],
        "mark": mark,
        "unmark": [("the mark is for the forward hook alone", [is_marked(), clear_mark])] if mark else [],
        OUTBOUND: [_to_ports(one, policy.ports) for one in ranges] if policy.ports else [],
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


def _from_device(device: str, ranges: Sequence[OverlayRange]) -> list[Rule]:
    rules: list[Rule] = []
    for one in ranges:
        source, destination = nft.field(one.protocol, "saddr"), nft.field(one.protocol, "daddr")
        rules.append(_peers_to_us(device, one, [nft.equal(source, nft.prefix(one.network))]))
        for text, match in (
            (f"source outside {one.network}", nft.differs(source, one.network)),
            (f"source inside {one.subnet}", nft.equal(source, nft.prefix(one.subnet))),
            (f"destination outside {one.subnet}", nft.differs(destination, one.subnet)),
        ):
            rules.append((f"{device}: {text}", [*_protocol(one), match, *nft.drop()]))
    protocols = ["ipv4" if one.network.version == 4 else "ipv6" for one in ranges]
    others = [{"match": {"op": "!=", "left": nft.meta("nfproto"), "right": protocol}} for protocol in protocols]
    rules.append((f"{device}: no such family here", [*others, *nft.drop()]))
    return rules


def _peers_to_us(device: str, one: OverlayRange, also: Sequence[Json] = ()) -> Rule:
    """First of its chain, so that packets as they should be are done with after one rule."""
    to_us = nft.equal(nft.field(one.protocol, "daddr"), nft.prefix(one.subnet))
    not_from_us = nft.differs(nft.field(one.protocol, "saddr"), one.subnet)
    return f"{device}: from elsewhere to {one.subnet}", [to_us, *also, not_from_us, {"accept": None}]


def _from_underlay(one: OverlayRange) -> Iterator[Rule]:
    """Nothing of this for each lease: a host on the link can use the addresses of others."""
    yield _peers_to_us("underlay", one)
    source, destination = nft.field(one.protocol, "saddr"), nft.field(one.protocol, "daddr")
    from_subnet = nft.equal(source, nft.prefix(one.subnet))
    yield f"underlay: source inside {one.subnet}", [from_subnet, *nft.drop()]
    from_network, to_network = (nft.equal(end, nft.prefix(one.network)) for end in (source, destination))
    yield f"underlay: from {one.network} for another host", [from_network, to_network, *nft.drop()]


def _guard(item: GuardedPort) -> list[Json]:
    source = nft.field("ip" if item.underlay_family == 4 else "ip6", "saddr")
    return [
        nft.equal(nft.meta("nfproto"), "ipv4" if item.underlay_family == 4 else "ipv6"),
        nft.equal(nft.field("udp", "dport"), item.port),
        # RFC 7348: behind 8 bytes of UDP header, flags and 3 reserved bytes, the VNI: bit 96 of the transport header.
        # Another VNI on the same port belongs to somebody else's device.
        nft.equal({"payload": {"base": "th", "offset": 96, "len": 24}}, item.vni),
        {"match": {"op": "!=", "left": source, "right": f"@vteps{item.underlay_family}"}},
        *nft.drop(),
    ]


def _to_ports(one: OverlayRange, ports: Sequence[int]) -> Rule:
    """Behind the forwarding decision, so that what the host itself receives does not meet it; what is not UDP is done
    with after one comparison."""
    source, destination = nft.field(one.protocol, "saddr"), nft.field(one.protocol, "daddr")
    match = [
        nft.equal(nft.field("udp", "dport"), {"set": list(ports)}),
        nft.equal(source, nft.prefix(one.subnet)),
        nft.differs(destination, one.network),
    ]
    listed = ", ".join(map(str, ports))
    return f"from {one.subnet} to a host's overlay port (UDP {listed})", [*match, *nft.drop()]


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
