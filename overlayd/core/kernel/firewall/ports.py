"""The table of published ports, which is there while a port is published.

table inet overlayd_ports, ours alone:
    map ports4, ports6                   protocol and port -> container's address and port; elements kept one by one
    map address_ports4, address_ports6   the same for ports that are published on one address of the host
    chain publish                        one look-up for all ports of each of these maps
    chain prerouting, output             send to `publish` what is addressed to the host: from other hosts and from
                                         containers; from the host's own programs
    chain postrouting                    masquerades what would be answered past this host: from one container to
                                         another, from a container to itself, from 127.0.0.1
    chain loopback                       keeps containers from the host's loopback addresses, which route_localnet on
                                         their devices, there for the sake of 127.0.0.1, would let them reach
    chain forward, after                 mark, while it is forwarded, what goes to a published port as the overlay's:
                                         where another firewall drops, `forward.py` accepts what is marked

In nft's own language: up to version 1.0.6 its JSON has no maps to addresses with ports.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from overlayd.core.address import Address
from overlayd.core.kernel.firewall.model import FORWARD_MARK, PORTS_TABLE, OverlayRange, comment_of
from overlayd.core.kernel.kinds import PortElement, Ruleset
from overlayd.wire.netlink.link import LINK_GROUP

Rule = tuple[str, str]
"""The text of its comment, and its expressions."""

_HOOKS = {
    "prerouting": "type nat hook prerouting priority -100",
    "output": "type nat hook output priority -100",
    "postrouting": "type nat hook postrouting priority 99",  # before our own source NAT, and Docker's
    "loopback": "type filter hook input priority -10",
    "forward": "type filter hook forward priority -500",
    "after": "type filter hook forward priority 500",
}
_LOOPBACK = "127.0.0.0/8"


def port_element(
    protocol: str, host_address: Address | None, host_port: int, target: Address, target_port: int
) -> PortElement:
    """The element that publishes a container's port on this host: on all addresses of the target's family, or one."""
    name = f"{'' if host_address is None else 'address_'}ports{target.version}"
    return PortElement(PORTS_TABLE, name, protocol, host_address, host_port, target, target_port)


def ports_table(ranges: Sequence[OverlayRange]) -> Ruleset:
    """The table, without elements."""
    chains = {
        "publish": [rule for one in ranges for rule in _publish(one)],
        "prerouting": [("not to loopback addresses", f"ip daddr {_LOOPBACK} return"), _TO_THE_HOST],
        "output": [("not to ::1, which no packet leaves from", "ip6 daddr ::1 return"), _TO_THE_HOST],
        "postrouting": [rule for one in ranges for rule in _masquerade(one)],
        "loopback": _LOOPBACK_RULES,
        "forward": [_mark(one) for one in ranges],
        "after": [_UNMARK],
    }
    table = f"table inet {PORTS_TABLE}"
    lines = [f"add {table}", f"delete {table}", f"add {table}"]
    lines += [line for one in ranges for line in _maps(one)]
    comments = []
    for name in chains:
        hook = f" {{ {_HOOKS[name]}; policy accept; }}" if name in _HOOKS else ""
        lines.append(f"add chain inet {PORTS_TABLE} {name}{hook}")
    for name, rules in chains.items():  # in the order of the chains, as the kernel lists them
        for text, expressions in rules:
            comment = comment_of(text, expressions)
            comments.append(f"{name}: {comment}")
            lines.append(f'add rule inet {PORTS_TABLE} {name} {expressions} comment "{comment}"')
    return Ruleset("inet", PORTS_TABLE, None, tuple(comments), json.dumps(lines), required=False)


_TO_THE_HOST = ("to this host", "fib daddr type local jump publish")
_UNMARK = (
    "the mark is for the forward hook alone",
    f"meta mark & {FORWARD_MARK:#x} != 0 meta mark set meta mark & {0xFFFFFFFF - FORWARD_MARK:#x}",
)
_LOOPBACK_RULES = [
    ("answers to 127.0.0.1", f"meta iifgroup {LINK_GROUP} ip daddr {_LOOPBACK} ct direction reply accept"),
    ("from a container to a loopback address", f"meta iifgroup {LINK_GROUP} ip daddr {_LOOPBACK} counter drop"),
    ("from a container as a loopback address", f"meta iifgroup {LINK_GROUP} ip saddr {_LOOPBACK} counter drop"),
]


def _maps(one: OverlayRange) -> Iterator[str]:
    version = one.network.version
    address = f"ipv{version}_addr"
    for name, key in (("ports", "inet_proto"), ("address_ports", f"inet_proto . {address}")):
        value = f"{address} . inet_service"
        yield f"add map inet {PORTS_TABLE} {name}{version} {{ type {key} . inet_service : {value}; }}"


def _publish(one: OverlayRange) -> Iterator[Rule]:
    name, version = one.protocol, one.network.version
    for text, key, table in (
        ("ports of one address", f"meta l4proto . {name} daddr . th dport", "address_ports"),
        ("ports", "meta l4proto . th dport", "ports"),
    ):
        yield f"{name}: {text}", f"meta nfproto ipv{version} dnat {name} to {key} map @{table}{version}"


def _masquerade(one: OverlayRange) -> Iterator[Rule]:
    name = one.protocol
    for source in (str(one.subnet), *([_LOOPBACK] if name == "ip" else [])):
        match = f"ct status dnat {name} saddr {source} {name} daddr {one.subnet}"
        yield f"{source} to {one.subnet}", f"{match} counter masquerade"


def _mark(one: OverlayRange) -> Rule:
    match = f"ct status dnat {one.protocol} daddr {one.subnet}"
    return f"to published ports of {one.subnet}", f"{match} counter meta mark set meta mark | {FORWARD_MARK:#x}"
