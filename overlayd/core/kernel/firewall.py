"""overlayd's nftables rules, as data for `nft -j`.

table inet overlayd, ours alone:
    set vteps4, vteps6     the underlay addresses of peers (vxlan mode), elements kept one by one
    chain guard            drops datagrams to the VXLAN port and VNI whose source is not a peer's underlay address
    chain inner            sends what leaves an overlay device, found by one look-up, to the chain of that device:
    chain from_DEVICE      drops it unless its source lies in the network, outside this host's own subnet, and its
                           destination in this host's subnet: neither the underlay nor a family that the overlay does
                           not have can be reached through the overlay
    chain postrouting      masquerades as flannel does

    chains mark, unmark    mark the overlay's packets while they are forwarded, where that is needed:

An `accept` in a table of ours cannot overrule the drop policy of another table's chain, such as Docker's FORWARD.
So where a foreign forward chain has policy drop, rules that accept marked packets from and to this host's subnet, and
no others, stand at its head. Which packets are the overlay's is decided in our own table, by interface, address and
connection; the foreign rules use only what `iptables` can read and show, so that its owner can go on with it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from overlayd.core.address import Address, Family, Network
from overlayd.core.kernel import nft_json as nft
from overlayd.core.kernel.kinds import Ruleset, SetElement
from overlayd.core.kernel.nft_json import Json

Rule = tuple[str, list[Json]]
"""The text of its comment, and its expressions."""

TABLE = "overlayd"
COMMENT = "overlayd: "
"""With which the comment of each of our rules begins, in whatever table it stands."""

FORWARD_MARK = 0x02000000
"""The bit of the packet mark that the overlay's packets carry between our two forward chains."""

_EARLY, _LATE = -500, 500  # priorities before and after any filter chain

_HOOKS: dict[str, Json] = {
    "guard": {"type": "filter", "hook": "input", "prio": -10, "policy": "accept"},
    "inner": {"type": "filter", "hook": "prerouting", "prio": -290, "policy": "accept"},
    "mark": {"type": "filter", "hook": "forward", "prio": _EARLY, "policy": "accept"},
    "unmark": {"type": "filter", "hook": "forward", "prio": _LATE, "policy": "accept"},
    "postrouting": {"type": "nat", "hook": "postrouting", "prio": 100, "policy": "accept"},
}
"""Of the base chains; the others are reached by a jump."""

_MASQUERADE_MARK = 0x4000  # set by Kubernetes, which masquerades these packets itself; flannel leaves them alone too


@dataclass(frozen=True, slots=True)
class ForeignChain:
    """A base chain on the forward hook that is not ours."""

    family: str
    table: str
    chain: str


@dataclass(frozen=True, slots=True)
class GuardedPort:
    """A VXLAN device to guard: datagrams of `vni` to `port` on this underlay family."""

    underlay_family: Family
    port: int
    vni: int


@dataclass(frozen=True, slots=True)
class OverlayRange:
    """The overlay in one address family."""

    network: Network
    subnet: Network

    @property
    def protocol(self) -> str:
        """nft's name of the family."""
        return "ip" if self.network.version == 4 else "ip6"


def vtep_element(address: Address) -> SetElement:
    """The element that lets a peer's datagrams through the guard."""
    return SetElement(TABLE, f"vteps{address.version}", address)


def own_table(
    ranges: Iterable[OverlayRange],
    devices: tuple[str, ...],
    guarded: Iterable[GuardedPort],
    masquerade: bool,
    marked: Iterable[Rule] = (),
) -> Ruleset | None:
    """Our own table; None where it would be empty. `devices` are the overlay's (none in host-gw mode), `marked` what
    forwarded packets must match to be marked (`overlay_packets`)."""
    ranges, guarded = tuple(ranges), tuple(guarded)
    chains = {name: rules for name, rules in _chains(ranges, devices, guarded, masquerade, marked).items() if rules}
    if not chains:
        return None
    table: Json = {"family": "inet", "name": TABLE}
    # `add` before `delete` makes the deletion safe where there is no table; all of it is one transaction.
    commands: list[Json] = [{"add": {"table": table}}, {"delete": {"table": table}}, {"add": {"table": table}}]
    commands += [_set(name) for name in sorted({f"vteps{item.underlay_family}" for item in guarded})]
    for name in chains:
        commands.append({"add": {"chain": {"family": "inet", "table": TABLE, "name": name, **_HOOKS.get(name, {})}}})
    comments = []
    for name, rules in chains.items():  # in the order of the chains, as the kernel lists them
        for text, expressions in rules:
            comment = _comment(text, expressions)
            comments.append(f"{name}: {comment}")
            rule = {"family": "inet", "table": TABLE, "chain": name, "comment": comment, "expr": expressions}
            commands.append({"add": {"rule": rule}})
    return Ruleset("inet", TABLE, None, tuple(comments), json.dumps(commands))


