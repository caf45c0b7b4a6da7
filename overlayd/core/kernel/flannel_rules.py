"""The rules that flannel leaves behind: how they are recognised, and the nftables commands that remove them.

iptables     chains FLANNEL-FWD (filter) and FLANNEL-POSTRTG (nat), and a jump to each
nftables     tables flannel-ipv4 and flannel-ipv6
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from overlayd.core.kernel.firewall import ForeignChain
from overlayd.core.kernel.nft_json import Json

_CHAINS = frozenset({"FLANNEL-FWD", "FLANNEL-POSTRTG"})
_TABLES = frozenset({"flannel-ipv4", "flannel-ipv6"})


def is_flannels(chain: Json) -> bool:
    """Whether a chain, as `nft -j` lists it, is flannel's."""
    return chain.get("name") in _CHAINS or chain.get("table") in _TABLES


def names(chains: Iterable[ForeignChain]) -> list[str]:
    """What to call them: `table ip flannel-ipv4`, `chain ip nat FLANNEL-POSTRTG`."""
    return sorted({
        f"table {one.family} {one.table}"
        if one.table in _TABLES
        else f"chain {one.family} {one.table} {one.chain}"
        for one in chains
    })  # fmt: skip


def removal(chains: Sequence[ForeignChain], listings: Mapping[tuple[str, str], Sequence[Json]]) -> list[Json]:
    """The commands, in order; `listings`: what `nft -j list table` shows, by family and table."""
    commands: list[Json] = []
    for (family, table), listing in sorted(listings.items()):
        if table in _TABLES:
            commands.append({"delete": {"table": {"family": family, "name": table}}})
            continue
        ours = [one.chain for one in chains if (one.family, one.table) == (family, table)]
        commands += _jumps(listing, ours)
        for verb in ("flush", "delete"):
            commands += [{verb: {"chain": {"family": family, "table": table, "name": name}}} for name in ours]
    return commands


def _jumps(listing: Iterable[Json], targets: Sequence[str]) -> Iterator[Json]:
    for item in listing:
        rule = item.get("rule", {})
        if any(one.get("jump", {}).get("target") in targets for one in rule.get("expr", ())):
            place = {key: rule[key] for key in ("family", "table", "chain", "handle")}
            yield {"delete": {"rule": place}}
