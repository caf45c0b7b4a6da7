"""Accepts in other firewalls' forward chains, and what marks the packets that they accept."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from overlayd.core.kernel import nft_json as nft
from overlayd.core.kernel.firewall.model import ForeignChain, OverlayRange, Rule, comment_of, is_marked
from overlayd.core.kernel.kinds import Ruleset
from overlayd.core.kernel.nft_json import Json


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
            rules.append((text, [nft.equal(nft.field(one.protocol, field), nft.prefix(one.subnet)), is_marked()]))
    if not rules:
        return None
    comments: list[str] = []
    commands: list[Json] = []
    for text, match in rules:
        expressions = [*match, nft.counter(), {"accept": None}]
        comment = comment_of(text, expressions)
        comments.append(comment)
        rule = {"family": chain.family, "table": chain.table, "chain": chain.chain}
        # `insert` puts each before the one inserted last, so the last goes first.
        commands.insert(0, {"insert": {"rule": {**rule, "comment": comment, "expr": expressions}}})
    return Ruleset(chain.family, chain.table, chain.chain, tuple(comments), json.dumps(commands))
