"""`overlayctl docker-opts`: what dockerd has to be started with on this host."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from overlayd.cli.arguments import Parser, print_json
from overlayd.cli.common import add_common
from overlayd.core.leases.subnet_env import docker_options
from overlayd.core.settings.defaults import SUBNET_FILE
from overlayd.system.errors import HostError
from overlayd.system.files import read_text


def configure(parser: Parser) -> None:
    """The command's arguments."""
    parser.description = "Print the dockerd options for this host's lease: dockerd $(overlayctl docker-opts)"
    add_common(parser, "json")
    parser.add_argument(
        "--subnet-file",
        type=Path,
        metavar="FILE",
        default=Path(os.environ.get("OVERLAYD_SUBNET_FILE") or SUBNET_FILE),
        help=f"default: $OVERLAYD_SUBNET_FILE or {SUBNET_FILE}",
    )
    parser.set_defaults(run=_run)


def _run(given: argparse.Namespace) -> int:
    try:
        options = docker_options(read_text(given.subnet_file))
    except ValueError as error:
        raise HostError(f"{given.subnet_file}: {error}; overlayd writes it when it is ready") from None
    if given.json:
        print_json(options)
    else:
        print(" ".join(options))
    return 0
