"""The nftables rules that overlayd wants, as data for `nft -j`.

table inet overlayd, ours alone:
    set vteps4, vteps6     the underlay addresses of peers (vxlan mode), elements kept one by one
    chain guard            what comes to the VXLAN port and VNI from an address that is no peer's is dropped
    chain inner            what leaves the overlay device is dropped unless its source lies in the network, outside this
                           host's own subnet, and its destination in this host's subnet: neither the underlay nor a
                           family that the overlay does not have can be reached through the overlay
    chain postrouting      masquerading with flannel's meaning

An `accept` in a table of ours cannot overrule the drop policy of another table's chain, such as Docker's FORWARD.
So where a foreign forward chain has policy drop, rules that accept the overlay's packets, and no others, stand at its
head.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from overlayd.core.address import Address, Family, Network
from overlayd.core.state import Ruleset, SetElement

TABLE = "overlayd"
COMMENT = "overlayd: "
"""How every rule of ours begins its comment, in whatever table it stands."""

_MASQUERADE_MARK = 0x4000  # packets that Kubernetes already marked for masquerading, as flannel leaves them alone

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ForeignChain:
    """A base chain on the forward hook that is not ours."""

    family: str
    table: str
    chain: str


@dataclass(frozen=True, slots=True)
class Guarded:
    """A VXLAN device to guard: datagrams of `vni` to `port` on underlay family `carrier`."""

    carrier: Family
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
    sides: Iterable[Side], devices: tuple[str, ...], guarded: Iterable[Guarded], masquerade: bool
) -> Ruleset | None:
    """Our own table; None where nothing is wanted in it. `devices` are the overlay's (none in host-gw mode)."""
    sides, guarded = tuple(sides), tuple(guarded)
    rules: list[tuple[str, str, list[Json]]] = [
        ("guard", f"VXLAN from a host without a lease (IPv{item.carrier})", _guard(item)) for item in guarded
    ]
    for device in devices:
        rules += [("inner", f"{device}: {text}", match) for text, match in _inner(device, sides)]
    if masquerade:
        rules += [("postrouting", text, match) for side in sides for text, match in _masquerade(side)]
    if not rules:
        return None
    chains = {
        "guard": {"type": "filter", "hook": "input", "prio": -10, "policy": "accept"},
        "inner": {"type": "filter", "hook": "prerouting", "prio": -290, "policy": "accept"},
        "postrouting": {"type": "nat", "hook": "postrouting", "prio": 100, "policy": "accept"},
    }
    used = {chain for chain, _, _ in rules}
    table: Json = {"family": "inet", "name": TABLE}
    # `add` before `delete` makes the deletion safe where there is no table; all of it is one transaction.
    commands: list[Json] = [{"add": {"table": table}}, {"delete": {"table": table}}, {"add": {"table": table}}]
    for name in sorted({f"vteps{item.carrier}" for item in guarded}):
        kind = "ipv4_addr" if name.endswith("4") else "ipv6_addr"
        commands.append({"add": {"set": {"family": "inet", "table": TABLE, "name": name, "type": kind}}})
    for name, hook in chains.items():
        if name in used:
            commands.append({"add": {"chain": {"family": "inet", "table": TABLE, "name": name, **hook}}})
    comments = []
    for chain, text, expressions in rules:
        comment = _comment(text, expressions)
        comments.append(f"{chain}: {comment}")
        rule = {"family": "inet", "table": TABLE, "chain": chain, "comment": comment, "expr": expressions}
        commands.append({"add": {"rule": rule}})
    return Ruleset("inet", TABLE, None, tuple(comments), json.dumps(commands))


def forward_accepts(
    chain: ForeignChain, sides: Iterable[Side], devices: tuple[str, ...], underlay: str
) -> Ruleset | None:
    """Our rules at the head of somebody else's forward chain: the overlay's packets, matched by interface and address.

    Accepted are packets between containers here and the network's, over the overlay's devices (in host-gw mode, the
    underlay's); what containers here send elsewhere; and the answers to it.
    """
    paths = devices or (underlay,)
    rules: list[tuple[str, list[Json]]] = []
    for side in sides:
        if chain.family in ("ip", "ip6") and chain.family != side.protocol:
            continue
        network, subnet, name = side.network, side.subnet, side.protocol
        for path in paths:
            incoming = [_equal(_meta("iifname"), path), _equal(_field(name, "saddr"), _prefix(network))]
            rules.append((f"{network} to {subnet}", [*incoming, _equal(_field(name, "daddr"), _prefix(subnet))]))
        outside = {"set": [*devices, underlay]} if devices else underlay
        rules += [
            (
                f"from {subnet}",
                [
                    {"match": {"op": "!=", "left": _meta("iifname"), "right": outside}},
                    _equal(_field(name, "saddr"), _prefix(subnet)),
                ],
            ),
            (
                f"answers to {subnet}",
                [
                    {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}},
                    _equal(_field(name, "daddr"), _prefix(subnet)),
                ],
            ),
        ]
    if not rules:
        return None
    comments: list[str] = []
    commands: list[Json] = []
    for text, match in rules:
        expressions = [*match, _counter(), {"accept": None}]
        comment = _comment(text, expressions)
        comments.append(comment)
        rule = {"family": chain.family, "table": chain.table, "chain": chain.chain}
        # `insert` puts each before the one inserted last, so the last goes first.
        commands.insert(0, {"insert": {"rule": {**rule, "comment": comment, "expr": expressions}}})
    return Ruleset(chain.family, chain.table, chain.chain, tuple(comments), json.dumps(commands))


