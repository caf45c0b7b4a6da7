"""`overlayctl port`: the ports of this host that lead to containers."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from overlayd.cli.arguments import Command, Parser, print_json
from overlayd.cli.common import add_common, add_group
from overlayd.cli.terminal import Block, Column, Row, Table, Text, show
from overlayd.core.attach.model import Attachment
from overlayd.core.attach.ports import elements
from overlayd.system.control_client import ask

Json = Mapping[str, Any]


def configure(parser: Parser) -> None:
    """The command's verb."""
    parser.description = "Ports of this host that lead to containers (overlayctl attach --publish)."
    add_group(parser, (Command("list", "every published port, and the container it leads to", __name__, "_list"),))


def _list(parser: Parser) -> None:
    parser.description = "A line for each published port and address family; * is every address of the host."
    add_common(parser, "socket", "json")
    parser.set_defaults(run=run_list)


def run_list(given: argparse.Namespace) -> int:
    """Print the ports; the exit status."""
    rows = [row for one in ask(given.socket, "/v1/attachments")["attachments"] for row in ports(one)]
    if given.json:
        print_json(rows)
    else:
        show(_table(rows))
    return 0


def ports(attachment: Json) -> Iterator[Json]:
    """The published ports of an attachment, as the control API has it."""
    fields = {key: value for key, value in attachment.items() if key not in ("device", "problem")}
    for one in elements(Attachment.of(fields)):
        yield {
            "protocol": one.protocol,
            "host_address": str(one.address) if one.address is not None else None,
            "host_port": one.port,
            "container": attachment["container"],
            "interface": attachment["interface"],
            "address": str(one.target),
            "port": one.target_port,
        }


def _table(rows: list[Json]) -> Block:
    if not rows:
        return Text("no ports are published", "yellow")
    columns = (Column("PORT"), Column("LEADS TO"), Column("CONTAINER"), Column("INTERFACE", optional=True))
    rows = sorted(rows, key=lambda one: (one["host_port"], one["protocol"]))
    return Table(columns, [Row(_cells(one)) for one in rows])


def _cells(one: Json) -> tuple[str, ...]:
    held = f"{_written(one['host_address'] or '*')}:{one['host_port']}/{one['protocol']}"
    return held, f"{_written(one['address'])}:{one['port']}", one["container"], one["interface"]


def _written(address: str) -> str:
    return f"[{address}]" if ":" in address else address