def _chains(
    ranges: Sequence[OverlayRange],
    devices: Sequence[str],
    guarded: Sequence[GuardedPort],
    masquerade: bool,
    marked: Iterable[Rule],
) -> dict[str, list[Rule]]:
    """The rules of every chain that our table can have."""
    foreign = "VXLAN from a host without a lease"
    set_mark = {"mangle": {"key": nft.meta("mark"), "value": {"|": [nft.meta("mark"), FORWARD_MARK]}}}
    clear_mark = {"mangle": {"key": nft.meta("mark"), "value": {"&": [nft.meta("mark"), 0xFFFFFFFF - FORWARD_MARK]}}}
    mark = [(text, [*match, nft.counter(), set_mark]) for text, match in marked]
    return {
        "guard": [(f"{foreign} (IPv{item.underlay_family})", _guard(item)) for item in guarded],
        "inner": [("from overlay devices", [_by_device(devices)])] if devices else [],
        "mark": mark,
        "unmark": [("the mark is for the forward hook alone", [_is_marked(), clear_mark])] if mark else [],
        "postrouting": [rule for one in ranges for rule in _masquerade(one)] if masquerade else [],
        **{_chain_of(device): _from_device(device, ranges) for device in devices},
    }


def overlay_packets(ranges: Iterable[OverlayRange], devices: tuple[str, ...], underlay: str) -> Iterator[Rule]:
    """What the overlay's forwarded packets match, by interface and address.

    These are packets from the network to containers here, over the overlay's devices (in host-gw mode, the underlay's);
    what containers here send, to any destination; and the replies to it.
    """
    for one in ranges:
        network, subnet = one.network, one.subnet
        source, destination = nft.field(one.protocol, "saddr"), nft.field(one.protocol, "daddr")
        to_subnet = nft.equal(destination, nft.prefix(subnet))
        for path in devices or (underlay,):
            incoming = [nft.equal(nft.meta("iifname"), path), nft.equal(source, nft.prefix(network))]
            yield f"{path}: {network} to {subnet}", [*incoming, to_subnet]
        elsewhere = [
            {"match": {"op": "!=", "left": nft.meta("iifname"), "right": device}} for device in (*devices, underlay)
        ]
        yield f"from {subnet}", [*elsewhere, nft.equal(source, nft.prefix(subnet))]
        established = {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}}
        yield f"answers to {subnet}", [established, to_subnet]


def forward_accepts(chain: ForeignChain, ranges: Iterable[OverlayRange]) -> Ruleset | None:
    """Our rules at the head of a foreign forward chain, which accept marked packets from and to this host's subnet."""
    rules: list[Rule] = []
    for one in ranges:
        if chain.family in ("ip", "ip6") and chain.family != one.protocol:
            continue
        for text, field in ((f"to {one.subnet}", "daddr"), (f"from {one.subnet}", "saddr")):
            rules.append((text, [nft.equal(nft.field(one.protocol, field), nft.prefix(one.subnet)), _is_marked()]))
    if not rules:
        return None
    comments: list[str] = []
    commands: list[Json] = []
    for text, match in rules:
        expressions = [*match, nft.counter(), {"accept": None}]
        comment = _comment(text, expressions)
        comments.append(comment)
        rule = {"family": chain.family, "table": chain.table, "chain": chain.chain}
        # `insert` puts each before the one inserted last, so the last goes first.
        commands.insert(0, {"insert": {"rule": {**rule, "comment": comment, "expr": expressions}}})
    return Ruleset(chain.family, chain.table, chain.chain, tuple(comments), json.dumps(commands))


def _set(name: str) -> Json:
    """The command that makes a set of addresses of the family that its name ends with."""
    kind = "ipv4_addr" if name.endswith("4") else "ipv6_addr"
    return {"add": {"set": {"family": "inet", "table": TABLE, "name": name, "type": kind}}}


def _chain_of(device: str) -> str:
    return f"from_{device}"


def _by_device(devices: Sequence[str]) -> Json:
    targets = [[device, {"jump": {"target": _chain_of(device)}}] for device in devices]
    return {"vmap": {"key": nft.meta("iifname"), "data": {"set": targets}}}


def _from_device(device: str, ranges: Sequence[OverlayRange]) -> list[Rule]:
    rules: list[Rule] = []
    for one in ranges:
        source, destination = nft.field(one.protocol, "saddr"), nft.field(one.protocol, "daddr")
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


def _comment(text: str, expressions: list[Json]) -> str:
    digest = hashlib.sha256(json.dumps(expressions, sort_keys=True).encode()).hexdigest()[:8]
    return f"{COMMENT}{text} #{digest}"


def _is_marked() -> Json:
    return nft.has_mark(FORWARD_MARK)


@dataclass(frozen=True, slots=True)
class FirewallPolicy:
    """What the rules of a node follow from, beside other firewalls."""

    ranges: tuple[OverlayRange, ...]
    devices: tuple[str, ...]
    """The overlay's devices; empty for host-gw."""
    guarded: tuple[GuardedPort, ...]
    underlay: str
    masquerade: bool
    forward_accept: bool


def rulesets(policy: FirewallPolicy, dropping: Iterable[ForeignChain]) -> list[Ruleset]:
    """Every ruleset, given the foreign forward chains that drop by policy."""
    dropping = tuple(dropping) if policy.forward_accept else ()
    marked = overlay_packets(policy.ranges, policy.devices, policy.underlay) if dropping else ()
    inner = policy.devices if policy.guarded else ()  # elsewhere the daemon's own checks, or none are needed
    found = [own_table(policy.ranges, inner, policy.guarded, policy.masquerade, marked)]
    found += [forward_accepts(chain, policy.ranges) for chain in dropping]
    return [ruleset for ruleset in found if ruleset is not None]
