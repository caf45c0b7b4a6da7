"""`overlayctl counters`: what was counted, and what the names mean to people who see one that they did not expect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from overlayd.cli.render import in_bytes, row
from overlayd.core.offload import OFFLOADS

Json = Mapping[str, Any]
Line = tuple[str, int, str]
"""Title, number, what it is."""

REASONS = {
    "too_short": "shorter than the header it claims to have: damaged, or no IP packet",
    "bad_version": "neither IPv4 nor IPv6: no IP packet, or something else speaks on this port",
    "bad_header_length": "an IPv4 header length that cannot be",
    "length_mismatch": "the IP header's length is not the packet's: damaged or cut on the way",
    "too_long": "longer than the overlay MTU, or than the path takes; answered with ICMP. Give containers the MTU of"
    " subnet.env",
    "source_not_own": "sent from an address that is not of this host's subnet, such as the host's own link-local one"
    " (harmless) or a container's of an old subnet (start it again)",
    "no_lease": "to an address that no host leases: the peer's lease ended, or it never was in the overlay",
    "destination_own": "to this host's own subnet, where no interface has taken it: the bridge or container is gone",
    "unknown_peer": "from an underlay address that holds no lease: a host is missing in the table, or somebody"
    " injects packets",
    "spoofed_source": "from a peer, but with an inner source that is not of that peer's subnet: two hosts disagree"
    " about the leases, or an attempt to inject",
    "destination_not_own": "from a peer, for an address that is not of this host's subnet: two hosts disagree about the"
    " leases",
    "ce_not_ect": "marked by a congested router though its transport knows no marks: dropped, so that it slows down",
    "send_error": "refused by the underlay socket: no route, interface down, or this host's firewall",
    "send_buffer_full": "the underlay is slower than the containers: TCP adapts, UDP loses",
    "tun_error": "the kernel refused it on the TUN: the device is down",
}
"""Why the engine drops, by core.decide.DropReason."""

PROBES = {
    "unknown_peer": "from an address that is no peer's; never answered",
    "other_port": "from a peer, but not from its probe port",
    "malformed": "no probe of a version that is known here",
    "unsolicited": "an answer that nobody waits for any more: it came late, or twice",
    "limited": "a question too many, left without an answer",
}
"""Why a datagram on the probe port is no use."""

_WAYS = (("tx", "out"), ("rx", "in"))


def counters(state: Json) -> RenderableType:
    """The whole page."""
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(justify="right", no_wrap=True)
    facts.add_column(overflow="fold")
    for text in state["broken"]:
        row(facts, Text("broken", style="red"), "", Text(text, style="red"))
    former = ""
    for title, number, text in [*_carried(state), *_dropped(state), *_devices(state), *_probes(state), *_rest(state)]:
        row(facts, title if title != former else "", str(number), text)
        former = title
    return facts


def _carried(state: Json) -> Iterator[Line]:
    for way, title in _WAYS if state["traffic"] is not None else ():
        yield title, state["traffic"][f"{way}_packets"], f"packets, {in_bytes(state['traffic'][f'{way}_bytes'])}"
        if state["bursts"]:
            reads = state["bursts"][f"{way}_reads"]
            yield title, state["bursts"][f"{way}_bursts"], f"wake-ups of the engine, {reads} reads"


def _dropped(state: Json) -> Iterator[Line]:
    for way, title in _WAYS:
        for reason, count in sorted(state["drops"][way].items()):
            yield f"drops {title}", count, _explained(reason, REASONS)
    if state["icmp"]:
        yield "icmp", state["icmp"]["sent"], "errors sent to containers and peers"
        yield "icmp", state["icmp"]["limited"], "withheld by the rate limit"


def _devices(state: Json) -> Iterator[Line]:
    for name, one in state["devices"].items():
        for way, title in _WAYS:
            for what in ("errors", "dropped"):
                if one[f"{way}_{what}"]:
                    yield name, one[f"{way}_{what}"], f"{what} {title}, as the kernel counts them"


def _probes(state: Json) -> Iterator[Line]:
    counts = state["probes"]["counts"]
    yield "probes", counts.get("sent", 0), f"sent to peers, {counts.get('answers', 0)} answered"
    yield "probes", counts.get("answered", 0), "of peers answered"
    for reason, count in sorted(state["probes"]["drops"].items()):
        yield "probes", count, f"of no use: {_explained(reason, PROBES)}"


def _rest(state: Json) -> Iterator[Line]:
    for name, value in state["offloads"].items():
        yield ("offloads" if name in OFFLOADS else "engine"), value, _explained(name, OFFLOADS)
    yield "repairs", state["repairs"], "objects of the kernel put right"


def _explained(name: str, words: Mapping[str, str]) -> str:
    return f"{name}: {words[name]}" if name in words else name
