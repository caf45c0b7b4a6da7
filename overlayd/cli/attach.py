"""`overlayctl attach` and `detach`: a container of this host, whoever runs it, gets an interface of the overlay."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from overlayd.cli.arguments import Parser, print_json
from overlayd.cli.common import add_common
from overlayd.core.attach.errors import AttachError
from overlayd.core.attach.model import DEFAULT_NETWORK, MODES, Attachment
from overlayd.core.attach.publish import parse_published
from overlayd.core.attach.request import DetachRequest, parse_attach
from overlayd.core.attach.values import interface, name
from overlayd.system import attach_client

_NETNS = "/run/netns"
_OF_PROCESS = re.compile(r"/proc/(\d+)/ns/net")
_TARGET = "a process in it (PID), the path of its network namespace, or that namespace's name (ip netns)"


class Target(NamedTuple):
    """A container, as it was named on the command line."""

    container: str
    netns: str


def target(word: str) -> Target:
    """1234, /run/netns/c1 or c1. Raises AttachError."""
    if word.isascii() and word.isdecimal():
        return Target(f"pid-{word}", f"/proc/{word}/ns/net")
    if found := _OF_PROCESS.fullmatch(word):
        return Target(f"pid-{found[1]}", word)
    if word.startswith("/"):
        return Target(name(word.rpartition("/")[2], "container"), word)
    return Target(name(word, "container"), f"{_NETNS}/{word}")


def configure(parser: Parser) -> None:
    """The arguments of `attach`."""
    parser.description = (
        "Give a container an interface of the overlay: addresses of this host's subnet, a default route unless it has"
        " one, and the overlay's MTU. overlayd notices when the container ends. Needs root."
    )
    parser.add_argument("target", metavar="CONTAINER", help=_TARGET)
    parser.add_argument("--name", help="what to call it (default: pid-PID, or the namespace's name)")
    _add_interface(parser, "eth0", "name of the interface in the container (default: eth0)")
    parser.add_argument(
        "--mode",
        choices=MODES,
        default="bridge",
        help="bridge: one link with the other containers of its network on this host; routed: a link of its own"
        " (default: bridge)",
    )
    parser.add_argument(
        "--network",
        default=DEFAULT_NETWORK,
        metavar="NAME",
        help=f"containers of different networks are on different bridges (default: {DEFAULT_NETWORK})",
    )
    parser.add_argument(
        "--ip", action="append", default=[], metavar="ADDRESS", help="its address; once for each of IPv4 and IPv6"
    )
    parser.add_argument("--mac", help="its MAC (default: derived from its address)")
    parser.add_argument(
        "-p",
        "--publish",
        action="append",
        default=[],
        metavar="PORT",
        help="make a port of it reachable at this host: [[ADDRESS:]PORT:]CONTAINER_PORT[/PROTOCOL], such as 8080:80,"
        " 127.0.0.1:5353:53/udp, 8000-8010:8000-8010; without PORT one is chosen. Any number of them",
    )
    parser.add_argument(
        "--sysctl",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="kernel setting of its network namespace, such as net.core.somaxconn=1024; any number of them",
    )
    parser.add_argument(
        "--rps",
        default="off",
        metavar="off|on|CPUS",
        help="steer packets that both ends of its link receive to all CPUs, or to these (0-3,7): no reordering within a"
        " flow, fewer new connections per second (default: off)",
    )
    add_common(parser, "socket", "json")
    parser.set_defaults(run=run_attach)


def configure_detach(parser: Parser) -> None:
    """The arguments of `detach`."""
    parser.description = "Remove a container's interfaces of the overlay; its addresses are free again. Needs root."
    parser.add_argument("target", metavar="CONTAINER", help=f"{_TARGET}; or its name in `attachment list`")
    _add_interface(parser, None, "only this interface (default: all of the container's)")
    add_common(parser, "socket", "json")
    parser.set_defaults(run=run_detach)


def _add_interface(parser: Parser, default: str | None, text: str) -> None:
    parser.add_argument("--interface", metavar="NAME", default=default, help=text)


def run_attach(given: argparse.Namespace) -> int:
    """Attach; the exit status."""
    container, netns = target(given.target)
    request = parse_attach({
        "container": given.name or container,
        "interface": given.interface,
        "netns": netns,
        "mode": given.mode,
        "network": given.network,
        "addresses": given.ip,
        "mac": given.mac,
        "ports": [port.json() for word in given.publish for port in parse_published(word)],
        "sysctls": _sysctls(given.sysctl),
        "rps": {"off": "", "on": f"0-{(os.cpu_count() or 1) - 1}"}.get(given.rps, given.rps),
    })  # fmt: skip
    _print(given, [attach_client.attach(given.socket, request)])
    return 0


def run_detach(given: argparse.Namespace) -> int:
    """Detach; the exit status."""
    only = interface(given.interface) if given.interface is not None else None
    request = DetachRequest(container=target(given.target).container, interface=only)
    _print(given, attach_client.detach(given.socket, request))
    return 0


def _sysctls(words: Sequence[str]) -> dict[str, str]:
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise AttachError(f"--sysctl {word}: has no value; write NAME=VALUE")
        found[key.strip()] = value.strip()
    return found


def _print(given: argparse.Namespace, attachments: Sequence[Attachment]) -> None:
    if given.json:
        print_json([one.json() for one in attachments])
        return
    for one in attachments:
        ports = f", ports {', '.join(map(str, one.ports))}" if one.ports else ""
        print(f"{one}: {', '.join(map(str, one.addresses))}, MTU {one.mtu}{ports}")
