"""`overlayctl counters`: what was counted, and what the names mean to people who see one that they did not expect."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from overlayd.cli.arguments import Parser, print_json
from overlayd.cli.common import add_common
from overlayd.cli.render import in_bytes
from overlayd.cli.terminal import Block, Column, Row, Table, Text, show
from overlayd.core.offload import OFFLOADS
from overlayd.system.control_client import ask, unless_waiting

Json = Mapping[str, Any]
Line = tuple[str, int, str]
"""Title, number, what it is."""

REASONS = {
    "too_short": "shorter than the header it claims to have: damaged, or not an IP packet",
    "bad_version": "neither IPv4 nor IPv6: not an IP packet, or another program uses this port",
    "bad_header_length": "the IPv4 header length is impossible",
    "length_mismatch": "the IP header's length is not the packet's: damaged or truncated",
    "too_long": "longer than the overlay MTU or the path MTU; answered with ICMP. Give containers subnet.env's MTU",
    "source_not_own": "the source is not in this host's subnet: the host's own link-local address (harmless), or a"
    " container that still has an address of an old subnet (restart it)",
    "no_lease": "no host leases the destination: the peer's lease ended, or it was never in the overlay",
    "destination_own": "for this host's own subnet, where no interface has it: the bridge or container is gone",
    "unknown_peer": "from an underlay address that holds no lease: a host is missing in the table, or somebody"
    " injects packets",
    "spoofed_source": "from a peer, but the inner source is not in that peer's subnet: two hosts disagree about the"
    " leases, or an attempt to inject",
    "ttl_expired": "from a peer, with a TTL or hop limit of 0: damaged, or forged",
    "destination_not_own": "from a peer, but not for this host's subnet: two hosts disagree about the leases",
    "ce_not_ect": "marked by a congested router, but the transport does not know congestion marks: dropped, so that it"
    " slows down (RFC 6040)",
    "send_error": "refused by the underlay socket: no route, interface down, or this host's firewall",
    "send_buffer_full": "the underlay is slower than the containers: TCP adapts, UDP loses packets",
    "tun_error": "the kernel refused it on the TUN: the device is down",
    "not_wireguard": "not one of WireGuard's messages: another program sends to this port",
    "bad_mac": "a handshake by somebody who does not know this host's public key: the peer has another one for it",
    "under_load": "a handshake while there were too many: senders were asked to prove their addresses",
    "bad_handshake": "a handshake that is not a peer's: its public key is in no lease, or the preshared keys differ; or"
    " an old one that was replayed",
    "no_session": "in: under keys that this host no longer has, as after a restart; out: the peer does not answer"
    " handshakes (is it down, or a firewall between?)",
    "replayed": "received before, or far too late",
    "not_authentic": "forged, or damaged on the way",
}
"""Why the engine drops, by core.forward.DropReason and datapath.wireguard.common.TunnelDrop."""

PROBES = {
    "unknown_peer": "came from an address that is not a peer's; never answered",
    "other_port": "came from a peer, but not from its probe port",
    "malformed": "not a probe of a version that this overlayd knows",
    "unsolicited": "an answer that is no longer expected: late, or a duplicate",
    "limited": "over the rate limit; not answered",
}
"""Why a datagram on the probe port is ignored."""

_DIRECTIONS = (("tx", "out"), ("rx", "in"))


def configure(parser: Parser) -> None:
    """The command's arguments."""
    parser.description = (
        "Counters since the daemon started or the device was created: totals, drops by reason with what each reason"
        " means, offloads, wake-ups. out is from this host's containers to peers, in is from peers."
    )
    add_common(parser, "socket", "json")
    parser.set_defaults(run=_run)


def _run(given: argparse.Namespace) -> int:
    found = unless_waiting(ask(given.socket, "/v1/counters"), "nothing has been counted yet")
    if given.json:
        print_json(found)
    else:
        show(counters(found))
    return 0


def counters(state: Json) -> Block:
    """The whole page."""
    rows = [Row((Text("broken", "red"), "", Text(text, "red"))) for text in state["broken"]]
    former = ""
    for title, number, text in [*_carried(state), *_dropped(state), *_devices(state), *_probes(state), *_rest(state)]:
        rows.append(Row((title if title != former else "", str(number), text)))
        former = title
    return Table((Column(style="bold"), Column(right=True), Column()), rows)


def _carried(state: Json) -> Iterator[Line]:
    for direction, title in _DIRECTIONS if state["traffic"] is not None else ():
        total = in_bytes(state["traffic"][f"{direction}_bytes"])
        yield title, state["traffic"][f"{direction}_packets"], f"packets, {total}"
        if state["bursts"]:
            reads = state["bursts"][f"{direction}_reads"]
            yield title, state["bursts"][f"{direction}_bursts"], f"wake-ups of the engine, {reads} reads"


def _dropped(state: Json) -> Iterator[Line]:
    for direction, title in _DIRECTIONS:
        for reason, count in sorted(state["drops"][direction].items()):
            yield f"drops {title}", count, _explained(reason, REASONS)
    if state["icmp"]:
        yield "icmp", state["icmp"]["sent"], "errors sent to containers and peers"
        yield "icmp", state["icmp"]["limited"], "errors withheld by the rate limit"


def _devices(state: Json) -> Iterator[Line]:
    for name, device in state["devices"].items():
        for direction, title in _DIRECTIONS:
            for kind in ("errors", "dropped"):
                if device[f"{direction}_{kind}"]:
                    yield name, device[f"{direction}_{kind}"], f"{kind} {title}, counted by the kernel"


def _probes(state: Json) -> Iterator[Line]:
    counts = state["probes"]["counts"]
    yield "probes", counts.get("sent", 0), f"sent to peers, {counts.get('answers', 0)} answered"
    yield "probes", counts.get("answered", 0), "received from peers and answered"
    for reason, count in sorted(state["probes"]["drops"].items()):
        yield "probes", count, f"ignored ({reason}): {PROBES[reason]}" if reason in PROBES else f"ignored ({reason})"


def _rest(state: Json) -> Iterator[Line]:
    for name, value in state["offloads"].items():
        yield ("offloads" if name in OFFLOADS else "engine"), value, _explained(name, OFFLOADS)
    yield "repairs", state["repairs"], "kernel objects restored"


def _explained(name: str, texts: Mapping[str, str]) -> str:
    return f"{name}: {texts[name]}" if name in texts else name
