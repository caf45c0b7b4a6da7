"""Ways to attach a container to its host, compared on one path: no overlay, one underlay, the same daemonless lab.

    bridge    container eth0 == veth == br0; the host routes          routed   the same without a bridge
    macvlan   a second MAC on the host's eth0, no routing             ipvlan   the same with the host's MAC
    host      no container at all: what the others are compared with

Both ends are attached alike. Each is measured with RPS off and, as NAME+rps, on: receive packet steering
(Documentation/networking/scaling.rst) hands every flow to one processor, so that it stays in order, at a price. It is
on for every receive queue of both hosts and of the containers.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence

from overlayd.bench.endpoint import Local, ThisHost
from overlayd.bench.scenario import OFFLOADS, Frames, Scenario
from overlayd.core.address import Family
from overlayd.lab import Container, Host, LabError, LabSpec, Namespace
from overlayd.lab.lab import Lab, unique_name
from overlayd.lab.spec import Stack

KINDS = ("host", "bridge", "routed", "macvlan", "ipvlan")
TITLES = {"host": "host", "bridge": "veth + bridge", "routed": "veth, routed", "macvlan": "macvlan", "ipvlan": "ipvlan"}
ATTACHMENTS = {
    f"{kind}{suffix}": f"{TITLES[kind]}{words}" for kind in KINDS for suffix, words in (("", ""), ("+rps", ", RPS"))
}
"""Names and titles of the scenarios."""
BASE = "host"
_OWN = {4: "192.0.2.{}/24", 6: "fd00:192:0:2::{:x}/64"}
"""Of containers that are on the underlay themselves."""


class Steering:
    """RPS of all namespaces of a lab: on or off, as the last scenario needed it."""

    def __init__(self, namespaces: Sequence[Namespace]) -> None:
        self._namespaces = namespaces
        self._on: bool | None = None

    def set(self, on: bool) -> None:
        """Raises LabError."""
        if on == self._on:
            return
        for one in self._namespaces:
            script = f"for queue in /sys/class/net/*/queues/rx-*/rps_cpus; do echo {mask(on)} >$queue || exit; done"
            ThisHost().run(*one.enter_with_sys("sh", "-c", script))
        self._on = on


def mask(on: bool, cores: int | None = None) -> str:
    """Every processor or none, as /sys takes it: hexadecimal, groups of 32 with commas between."""
    count = cores or os.cpu_count() or 1
    bits = f"{(1 << count) - 1 if on else 0:x}"
    padded = bits.zfill(-(-len(bits) // 8) * 8)
    return ",".join(padded[at : at + 8] for at in range(0, len(padded), 8)).lstrip("0") or "0"


@contextlib.contextmanager
def attachments(
    names: Sequence[str], frames: Frames, family: Family = 4, failed: Callable[[str, str], None] = print
) -> Iterator[list[Scenario]]:
    """Those of ATTACHMENTS, in one lab that ends with the block; `failed` gets each that the kernel lacks.

    With frames "1500" all offloads are off on every veth; macvlan and ipvlan have theirs always on, and leave
    segmenting to the eth0 below. Raises LabError when the lab does not come up.
    """
    stack: Stack = "ipv4" if family == 4 else "ipv6"
    containers, offloads = len(KINDS) - 1, OFFLOADS[frames]
    spec = LabSpec(unique_name(), 2, containers, "none", stack, stack, offloads=offloads)
    with Lab.up(spec, owned=True) as lab:
        a, b = lab.hosts
        for one, other in ((a, b), (b, a)):
            one.sysctl({"net/ipv4/ip_forward": 1, "net/ipv6/conf/all/forwarding": 1})
            one.ip(f"route add {other.subnet} via {other.public_ip}")
        steering = Steering(list(lab.nodes()))
        scenarios = []
        for kind in KINDS:
            chosen = [name for name in names if name.removesuffix("+rps") == kind]
            try:
                if chosen:
                    ends = attach(kind, a, b, family)
                    scenarios += [_scenario(name, ends, steering) for name in chosen]
            except LabError as error:
                for name in chosen:
                    failed(name, str(error))
        yield scenarios


def _scenario(name: str, ends: tuple[Namespace, Namespace, str], steering: Steering) -> Scenario:
    client, server, address = ends
    steered = name.endswith("+rps")
    prepare = functools.partial(steering.set, steered)
    return Scenario(
        name, ATTACHMENTS[name], Local(client), Local(server), address, facts={"rps": steered}, prepare=prepare
    )


def attach(kind: str, a: Host, b: Host, family: Family) -> tuple[Namespace, Namespace, str]:
    """Both ends, and the server's address. Raises LabError where the kernel does not have the kind."""
    if kind == "host":
        return a, b, str(b.public_ip)
    index = KINDS.index(kind) - 1
    client, server = a.container(index), b.container(index)
    if kind == "routed":
        for host in (a, b):
            _routed(host, index, family)
    elif kind in ("macvlan", "ipvlan"):
        for number, host in enumerate((a, b), 1):
            _on_underlay(kind, host, index, _own(kind, number, family))
        return client, server, _own(kind, 2, family).split("/")[0]
    return client, server, str(server.address(family))


def _own(kind: str, number: int, family: Family) -> str:
    return _OWN[family].format(100 + 10 * KINDS.index(kind) + number)


def _routed(host: Host, index: int, family: Family) -> None:
    container = host.container(index)
    device, address = f"c{index + 1}", container.address(family)
    lines = [f"link set {device} nomaster", f"route add {address} dev {device}"]
    if family == 6:  # neighbour discovery answers for the interface's own addresses only
        lines.insert(1, f"addr add {host.plan.bridge[0].ip}/128 dev {device} nodad")
    host.ip(*lines)


def _on_underlay(kind: str, host: Host, index: int, address: str) -> None:
    container: Container = host.container(index)
    mode = "mode bridge" if kind == "macvlan" else "mode l2"
    host.ip(f"link add link eth0 name own{index} type {kind} {mode}")  # first: the kernel may not have it
    host.ip(f"link delete c{index + 1}", f"link set own{index} netns {container.namespace} name eth0")
    container.ip("link set eth0 up", f"addr add {address} dev eth0{' nodad' if ':' in address else ''}")
