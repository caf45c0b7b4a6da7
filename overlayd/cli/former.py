"""Former spellings of commands: for one more version they work, with a hint."""

from __future__ import annotations

import argparse

from overlayd.cli import lease, peer
from overlayd.cli.arguments import Parser, report
from overlayd.cli.common import add_common


def leases(parser: Parser) -> None:
    """`leases [--watch]`."""
    parser.add_argument("--watch", action="store_true")
    add_common(parser, "socket", "json")
    parser.set_defaults(run=_leases)


def _leases(given: argparse.Namespace) -> int:
    _hint("leases --watch" if given.watch else "leases", "lease watch" if given.watch else "lease list")
    return (lease.run_watch if given.watch else lease.run_list)(given)


def peers(parser: Parser) -> None:
    """`peers [--wrong]`."""
    parser.add_argument("--wrong", action="store_true", dest="problems")
    add_common(parser, "socket", "json")
    parser.set_defaults(run=_peers)


def _peers(given: argparse.Namespace) -> int:
    _hint("peers --wrong" if given.problems else "peers", "peer list" + " --problems" * given.problems)
    return peer.run_list(given)


def _hint(former: str, now: str) -> None:
    report("overlayctl", f"'{former}' is now 'overlayctl {now}'; the old spelling will be removed")
