"""`overlayctl lab`: hosts in network namespaces on this machine, to try overlayd on."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from overlayd.backend.modes import SETTINGS
from overlayd.cli import lab_status
from overlayd.cli.arguments import Command, Parser, print_json
from overlayd.cli.common import add_common, add_group
from overlayd.cli.lab_options import add_offloads
from overlayd.cli.render import invocation
from overlayd.lab import Host, Lab, LabError, LabSpec, merged, reap
from overlayd.lab import state as states
from overlayd.lab.drawing import draw
from overlayd.lab.namespace import silent
from overlayd.lab.spec import SpecError, settings_of

Run = Callable[[argparse.Namespace], int]

_MODES = (*SETTINGS.modes, "none")
_STACKS = ("ipv4", "ipv6", "dual")


def configure(parser: Parser) -> None:
    """The command's verbs; each sets `run` to a function that returns the exit status."""
    parser.description = "Hosts in network namespaces on this machine, each with a real overlayd, to try it on."
    add_group(
        parser,
        (
            Command("up", "build a lab; it stays up until `lab down`", __name__, "_add_up"),
            Command("exec", "run a command in a host or a container", __name__, "_add_exec"),
            Command("status", "the state of each host's daemon", __name__, "_add_status"),
            Command(
                "down", "take a lab down: its daemons, every other process in it, its namespaces", __name__, "_add_down"
            ),
            Command("list", "the labs on this machine", __name__, "_add_list"),
        ),
    )


def _add_up(up: Parser) -> None:
    up.add_argument("--hosts", type=int, default=2, metavar="N", help="number of hosts (default: 2)")
    up.add_argument("--containers", type=int, default=1, metavar="N", help="containers on each host (default: 1)")
    up.add_argument("--mode", choices=_MODES, default="udp", help="none: do not start overlayd (default: udp)")
    up.add_argument(
        "--family", choices=_STACKS, default="ipv4", help="address families of the containers (default: ipv4)"
    )
    up.add_argument(
        "--underlay", choices=_STACKS, default="ipv4", help="address families between the hosts (default: ipv4)"
    )
    up.add_argument(
        "--underlay-mtu", type=int, default=1500, metavar="BYTES", help="MTU between the hosts (default: 1500)"
    )
    up.add_argument(
        "--wire",
        choices=("flannel", "overlayd"),
        default="flannel",
        help="wire formats that the leases announce in udp mode (default: flannel)",
    )
    up.add_argument(
        "--registry",
        choices=("static", "etcd"),
        default="static",
        help="source of the leases: a table, or the lab's own etcd (default: static)",
    )
    up.add_argument(
        "--etcd-members",
        type=int,
        default=1,
        metavar="N",
        help="members of the lab's etcd, each in a namespace (default: 1)",
    )
    up.add_argument("--etcd-secure", action="store_true", help="the lab's etcd requires certificates and passwords")
    add_offloads(up, "on")
    up.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of overlayd on every host, such as vxlan.port=4789; may be repeated",
    )
    up.add_argument("--verbose", action="store_true", help="show every command that is run")
    _add_name(up)
    up.set_defaults(run=_guarded(_up))


def _add_exec(run: Parser) -> None:
    run.description = "Run a command in a host or a container: lab exec h1c1 -- ping 10.1.2.2"
    _add_name(run)
    run.add_argument("node", metavar="NODE", help="h1, h1c1, switch")
    run.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="default: a shell")
    run.set_defaults(run=_guarded(_exec))


def _add_status(status: Parser) -> None:
    add_common(status, "json")
    _add_name(status)
    status.set_defaults(run=_guarded(lab_status.run))


def _add_down(down: Parser) -> None:
    which = down.add_mutually_exclusive_group()
    _add_name(which)
    which.add_argument("--all", action="store_true", help="every lab on this machine")
    down.set_defaults(run=_guarded(_down))


def _add_list(listing: Parser) -> None:
    add_common(listing, "json")
    listing.set_defaults(run=_guarded(_list))


def _add_name(parser: Any) -> None:
    parser.add_argument("--name", default="lab", metavar="LAB", help="default: lab")


def _guarded(run: Run) -> Run:
    """The verb with SIGTERM as Ctrl-C: a lab that is half built is taken down."""

    def guarded(arguments: argparse.Namespace) -> int:
        def interrupt(number: int, frame: object) -> None:
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGTERM, interrupt)
        try:
            return run(arguments)
        except KeyboardInterrupt:
            print("overlayctl lab: interrupted", file=sys.stderr)
            return 130
        finally:
            signal.signal(signal.SIGTERM, before)

    return guarded


def parse_settings(pairs: list[str]) -> dict[str, Any]:
    """["vxlan.port=4789"] as the configuration file nests it. Raises SpecError for one without `=`."""
    settings: dict[str, Any] = {}
    for pair in pairs:
        path, equals, value = pair.partition("=")
        if not equals or not path:
            raise SpecError(f"--set {pair}: write KEY=VALUE, such as vxlan.port=4789")
        nested: Any = yaml.load(value, yaml.BaseLoader)  # noqa: S506  # makes strings, lists and mappings only
        for key in reversed(path.split(".")):
            nested = {key: nested}
        settings = merged(settings, nested)
    return settings


