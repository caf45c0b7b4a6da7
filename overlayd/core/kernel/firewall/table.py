"""Our own table, and everything that a policy comes to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from overlayd.core.kernel.firewall.chains import HOOKS, chains
from overlayd.core.kernel.firewall.forward import forward_accepts, overlay_packets
from overlayd.core.kernel.firewall.model import TABLE, FirewallPolicy, ForeignRules, Rule, comment_of
from overlayd.core.kernel.firewall.signs import MOST, SECONDS, set_type
from overlayd.core.kernel.kinds import Ruleset
from overlayd.core.kernel.nft_json import Json


def rulesets(policy: FirewallPolicy, foreign: ForeignRules) -> list[Ruleset]:
    """Every ruleset, given other programs' rules."""
    dropping = foreign.dropping if policy.forward_accept else ()
    marked = overlay_packets(policy.ranges, policy.devices, policy.underlay) if dropping else ()
    found = [own_table(policy, marked, keep_source=foreign.source_nat)]
    found += [forward_accepts(chain, policy.ranges) for chain in dropping]
    return [ruleset for ruleset in found if ruleset is not None]


def own_table(policy: FirewallPolicy, marked: Iterable[Rule] = (), *, keep_source: bool = False) -> Ruleset | None:
    """Our own table; None where it would be empty. `marked`: what forwarded packets must match to be marked;
    `keep_source`: whether others may translate the sources of the overlay's packets."""
    filled = {name: rules for name, rules in chains(policy, marked, keep_source).items() if rules}
    if not filled:
        return None
    table: Json = {"family": "inet", "name": TABLE}
    # `add` before `delete` makes the deletion safe where there is no table; all of it is one transaction.
    commands: list[Json] = [{"add": {"table": table}}, {"delete": {"table": table}}, {"add": {"table": table}}]
    if policy.guarded or policy.ports:
        commands += [_set(f"peers{family}") for family in policy.underlay_families]
    commands += [_noting_set(name) for name in sorted(set(_noted(filled.values())))]
    for name in filled:
        commands.append({"add": {"chain": {"family": "inet", "table": TABLE, "name": name, **HOOKS.get(name, {})}}})
    comments = []
    for name, rules in filled.items():  # in the order of the chains, as the kernel lists them
        for text, expressions in rules:
            comment = comment_of(text, expressions)
            comments.append(f"{name}: {comment}")
            rule = {"family": "inet", "table": TABLE, "chain": name, "comment": comment, "expr": expressions}
            commands.append({"add": {"rule": rule}})
    required = policy.masquerade or bool(policy.guarded)  # without the others the overlay works, if less protected
    return Ruleset("inet", TABLE, None, tuple(comments), json.dumps(commands), required)


def _noted(chains: Iterable[list[Rule]]) -> Iterator[str]:
    """The sets in which the rules note senders."""
    for _, expressions in (rule for rules in chains for rule in rules):
        for one in expressions:
            if "set" in one:
                yield one["set"]["set"].removeprefix("@")


def _noting_set(name: str) -> Json:
    """nft adds the flag `dynamic` by itself, and knows it by that name only in later versions."""
    kind: Json = {"type": set_type(name), "flags": ["timeout"], "timeout": SECONDS, "size": MOST}
    return {"add": {"set": {"family": "inet", "table": TABLE, "name": name, **kind}}}


def _set(name: str) -> Json:
    """The command that makes a set of addresses of the family that its name ends with."""
    kind = "ipv4_addr" if name.endswith("4") else "ipv6_addr"
    return {"add": {"set": {"family": "inet", "table": TABLE, "name": name, "type": kind}}}
