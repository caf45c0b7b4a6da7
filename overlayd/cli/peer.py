"""`overlayctl peer`: the remote hosts, and what their answers to probes show."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from overlayd.cli.arguments import Command, Parser, did_you_mean, print_json
from overlayd.cli.common import add_common, add_group
from overlayd.cli.render import notes, problems, publics, subnets, traffic, trouble
from overlayd.cli.terminal import Block, Cell, Column, Row, Table, Text, show
from overlayd.system.control_client import ControlError, ask, unless_waiting

Json = Mapping[str, Any]

_COLOURS = {"reachable": "green", "unreachable": "red"}
_COLUMNS = (
    Column("PEER"),
    Column("SUBNET"),
    Column("ADDRESS"),
    Column("STATE"),
    Column("RTT", right=True, optional=True),
    Column("LOSS", right=True, optional=True),
    Column("PATH MTU", right=True, optional=True),
    Column("RUNS", optional=True),
)


def configure(parser: Parser) -> None:
    """The command's verbs."""
    parser.description = "Peers and what their answers to probes show. Peers that run flannel are never probed."
    add_group(
        parser,
        (
            Command("list", "every peer: state, round-trip time, loss, path MTU, version, problems", __name__, "_list"),
            Command("show", "everything about one peer", __name__, "_show"),
        ),
    )


def _list(parser: Parser) -> None:
    parser.description = (
        "A line for each address that is probed, and below it what is wrong: state, average round-trip time, loss,"
        " path MTU (the longest packet that arrives), mode and version. A narrow terminal shows fewer columns."
    )
    parser.add_argument("--problems", "--wrong", action="store_true", help="only peers with a problem or a note")
    add_common(parser, "socket", "json")
    parser.set_defaults(run=run_list)


def _show(parser: Parser) -> None:
    parser.description = "Everything about one peer."
    parser.add_argument("peer", metavar="NAME", help="its name, its public IP or its subnet")
    add_common(parser, "socket", "json")
    parser.set_defaults(run=_run_show)


def run_list(given: argparse.Namespace) -> int:
    """Print the peers; the exit status."""
    found = [peer for peer in _ask(given) if not given.problems or trouble(peer)]
    if given.json:
        print_json(found)
    else:
        show(peers(found))
    return 0


def _run_show(given: argparse.Namespace) -> int:
    known = _ask(given)
    keys = ("name", "public_ip", "public_ipv6", "subnet", "ipv6_subnet")
    found = [peer for peer in known if given.peer in [peer[key] for key in keys]]
    if not found:
        hint = did_you_mean(given.peer, [peer["name"] for peer in known if peer["name"]])
        raise ControlError(f"no peer has the name, public IP or subnet {given.peer}{hint or '; see peer list'}")
    if given.json:
        print_json(found if len(found) > 1 else found[0])
    else:
        show(*(block for one in found for block in peer_page(one)))
    return 0


def _ask(given: argparse.Namespace) -> list[dict[str, Any]]:
    state = unless_waiting(ask(given.socket, "/v1/status"), "no peers are known yet")
    found: list[dict[str, Any]] = state["peers"]
    return found


def peers(rows: Sequence[Json]) -> Block:
    """`peer list`."""
    if not rows:
        return Text("no peers to show", "yellow")
    return Table(_COLUMNS, [row for peer in rows for row in _rows(peer)])


def _rows(peer: Json) -> Iterator[Row]:
    who: tuple[str, str] = (peer["name"] or "-", subnets(peer))
    said = tuple(Text(text, "red") for text in problems(peer)) + tuple(Text(text, "yellow") for text in notes(peer))
    if not peer["probes"]:
        state = Text("unreachable", "red") if peer["problem"] else Text("not probed", "dim")
        yield Row((*who, publics(peer) or "-", state, "", "", "", ""), said)
    for probe in peer["probes"]:
        last = probe is peer["probes"][-1]
        yield Row((*who, *_probe(probe)), said if last else ())
        who = ("", "")


def _probe(probe: Json) -> Iterator[Cell]:
    yield probe["address"]
    yield Text(probe["state"], _COLOURS.get(probe["state"], "yellow"))
    yield f"{probe['rtt']['avg'] * 1000:.2f} ms" if probe["rtt"] else "-"
    yield f"{probe['loss']:.0%}" if probe["asked"] else "-"
    yield str(probe["path_mtu"] or "-")
    yield " ".join(filter(None, (probe["mode"], probe["version"]))) or "-"


def peer_page(peer: Json) -> list[Block]:
    """`peer show`."""
    facts: list[tuple[str, Cell]] = [
        ("name", peer["name"] or "-"),
        ("subnet", subnets(peer)),
        ("public IP", publics(peer) or "-"),
        ("backend", peer["backend"] or "-"),
        ("reserved", "yes" if peer["reserved"] else "no"),
    ]
    if peer["traffic"]:
        facts.append(("traffic", traffic(peer["traffic"])))
    for probe in peer["probes"]:
        facts += _probe_facts(probe)
    if not peer["probes"]:
        facts.append(("probes", Text("not probed", "dim")))
    facts += [("problem", Text(text, "red")) for text in problems(peer)]
    facts += [("note", Text(text, "yellow")) for text in notes(peer)]
    return [Table((Column(style="bold"), Column()), [Row(pair) for pair in facts])]


def _probe_facts(probe: Json) -> Iterator[tuple[str, Cell]]:
    yield "probe", Text(f"{probe['address']} {probe['state']}", _COLOURS.get(probe["state"], "yellow"))
    if probe["rtt"]:
        times = ", ".join(f"{key} {probe['rtt'][key] * 1000:.2f} ms" for key in ("last", "min", "avg"))
        yield "RTT", times
    if probe["asked"]:
        yield "loss", f"{probe['loss']:.0%} of {probe['asked']} probes"
    if probe["path_mtu"]:
        yield "path MTU", str(probe["path_mtu"])
    if probe["version"]:
        yield "runs", f"overlayd {probe['version']}, {probe['mode']}, overlay MTU {probe['overlay_mtu']}"