def _up(arguments: argparse.Namespace) -> int:
    console = Console()
    spec = LabSpec(
        name=arguments.name,
        hosts=arguments.hosts,
        containers=arguments.containers,
        mode=arguments.mode,
        family=arguments.family,
        underlay=arguments.underlay,
        underlay_mtu=arguments.underlay_mtu,
        offloads=arguments.offloads,
        wire=arguments.wire,
        registry=arguments.registry,
        etcd_members=arguments.etcd_members,
        etcd_secure=arguments.etcd_secure,
        settings=parse_settings(arguments.set),
    )

    def progress(line: str) -> None:
        console.print(f"[bold green]•[/] {line}", highlight=False)

    def echo(line: str) -> None:
        console.print(f"  {line}", style="dim", highlight=False, soft_wrap=True, markup=False)

    lab = Lab.up(spec, progress=progress, echo=echo if arguments.verbose else silent)
    ready = [f"{host.name} in {host.ready_after:.2f} s" for host in lab.hosts if host.ready_after is not None]
    if ready:
        progress(f"ready: {', '.join(ready)}")
    console.print()
    console.print(
        draw(spec, [host.plan for host in lab.hosts], console.width), highlight=False, markup=False, soft_wrap=True
    )
    console.print("\n[bold]What to try next[/]")
    for command, what in _hints(lab):
        console.print(f"  [cyan]{command}[/]  [dim]# {what}[/]", highlight=False, soft_wrap=True)
    return 0


def _hints(lab: Lab) -> list[tuple[str, str]]:
    name = "" if lab.name == "lab" else f" --name {lab.name}"
    hints = []
    first, last = lab.hosts[0], lab.hosts[-1]
    if lab.spec.mode != "none":
        if first.containers and last is not first:
            target = last.container(0).address()
            hints.append(
                (f"{invocation()} lab exec{name} {first.container(0).name} -- ping -c 3 {target}", "across the overlay")
            )
        hints += [
            (
                f"{invocation()} lab exec{name} h1 -- tcpdump -ni eth0 {_capture_filter(lab.spec)}",
                "packets on the wire",
            ),
            (f"{invocation()} lab exec{name} h1 -- ip route", "the routes that overlayd has set"),
        ]
    elif last is not first:
        hints.append((f"{invocation()} lab exec{name} h1 -- ping {last.public_ip}", "across the underlay"))
    if lab.etcd is not None:
        member = lab.etcd.members[0].name
        hints.append((f"{invocation()} lab exec{name} {member} -- etcdctl get --prefix /", "the leases in etcd"))
    hints += [
        (f"{invocation()} lab exec{name} h1", "a shell on a host"),
        (f"{invocation()} lab status{name}", "the state of each daemon"),
        (f"{invocation()} lab down{name}", "take it down"),
    ]
    return hints


def _capture_filter(spec: LabSpec) -> str:
    """tcpdump's expression for the overlay's packets between hosts."""
    port = getattr(settings_of(spec).section, "port", None)
    return "net 10.1.0.0/16" if port is None else f"udp port {port}"


def _exec(arguments: argparse.Namespace) -> int:
    lab = Lab.load(arguments.name)
    node = lab.find(arguments.node)
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    environment = dict(os.environ)
    environment["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    if isinstance(node, Host):
        environment["OVERLAYD_CONTROL_SOCKET"] = str(node.socket_path)
        environment["OVERLAYD_CONFIG"] = str(node.config_path)
        environment["OVERLAYD_SUBNET_FILE"] = str(node.subnet_file)
    if lab.etcd is not None:
        environment |= lab.etcd.environment()  # for etcdctl, on any node of the underlay
    if os.geteuid() != 0:
        raise LabError("entering a namespace needs root: run with sudo")
    sys.stdout.flush()
    argv = node.enter_with_sys(*(command or [os.environ.get("SHELL", "/bin/sh")]))
    try:
        os.execvpe(argv[0], argv, environment)  # noqa: S606  # the command takes our place, and its status is ours
    except OSError as error:
        raise LabError(f"{argv[0]}: {error.strerror}: apt install util-linux") from None


def _down(arguments: argparse.Namespace) -> int:
    names = states.names() if arguments.all else [arguments.name]
    ended = [name for name in names if Lab.end(name)]
    for name in ended:
        print(f"lab {name} is down")
    if not arguments.all and not ended:
        raise LabError(f"{arguments.name}: no such lab is up{_up_here()}")
    if not names:
        print("no lab is up")
    return 0


def _up_here() -> str:
    names = states.names()
    return f"; up: {', '.join(names)}" if names else ""


def _list(arguments: argparse.Namespace) -> int:
    if os.geteuid() == 0:
        reap()
    labs = [(name, states.LabState.load(name)) for name in states.names()]
    if arguments.json:
        print_json([_described(name, state) for name, state in labs])
        return 0
    for name, state in labs:
        if state is None:
            print(f"{name}: its state cannot be read: overlayctl lab down --name {name}")
        else:
            spec = state.spec
            owner = f", of pid {state.owner.pid}" if state.owner else ""
            print(f"{name}: {spec.hosts} hosts with {spec.containers} containers each, mode {spec.mode}{owner}")
    if not labs:
        print("no lab is up: overlayctl lab up")
    return 0


def _described(name: str, state: states.LabState | None) -> dict[str, Any]:
    """A lab as JSON; without a spec where its state cannot be read."""
    owner = state.owner.pid if state is not None and state.owner else None
    return {"name": name, "spec": state.spec.mapping() if state is not None else None, "owner": owner}
