"""`overlayctl`: status and operation of a running daemon, leases in etcd, and the lab, benchmark and demo."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from overlayd import __version__
from overlayd.cli.arguments import EXIT_STATUS, Command, Parser, run_program
from overlayd.cli.common import add_group, apply_common

COMMANDS = (
    Command("status", "mode, lease, peers and problems of the daemon on this host", "overlayd.cli.status"),
    Command("peer", "peers: reachability, round-trip time, loss, path MTU", "overlayd.cli.peer"),
    Command("lease", "list or watch leases; reserve or release one in etcd", "overlayd.cli.lease"),
    Command("attach", "attach a container on this host to the overlay", "overlayd.cli.attach"),
    Command("detach", "detach a container", "overlayd.cli.attach", "configure_detach"),
    Command("attachment", "list, show or refresh attached containers", "overlayd.cli.attachment"),
    Command("port", "ports of this host that lead to containers", "overlayd.cli.port"),
    Command("counters", "packets carried and dropped, and what each drop reason means", "overlayd.cli.counters"),
    Command("top", "rates by peer and direction, live", "overlayd.cli.top"),
    Command("reload", "make the daemon read its configuration again", "overlayd.cli.reload"),
    Command("adopt", "take a host over from flannel, with its lease, devices and routes", "overlayd.cli.takeover"),
    Command("leave", "give a host back to flannel", "overlayd.cli.takeover", "configure_leave"),
    Command("docker-opts", "print the dockerd options for this host's lease", "overlayd.cli.docker_opts"),
    Command("etcd", "write the network configuration to etcd", "overlayd.cli.etcd"),
    Command("lab", "build hosts in network namespaces on this machine, to try overlayd on", "overlayd.cli.lab"),
    Command("bench", "compare the data paths between containers: throughput, latency, CPU", "overlayd.cli.bench"),
    Command("demo", "all modes side by side on this machine, in about a minute", "overlayd.cli.demo"),
    Command("leases", None, "overlayd.cli.former", "leases"),
    Command("peers", None, "overlayd.cli.former", "peers"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    return run_program("overlayctl", lambda: _run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    top = parser()
    given = top.parse_args(arguments)
    apply_common(top, given)
    status: Any = given.run(given)
    assert isinstance(status, int)
    return status


def parser() -> Parser:
    """The whole command line, of which each command's part is made when it is parsed."""
    made = Parser(
        prog="overlayctl",
        description="Show and operate a running overlayd, build a lab on this machine, run the demo.",
        epilog=f"Colours are shown on a terminal, unless NO_COLOR is set.\n\n{EXIT_STATUS}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--version", action="version", version=f"overlayctl {__version__}")
    add_group(made, COMMANDS)
    return made


if __name__ == "__main__":
    sys.exit(main())
