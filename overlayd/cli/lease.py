"""`overlayctl lease`: the leases that the daemon knows, as a list or as they change; and those in etcd."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

from overlayd.cli.arguments import Command, Parser, print_json
from overlayd.cli.common import add_common, add_group
from overlayd.cli.render import publics, registry, subnets
from overlayd.cli.terminal import Block, Column, Row, Table, Text, show
from overlayd.system.control_client import ControlError, ask, follow, unless_waiting

Json = Mapping[str, Any]

_NOT_OF_THE_LEASE = ("traffic", "capabilities", "probes")


def configure(parser: Parser) -> None:
    """The command's verbs."""
    parser.description = "Leases: which host has which subnet."
    add_group(
        parser,
        (
            Command("list", "every lease that the daemon knows", __name__, "_list"),
            Command("watch", "every lease, then every change of one, until interrupted", __name__, "_watch"),
            Command(
                "reserve",
                "make a lease permanent, or reserve a free subnet (for one host, or so that nobody gets it)",
                "overlayd.cli.etcd",
                "configure_reserve",
            ),
            Command("release", "delete a lease or a reservation", "overlayd.cli.etcd", "configure_release"),
        ),
    )


def _list(parser: Parser) -> None:
    parser.description = "Every lease that the daemon knows, this host's first."
    add_common(parser, "socket", "json")
    parser.set_defaults(run=run_list)


def _watch(parser: Parser) -> None:
    parser.description = (
        "Every lease that the daemon knows (=), then leases as they are added (+), changed (~) and removed (-), until"
        " interrupted; and which peers are unreachable, and why."
    )
    add_common(parser, "socket", "json")
    parser.set_defaults(run=run_watch)


def run_list(given: argparse.Namespace) -> int:
    """Print the leases; the exit status."""
    state = unless_waiting(ask(given.socket, "/v1/status"), "no leases are known yet")
    rows = [{**state["lease"], "problem": None, "own": True}, *({**peer, "own": False} for peer in state["peers"])]
    if given.json:
        print_json([{key: one for key, one in row.items() if key not in _NOT_OF_THE_LEASE} for row in rows])
    else:
        show(*leases(rows, state["registry_state"], with_mac=state["mode"] == "vxlan"))
    return 0


def run_watch(given: argparse.Namespace) -> int:
    """Print events until the daemon ends, which is an error."""
    for event in follow(given.socket, "/v1/leases"):
        print(json.dumps(event) if given.json else lease_event(event), flush=True)
    raise ControlError(f"{given.socket}: overlayd has stopped")


def leases(rows: Sequence[Json], state: Json, *, with_mac: bool) -> list[Block]:
    """`lease list`; other modes than vxlan have no use for a MAC."""
    columns = [Column("HOST"), Column("SUBNET"), Column("PUBLIC IP"), Column("")]
    if with_mac:
        columns.append(Column("VTEP MAC", optional=True))
    shown = []
    for lease in rows:
        kind = ", ".join(filter(None, ("this host" if lease["own"] else "", "reserved" if lease["reserved"] else "")))
        cells = (lease["name"] or "-", subnets(lease), publics(lease) or "-", Text(kind, "green"))
        notes = (Text(lease["problem"], "red"),) if lease["problem"] else ()
        shown.append(Row((*cells, lease["vtep_mac"]) if with_mac else cells, notes))
    lines = [Text(f"{key}: ignored: {reason}", "red") for key, reason in state["invalid"].items()]
    if not state["connected"] or state["stale"]:
        lines.append(registry(state))
    return [Table(columns, shown), *lines]


def lease_event(event: Json) -> str:
    """One line of `lease watch`."""
    sign = {"present": "=", "added": "+", "removed": "-", "changed": "~"}[event["event"]]
    words = [sign, subnets(event), publics(event) or "-", event["name"] or "-"]
    return "  ".join([*words, *filter(None, ["reserved" if event["reserved"] else "", event["problem"]])])
