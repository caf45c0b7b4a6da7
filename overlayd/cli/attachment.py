"""`overlayctl attachment`: the containers that overlayd has attached on this host."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from overlayd.cli.arguments import Command, Parser, did_you_mean, print_json, report
from overlayd.cli.attach import target
from overlayd.cli.common import add_common, add_group
from overlayd.cli.terminal import Block, Cell, Column, Row, Table, Text, show
from overlayd.core.attach.errors import AttachError
from overlayd.core.attach.model import PublishedPort
from overlayd.core.attach.request import RefreshRequest
from overlayd.system import attach_client
from overlayd.system.control_client import ask

Json = Mapping[str, Any]


def configure(parser: Parser) -> None:
    """The command's verbs."""
    parser.description = "Containers that overlayd has attached on this host (overlayctl attach)."
    add_group(
        parser,
        (
            Command("list", "every attached container: interface, addresses, mode, problems", __name__, "_list"),
            Command("show", "everything about one container's attachments", __name__, "_show"),
            Command("refresh", "give containers the addresses and the MTU of this host's lease", __name__, "_refresh"),
        ),
    )


def _list(parser: Parser) -> None:
    parser.description = "A line for each interface, and below it what is wrong with it."
    add_common(parser, "socket", "json")
    parser.set_defaults(run=run_list)


def _show(parser: Parser) -> None:
    parser.description = "Everything about one container's attachments."
    parser.add_argument("target", metavar="CONTAINER", help="its name in the list, or what it was attached by")
    add_common(parser, "socket", "json")
    parser.set_defaults(run=run_show)


def _refresh(parser: Parser) -> None:
    parser.description = (
        "Give containers new addresses where theirs are not of this host's subnet any more, and the overlay's MTU."
        " Connections over addresses that change are lost. Needs root."
    )
    parser.add_argument("target", nargs="?", metavar="CONTAINER", help="only this one (default: all)")
    add_common(parser, "socket", "json")
    parser.set_defaults(run=run_refresh)


def run_list(given: argparse.Namespace) -> int:
    """Print the attachments; the exit status."""
    found = _ask(given)
    if given.json:
        print_json(found)
    else:
        show(attachments(found))
    return 0


def run_show(given: argparse.Namespace) -> int:
    """Print one container's; the exit status."""
    found = _of(given, given.target)
    if given.json:
        print_json(found)
    else:
        show(*(page(one) for one in found))
    return 0


def run_refresh(given: argparse.Namespace) -> int:
    """Refresh those that need it; the exit status is 1 if one could not be."""
    found = _ask(given) if given.target is None else _of(given, given.target)
    failed = 0
    renewed = []
    for one in found:
        request = RefreshRequest(container=one["container"], interface=one["interface"])
        try:
            renewed.append(attach_client.refresh(given.socket, one["netns"], request).json())
        except AttachError as error:
            report("overlayctl", f"{one['container']} {one['interface']}: {error}")
            failed = 1
    if given.json:
        print_json(renewed)
    else:
        for one in renewed:
            print(f"{one['container']} {one['interface']}: {', '.join(one['addresses'])}, MTU {one['mtu']}")
    return failed


def _ask(given: argparse.Namespace) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ask(given.socket, "/v1/attachments")["attachments"]
    return found


def _of(given: argparse.Namespace, word: str) -> list[dict[str, Any]]:
    known = _ask(given)
    found = [one for one in known if one["container"] in (word, target(word).container)]
    if not found:
        hint = did_you_mean(word, {one["container"] for one in known})
        raise AttachError(f"no container {word} is attached{hint or '; see overlayctl attachment list'}", "unknown")
    return found


def attachments(rows: Sequence[Json]) -> Block:
    """`attachment list`."""
    if not rows:
        return Text("no containers are attached", "yellow")
    columns = [Column("CONTAINER"), Column("INTERFACE"), Column("ADDRESSES"), Column("MODE")]
    columns += [Column("NETWORK", optional=True), Column("HOST END", optional=True)]
    return Table(columns, [_row(one) for one in rows])


def _row(one: Json) -> Row:
    notes = (Text(one["problem"], "red"),) if one["problem"] else ()
    cells = (
        one["container"],
        one["interface"],
        ", ".join(one["addresses"]),
        one["mode"],
        one["network"],
        one["device"],
    )
    return Row(cells, notes)


def page(one: Json) -> Block:
    """`attachment show`."""
    facts: list[tuple[str, Cell]] = [
        ("container", one["container"]),
        ("interface", one["interface"]),
        ("addresses", ", ".join(one["addresses"])),
        ("MAC", one["mac"]),
        ("MTU", str(one["mtu"])),
        ("mode", one["mode"]),
        ("network", one["network"]),
        ("host end", one["device"]),
        ("namespace", one["netns"]),
    ]
    facts += [("port", str(PublishedPort.of(port))) for port in one["ports"]]
    facts += [("sysctl", f"{name} = {value}") for name, value in one["sysctls"].items()]
    if one["rps"]:
        facts.append(("RPS", f"CPUs {one['rps']}"))
    if one["problem"]:
        facts.append(("problem", Text(one["problem"], "red")))
    return Table((Column(style="bold"), Column()), [Row(pair) for pair in facts])
