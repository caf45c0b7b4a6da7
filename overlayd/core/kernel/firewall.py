"""The nftables rules that overlayd wants, as data for `nft -j`.

table inet overlayd, ours alone:
    set vteps4, vteps6     the underlay addresses of peers (vxlan mode), elements kept one by one
    chain guard            what comes to the VXLAN port and VNI from an address that is no peer's is dropped
    chain inner            sends what leaves an overlay device, found by one look-up, to the chain of that device:
    chain from_DEVICE      drops it unless its source lies in the network, outside this host's own subnet, and its
                           destination in this host's subnet: neither the underlay nor a family that the overlay does
                           not have can be reached through the overlay
    chain postrouting      masquerading with flannel's meaning

    chains mark, unmark    the overlay's packets carry a mark while they are forwarded, where that is needed:

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
"""What it says of itself, and its expressions."""

TABLE = "overlayd"
COMMENT = "overlayd: "
"""How every rule of ours begins its comment, in whatever table it stands."""

FORWARD_MARK = 0x02000000
"""The bit that the overlay's packets carry between our two forward chains, and lose again."""

_EARLY, _LATE = -500, 500  # priorities before and after any filter chain

_HOOKS: dict[str, Json] = {
    "guard": {"type": "filter", "hook": "input", "prio": -10, "policy": "accept"},
    "inner": {"type": "filter", "hook": "prerouting", "prio": -290, "policy": "accept"},
    "mark": {"type": "filter", "hook": "forward", "prio": _EARLY, "policy": "accept"},
    "unmark": {"type": "filter", "hook": "forward", "prio": _LATE, "policy": "accept"},
    "postrouting": {"type": "nat", "hook": "postrouting", "prio": 100, "policy": "accept"},
}
"""Of the base chains; the others are reached by a jump."""

_MASQUERADE_MARK = 0x4000  # packets that Kubernetes already marked for masquerading, as flannel leaves them alone


@dataclass(frozen=True, slots=True)
class ForeignChain:
    """A base chain on the forward hook that is not ours."""

    family: str
    table: str
    chain: str


@dataclass(frozen=True, slots=True)
class Guarded:
    """A VXLAN device to guard: datagrams of `vni` to `port` on this underlay family."""

    underlay_family: Family
    port: int
    vni: int


@dataclass(frozen=True, slots=True)
class Side:
    """The overlay as one family's rules see it."""

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
    sides: Iterable[Side],
    devices: tuple[str, ...],
    guarded: Iterable[Guarded],
    masquerade: bool,
    marked: Iterable[Rule] = (),
) -> Ruleset | None:
    """Our own table; None where nothing is wanted in it. `devices` are the overlay's (none in host-gw mode), `marked`
    what forwarded packets must match to be marked (`overlay_packets`)."""
    sides, guarded = tuple(sides), tuple(guarded)
    chains = {name: rules for name, rules in _chains(sides, devices, guarded, masquerade, marked).items() if rules}
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
    sides: Sequence[Side],
    devices: Sequence[str],
    guarded: Sequence[Guarded],
    masquerade: bool,
    marked: Iterable[Rule],
) -> dict[str, list[Rule]]:
    """The rules of every chain that our table can have."""
    stranger = "VXLAN from a host without a lease"
    set_mark = {"mangle": {"key": nft.meta("mark"), "value": {"|": [nft.meta("mark"), FORWARD_MARK]}}}
    clear_mark = {"mangle": {"key": nft.meta("mark"), "value": {"&": [nft.meta("mark"), 0xFFFFFFFF - FORWARD_MARK]}}}
    mark = [(text, [*match, nft.counter(), set_mark]) for text, match in marked]
    return {
        "guard": [(f"{stranger} (IPv{item.underlay_family})", _guard(item)) for item in guarded],
        "inner": [("from overlay devices", [_by_device(devices)])] if devices else [],
        "mark": mark,
        "unmark": [("the mark is for the forward hook alone", [_is_marked(), clear_mark])] if mark else [],
        "postrouting": [rule for side in sides for rule in _masquerade(side)] if masquerade else [],
        **{_chain_of(device): _from_device(device, sides) for device in devices},
    }


def overlay_packets(sides: Iterable[Side], devices: tuple[str, ...], underlay: str) -> Iterator[Rule]:
    """What forwarded packets match that the overlay needs, by interface and address.

    These are packets from the network to containers here, over the overlay's devices (in host-gw mode, the underlay's);
    what containers here send, wherever to; and the answers to it.
    """
    for side in sides:
        network, subnet = side.network, side.subnet
        source, destination = nft.field(side.protocol, "saddr"), nft.field(side.protocol, "daddr")
        to_subnet = nft.equal(destination, nft.prefix(subnet))
        for path in devices or (underlay,):
            incoming = [nft.equal(nft.meta("iifname"), path), nft.equal(source, nft.prefix(network))]
            yield f"{path}: {network} to {subnet}", [*incoming, to_subnet]
        elsewhere = [
            {"match": {"op": "!=", "left": nft.meta("iifname"), "right": device}} for device in (*devices, underlay)
        ]
        yield f"from {subnet}", [*elsewhere, nft.equal(source, nft.prefix(subnet))]
        known = {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}}
        yield f"answers to {subnet}", [known, to_subnet]