def _inner(device: str, sides: tuple[Side, ...]) -> list[tuple[str, list[Json]]]:
    entered = _equal(_meta("iifname"), device)
    rules: list[tuple[str, list[Json]]] = []
    for side in sides:
        source, destination = _field(side.protocol, "saddr"), _field(side.protocol, "daddr")
        for text, match in (
            (f"source outside {side.network}", _differs(source, side.network)),
            (f"source inside {side.subnet}", _equal(source, _prefix(side.subnet))),
            (f"destination outside {side.subnet}", _differs(destination, side.subnet)),
        ):
            rules.append((text, [entered, *_protocol(side), match, *_drop()]))
    protocols = ["ipv4" if side.network.version == 4 else "ipv6" for side in sides]
    others = [{"match": {"op": "!=", "left": _meta("nfproto"), "right": protocol}} for protocol in protocols]
    rules.append(("no such family here", [entered, *others, *_drop()]))
    return rules


def _guard(item: Guarded) -> list[Json]:
    source = _field("ip" if item.carrier == 4 else "ip6", "saddr")
    return [
        _equal(_meta("nfproto"), "ipv4" if item.carrier == 4 else "ipv6"),
        _equal(_field("udp", "dport"), item.port),
        # RFC 7348: behind 8 bytes of UDP header, flags and 3 reserved bytes, the VNI: bit 96 of the transport header.
        # Another VNI on the same port belongs to somebody else's device.
        _equal({"payload": {"base": "th", "offset": 96, "len": 24}}, item.vni),
        {"match": {"op": "!=", "left": source, "right": f"@vteps{item.carrier}"}},
        *_drop(),
    ]


def _masquerade(side: Side) -> list[tuple[str, list[Json]]]:
    name = side.protocol
    source, destination = _field(name, "saddr"), _field(name, "daddr")
    multicast = "224.0.0.0/4" if name == "ip" else "ff00::/8"
    address, length = multicast.split("/")
    from_subnet, to_subnet = _equal(source, _prefix(side.subnet)), _equal(destination, _prefix(side.subnet))
    from_network, to_network = _equal(source, _prefix(side.network)), _equal(destination, _prefix(side.network))
    not_from_network = _differs(source, side.network)
    marked = {"match": {"op": "==", "left": {"&": [_meta("mark"), _MASQUERADE_MARK]}, "right": _MASQUERADE_MARK}}
    not_multicast = {
        "match": {"op": "!=", "left": destination, "right": {"prefix": {"addr": address, "len": int(length)}}}
    }
    leave: list[Json] = [_counter(), {"return": None}]
    masquerade: list[Json] = [_counter(), {"masquerade": {"flags": "fully-random"}}]
    return [
        (f"{name}: already marked", [*_protocol(side), marked, *leave]),
        (f"{name}: subnet to network", [from_subnet, to_network, *leave]),
        (f"{name}: network to subnet", [from_network, to_subnet, *leave]),
        (f"{name}: outside to subnet", [not_from_network, to_subnet, *leave]),
        (f"{name}: network to outside", [from_network, not_multicast, *masquerade]),
        (f"{name}: outside to network", [not_from_network, to_network, *masquerade]),
    ]


def _comment(text: str, expressions: list[Json]) -> str:
    digest = hashlib.sha256(json.dumps(expressions, sort_keys=True).encode()).hexdigest()[:8]
    return f"{COMMENT}{text} #{digest}"


def _protocol(side: Side) -> list[Json]:
    return [_equal(_meta("nfproto"), "ipv4" if side.network.version == 4 else "ipv6")]


def _differs(left: Json, network: Network) -> Json:
    return {"match": {"op": "!=", "left": left, "right": _prefix(network)}}


def _drop() -> list[Json]:
    return [_counter(), {"drop": None}]


def _counter() -> Json:
    return {"counter": {"packets": 0, "bytes": 0}}


def _equal(left: Json, right: Any) -> Json:
    return {"match": {"op": "==", "left": left, "right": right}}


def _meta(key: str) -> Json:
    return {"meta": {"key": key}}


def _field(protocol: str, field: str) -> Json:
    return {"payload": {"protocol": protocol, "field": field}}


def _prefix(network: Network) -> Json:
    return {"prefix": {"addr": str(network.network_address), "len": network.prefixlen}}


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
    inner = wanted.devices if wanted.guarded else ()  # elsewhere the daemon's own checks, or none are needed
    found = [own_table(wanted.sides, inner, wanted.guarded, wanted.masquerade)]
    if wanted.forward_accept:
        found += [forward_accepts(chain, wanted.sides, wanted.devices, wanted.underlay) for chain in dropping]
    return [ruleset for ruleset in found if ruleset is not None]
