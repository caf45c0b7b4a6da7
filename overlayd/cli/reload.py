"""`overlayctl reload`: make the daemon read its configuration again."""

from __future__ import annotations

import argparse

from overlayd.cli.arguments import Parser, print_json
from overlayd.cli.common import add_common
from overlayd.system.control_client import ControlError, ask


def configure(parser: Parser) -> None:
    """The command's arguments."""
    parser.description = "Make the daemon read its configuration again. A wrong one is refused as a whole."
    add_common(parser, "socket", "json")
    parser.set_defaults(run=_run)


def _run(given: argparse.Namespace) -> int:
    answer = ask(given.socket, "/v1/reload", "POST")
    if given.json:
        print_json(answer)
        return 1 if answer["error"] else 0
    if answer["error"]:
        raise ControlError(f"reload refused, the old configuration stays in force\n{answer['error']}")
    print("\n".join(["reloaded", *answer["overridden"]]))
    return 0