def forward_accepts(chain: ForeignChain, sides: Iterable[Side]) -> Ruleset | None:
    """Our rules at the head of somebody else's forward chain: marked packets from and to this host's subnet pass."""
    rules: list[Rule] = []
    for side in sides:
        if chain.family in ("ip", "ip6") and chain.family != side.protocol:
            continue
        for text, field in ((f"to {side.subnet}", "daddr"), (f"from {side.subnet}", "saddr")):
            rules.append((text, [nft.equal(nft.field(side.protocol, field), nft.prefix(side.subnet)), _is_marked()]))
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


def _from_device(device: str, sides: Sequence[Side]) -> list[Rule]:
    rules: list[Rule] = []
    for side in sides:
        source, destination = nft.field(side.protocol, "saddr"), nft.field(side.protocol, "daddr")
        for text, match in (
            (f"source outside {side.network}", nft.differs(source, side.network)),
            (f"source inside {side.subnet}", nft.equal(source, nft.prefix(side.subnet))),
            (f"destination outside {side.subnet}", nft.differs(destination, side.subnet)),
        ):
            rules.append((f"{device}: {text}", [*_protocol(side), match, *nft.drop()]))
    protocols = ["ipv4" if side.network.version == 4 else "ipv6" for side in sides]
    others = [{"match": {"op": "!=", "left": nft.meta("nfproto"), "right": protocol}} for protocol in protocols]
    rules.append((f"{device}: no such family here", [*others, *nft.drop()]))
    return rules


def _guard(item: Guarded) -> list[Json]:
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


def _masquerade(side: Side) -> list[Rule]:
    name = side.protocol
    source, destination = nft.field(name, "saddr"), nft.field(name, "daddr")
    multicast = "224.0.0.0/4" if name == "ip" else "ff00::/8"
    address, length = multicast.split("/")
    subnet, network = nft.prefix(side.subnet), nft.prefix(side.network)
    from_subnet, to_subnet = nft.equal(source, subnet), nft.equal(destination, subnet)
    from_network, to_network = nft.equal(source, network), nft.equal(destination, network)
    not_from_network = nft.differs(source, side.network)
    marked = nft.has_mark(_MASQUERADE_MARK)
    not_multicast = {
        "match": {"op": "!=", "left": destination, "right": {"prefix": {"addr": address, "len": int(length)}}}
    }
    leave: list[Json] = [nft.counter(), {"return": None}]
    masquerade: list[Json] = [nft.counter(), {"masquerade": {"flags": "fully-random"}}]
    return [
        (f"{name}: already marked", [*_protocol(side), marked, *leave]),
        (f"{name}: subnet to network", [from_subnet, to_network, *leave]),
        (f"{name}: network to subnet", [from_network, to_subnet, *leave]),
        (f"{name}: outside to subnet", [not_from_network, to_subnet, *leave]),
        (f"{name}: network to outside", [from_network, not_multicast, *masquerade]),
        (f"{name}: outside to network", [not_from_network, to_network, *masquerade]),
    ]


def _protocol(side: Side) -> list[Json]:
    return [nft.equal(nft.meta("nfproto"), "ipv4" if side.network.version == 4 else "ipv6")]


def _comment(text: str, expressions: list[Json]) -> str:
    digest = hashlib.sha256(json.dumps(expressions, sort_keys=True).encode()).hexdigest()[:8]
    return f"{COMMENT}{text} #{digest}"


def _is_marked() -> Json:
    return nft.has_mark(FORWARD_MARK)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the rules are to do on a node."""

    sides: tuple[Side, ...]
    devices: tuple[str, ...]
    """The overlay's devices; empty for host-gw."""
    guarded: tuple[Guarded, ...]
    underlay: str
    masquerade: bool
    forward_accept: bool


def rulesets(wanted: Wanted, dropping: Iterable[ForeignChain]) -> list[Ruleset]:
    """Every ruleset that is wanted, given the foreign forward chains that drop by policy."""
    dropping = tuple(dropping) if wanted.forward_accept else ()
    marked = overlay_packets(wanted.sides, wanted.devices, wanted.underlay) if dropping else ()
    inner = wanted.devices if wanted.guarded else ()  # elsewhere the daemon's own checks, or none are needed
    found = [own_table(wanted.sides, inner, wanted.guarded, wanted.masquerade, marked)]
    found += [forward_accepts(chain, wanted.sides) for chain in dropping]
    return [ruleset for ruleset in found if ruleset is not None]
