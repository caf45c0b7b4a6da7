"""Options that several commands on labs have."""

from __future__ import annotations

from collections.abc import Mapping

from overlayd.cli.arguments import Parser
from overlayd.lab.spec import Offloads

OFFLOADS: Mapping[Offloads, str] = {
    "wire": "frames of the MTU on the underlay",
    "on": "superpackets on the underlay",
    "off": "no offloads anywhere",
}
"""The choices of --offloads, and what each means."""


def add_offloads(parser: Parser, default: Offloads) -> None:
    """The option that chooses how the lab's devices segment and coalesce."""
    meanings = "; ".join(f"{name}: {meaning}" for name, meaning in OFFLOADS.items())
    parser.add_argument("--offloads", choices=OFFLOADS, default=default, help=f"{meanings} (default: {default})")
