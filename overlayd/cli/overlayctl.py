"""`overlayctl`: what an operator asks of a running daemon, and the lab and the demo."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from overlayd import __version__
from overlayd.cli import bench, demo, etcd, explain, lab, render, top
from overlayd.core.errors import ReportedError
from overlayd.core.leases.subnet_env import docker_options
from overlayd.core.settings.defaults import CONTROL_SOCKET, SUBNET_FILE
from overlayd.system.control_client import ControlError, ask, follow
from overlayd.system.errors import HostError
from overlayd.system.files import read_text

_NO_LEASE = ("traffic", "ways", "probes")  # what the status says of a peer beside its lease


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status: 0, or 1 with one line that says what is wrong."""
    given = _parser().parse_args(arguments)
    try:
        status = given.run(given)
    except ReportedError as error:
        print(f"overlayctl: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `overlayctl leases | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    assert isinstance(status, int)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="overlayctl",
        description="Ask a running overlayd, build a lab of hosts on this machine, or see the demo.",
        epilog="exit status: 0 well, 1 not, 2 wrong usage",
    )
    parser.add_argument("--version", action="version", version=f"overlayctl {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    status = commands.add_parser("status", help="mode, lease, peers and counters of the daemon on this host")
    _asking(status)
    status.set_defaults(run=_status)

    peers = commands.add_parser(
        "peers",
        help="how each peer is, and what is wrong with it",
        description="Every peer with what its answers to probes show: whether it answers, round-trip time, loss, the"
        " longest packet that the path takes, what runs there, and what is wrong in words. Peers that flannel runs on"
        " are never probed.",
    )
    _asking(peers)
    peers.add_argument("--wrong", action="store_true", help="only those with which something is wrong")
    peers.set_defaults(run=_peers)

    counters = commands.add_parser(
        "counters",
        help="what was carried and what was dropped, with what each reason means",
        description="Counters since the daemon or the device was made: totals, drops by reason with what the reason"
        " means, offloads, wake-ups. out is from this host's containers to peers, in is from peers.",
    )
    _asking(counters)
    counters.set_defaults(run=_counters)

    top.add_parser(commands, _default_socket())

    leases = commands.add_parser("leases", help="every lease that the daemon knows")
    _asking(leases)
    leases.add_argument("--watch", action="store_true", help="then every change of one, until interrupted")
    leases.set_defaults(run=_leases)

    reload = commands.add_parser("reload", help="have the daemon read its configuration again")
    _asking(reload, with_json=False)
    reload.set_defaults(run=_reload)

    docker = commands.add_parser("docker-opts", help="print the options for dockerd that this host's lease calls for")
    docker.add_argument("--subnet-file", type=Path, default=Path(SUBNET_FILE), help="default: %(default)s")
    docker.set_defaults(run=_docker_opts)

    etcd.add_parsers(commands)
    lab.add_parser(commands)
    demo.add_parser(commands)
    bench.add_parser(commands)
    return parser


def _asking(parser: argparse.ArgumentParser, *, with_json: bool = True) -> None:
    parser.add_argument(
        "--socket", type=Path, default=_default_socket(), help="the daemon's control socket (%(default)s)"
    )
    if with_json:
        parser.add_argument("--json", action="store_true", help="for machines")


def _default_socket() -> Path:
    return Path(os.environ.get("OVERLAYD_CONTROL_SOCKET", CONTROL_SOCKET))


def _peers(given: argparse.Namespace) -> int:
    state = ask(given.socket, "/v1/status")
    if state["state"] == "waiting":
        raise ControlError(f"no peers are known: {state['problems'][0]}")
    peers = [peer for peer in state["peers"] if not given.wrong or render.wrong(peer)]
    if given.json:
        print(json.dumps(peers, indent=2))
    else:
        Console().print(render.peers(peers))
    return 0


def _counters(given: argparse.Namespace) -> int:
    counters = ask(given.socket, "/v1/counters")
    if counters["state"] == "waiting":
        raise ControlError(f"nothing is counted yet: {counters['problems'][0]}")
    if given.json:
        print(json.dumps(counters, indent=2))
    else:
        Console().print(explain.counters(counters))
    return 0


def _status(given: argparse.Namespace) -> int:
    state = ask(given.socket, "/v1/status")
    if given.json:
        print(json.dumps(state, indent=2))
    else:
        Console().print(render.status(state))
    return 0


def _leases(given: argparse.Namespace) -> int:
    if given.watch:
        return _watch(given)
    state = ask(given.socket, "/v1/status")
    if state["state"] == "waiting":
        raise ControlError(f"no leases are known: {state['problems'][0]}")
    rows = [{**state["lease"], "problem": None, "own": True}, *({**peer, "own": False} for peer in state["peers"])]
    if given.json:
        print(
            json.dumps([{key: value for key, value in row.items() if key not in _NO_LEASE} for row in rows], indent=2)
        )
    else:
        Console().print(render.leases(rows, state["registry_state"]))
    return 0


def _watch(given: argparse.Namespace) -> int:
    for event in follow(given.socket, "/v1/leases"):
        print(json.dumps(event) if given.json else render.lease_event(event), flush=True)
    raise ControlError(f"{given.socket}: overlayd has ended")


def _reload(given: argparse.Namespace) -> int:
    error = ask(given.socket, "/v1/reload", "POST")["error"]
    if error:
        print(f"refused, the old configuration stays:\n{error}", file=sys.stderr)
        return 1
    print("reloaded")
    return 0


def _docker_opts(given: argparse.Namespace) -> int:
    try:
        print(" ".join(docker_options(read_text(given.subnet_file))))
    except ValueError as error:
        raise HostError(f"{given.subnet_file}: {error}; overlayd writes it when it is ready") from None
    return 0


if __name__ == "__main__":
    sys.exit(main())
