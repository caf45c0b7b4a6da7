"""`overlayctl status`: the daemon on this host, and whether anything is wrong with it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from overlayd.cli.arguments import Parser, print_json
from overlayd.cli.common import add_common
from overlayd.cli.render import duration, publics, registry, subnets, traffic, trouble
from overlayd.cli.terminal import Block, Cell, Column, Row, Table, Text, show
from overlayd.system.control_client import ask

Json = Mapping[str, Any]


def configure(parser: Parser) -> None:
    """The command's arguments."""
    parser.description = "Mode, lease, underlay, registry, traffic, peers and problems of the daemon on this host."
    parser.epilog = "exit status: 0 no problem, 1 a problem is listed or the daemon is not running, 2 usage error"
    add_common(parser, "socket", "json")
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    """Print it; the exit status is 1 if a problem is among it."""
    state = ask(given.socket, "/v1/status")
    if given.json:
        print_json(state)
    else:
        show(*status(state))
    return 1 if has_problem(state) else 0


def has_problem(state: Json) -> bool:
    """Whether the status lists a problem."""
    return bool(state["problems"] or state.get("broken") or state.get("reload", {}).get("error"))


def status(state: Json) -> list[Block]:
    """The whole page."""
    if state["state"] == "waiting":
        return [Text("waiting", "yellow"), *(Text(problem, "yellow") for problem in state["problems"])]
    facts = [Row((title, cell)) for title, cell in _facts(state)]
    return [Table((Column(style="bold"), Column()), facts), Text(""), _peers(state["peers"])]


def _facts(state: Json) -> Iterator[tuple[str, Cell]]:
    overlay, underlay, own = state["overlay"], state["underlay"], state["lease"]
    healthy = state["state"] == "ready" and not has_problem(state)
    yield "state", Text(state["state"], "green" if healthy else "red")
    yield "mode", state["mode"] + (f", {state['engine']} engine" if state["engine"] else "")
    yield "lease", f"{subnets(own)} at {publics(own)}"
    yield "overlay", f"{', '.join(overlay['interfaces']) or 'no device'}, MTU {overlay['mtu']}"
    yield "networks", ", ".join(overlay["networks"])
    yield "underlay", f"{underlay['interface']}, MTU {underlay['mtu']}"
    yield "registry", registry(state["registry_state"])
    yield "uptime", duration(state["uptime_seconds"])
    if state["traffic"] is not None:
        yield "traffic", traffic(state["traffic"])
    for direction, title in (("tx", "drops out"), ("rx", "drops in")):
        if drops := state["drops"][direction]:
            yield title, ", ".join(f"{reason} {count}" for reason, count in sorted(drops.items()))
    if state["repairs"]:
        yield "repairs", str(state["repairs"])
    if state["reload"]["error"]:
        yield "reload", Text(f"refused: {state['reload']['error']}", "red")
    for problem in state["problems"]:
        yield "problem", Text(problem, "red")


def _peers(peers: list[Json]) -> Block:
    if not peers:
        return Text("no peers", "yellow")
    counted = any(peer["traffic"] for peer in peers)
    columns = [Column("PEER"), Column("SUBNET"), Column("PUBLIC IP")]
    if counted:
        columns.append(Column("TRAFFIC", optional=True))
    rows = []
    for peer in peers:
        carried = (traffic(peer["traffic"]) if peer["traffic"] else "-",) if counted else ()
        notes = tuple(Text(text, "red") for text in trouble(peer))
        rows.append(Row((peer["name"] or "-", subnets(peer), publics(peer), *carried), notes))
    return Table(columns, rows)
