"""Options that may stand before or after any command of overlayctl that has a use for them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from pathlib import Path

from overlayd.cli.arguments import Command, Parser
from overlayd.core.settings.defaults import CONTROL_SOCKET

COMMON = ("socket", "json")


def add_common(parser: Parser, *names: str) -> None:
    """Add those of `COMMON` that this command takes. Without a default, or it would undo what stands before it."""
    if "socket" in names:
        parser.add_argument(
            "--socket",
            type=Path,
            metavar="PATH",
            default=argparse.SUPPRESS,
            help=f"control socket of the daemon (default: $OVERLAYD_CONTROL_SOCKET or {CONTROL_SOCKET})",
        )
    if "json" in names:
        parser.add_argument("-j", "--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    parser.set_defaults(accepts=names)


def add_group(parser: Parser, commands: Iterable[Command]) -> None:
    """A parser that only holds commands: the common options may stand before them."""
    add_common(parser, *COMMON)
    parser.set_defaults(accepts=())
    parser.add_commands(commands)


def apply_common(parser: Parser, given: argparse.Namespace) -> None:
    """Refuse a common option that the command does not take; set the others to what holds where none is given."""
    for name in COMMON:
        if name in given and name not in given.accepts:
            parser.error(f"--{name} does not apply to this command")
    given.socket = getattr(given, "socket", None) or default_socket()
    given.json = getattr(given, "json", False)


def default_socket() -> Path:
    """The control socket where none is named."""
    return Path(os.environ.get("OVERLAYD_CONTROL_SOCKET") or CONTROL_SOCKET)
