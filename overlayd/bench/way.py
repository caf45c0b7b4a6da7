"""The ways between containers that are compared, and the labs that they are measured in.

Every way has a lab of its own, all of them up at once, so that rounds can be interleaved.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any, Literal

from overlayd.bench import probe
from overlayd.bench.errors import BenchError
from overlayd.bench.others import OTHERS, tunnel
from overlayd.bench.station import Daemon, Local, Program, Station, ThisHost
from overlayd.core.address import Family
from overlayd.lab import Host, LabError, LabSpec, Namespace
from overlayd.lab.lab import Lab, unique_name
from overlayd.system.ethtool import features

Frames = Literal["any", "1500", "peer"]
"""any: the underlay carries superpackets uncut, which flatters the kernel's ways. 1500: no frame on it is longer than
its MTU. peer: between two machines it is as it is."""

SEGMENTATION = ("tso", "gso", "gro", "tx-udp-segmentation", "tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation")
"""What makes a veth carry superpackets; "gso" alone leaves those of UDP, plain and tunnelled."""


_TELLING = frozenset(
    [
        "tx-tcp-segmentation",
        "tx-tcp6-segmentation",
        "tx-generic-segmentation",
        "tx-udp-segmentation",
        "tx-udp_tnl-segmentation",
        "tx-udp_tnl-csum-segmentation",
        "tx-checksum-ip-generic",
        "tx-scatter-gather",
        "rx-gro",
        "rx-lro",
    ]
)
"""Features of a device, by ethtool's names, without which the figures of two machines cannot be understood."""


def nothing() -> None:
    """The preparation of a way that needs none."""


@dataclass(frozen=True)
class WaySpec:
    """One way, as it is asked for."""

    name: str
    title: str
    lab: Mapping[str, Any]
    """LabSpec's keywords."""
    between: Literal["hosts", "containers"] = "containers"


@dataclass
class Way:
    """One way, as it is measured: from the client's station to the server's at an address."""

    name: str
    title: str
    client: Local
    server: Station
    address: str
    daemons: tuple[Daemon | Program, ...] = ()
    """Of this machine, on the way."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What the result file says of it: mode, engine, MTU, seconds to come up."""
    prepare: Callable[[], None] = nothing
    """Called before every measurement."""

    @property
    def one_machine(self) -> bool:
        """Whether both stations are here, and one set of processors does all the work."""
        return isinstance(self.server, Local)

    def memory(self) -> list[float]:
        """Resident MiB of each of its daemons."""
        return [round(probe.memory(one.pid), 1) for one in self.daemons]


def _udp(engine: str, **settings: Any) -> dict[str, Any]:
    return {"mode": "udp", "settings": {"udp": {"engine": engine, **settings}}}


WAYS = {
    one.name: one
    for one in (
        WaySpec("host", "host to host", {"mode": "none", "containers": 0}, "hosts"),
        WaySpec("host-gw", "host-gw", {"mode": "host-gw"}),
        WaySpec("vxlan", "vxlan", {"mode": "vxlan"}),
        WaySpec("udp-python", "udp, python engine", _udp("python")),
        WaySpec("udp-native", "udp, native engine", _udp("native")),
        WaySpec("udp-overlayd", "udp, native, wire: overlayd", {**_udp("native"), "wire": "overlayd"}),
        WaySpec("udp-busy-poll", "udp, native, busy_poll_us 50", _udp("native", busy_poll_us=50)),
        *(WaySpec(name, f"{name}, encrypted", {"mode": "none"}) for name in OTHERS),
    )
}


def found() -> tuple[str, ...]:
    """The ways that this machine has the programs for; whether its kernel has its part shows when they come up."""
    return tuple(name for name in WAYS if name not in OTHERS or not OTHERS[name].missing())


BASE = "vxlan"
"""What ratios are taken to."""
QUICK = ("host", "host-gw", "vxlan", "udp-python", "udp-native")


@contextlib.contextmanager
def labs(
    names: Sequence[str],
    frames: Frames,
    family: Family = 4,
    underlay: Family = 4,
    failed: Callable[[str, str], None] = print,
) -> Iterator[list[Way]]:
    """The ways of that name, each in a lab of its own that ends with the block.

    `failed` is told the name and the reason of one that does not come up; the others are measured. Raises BenchError
    when none does.
    """
    with contextlib.ExitStack() as stack:
        ways = []
        for name in names:
            try:
                ways.append(_way(stack, WAYS[name], frames, family, underlay))
            except (LabError, BenchError) as error:
                failed(name, str(error))
        if not ways:
            raise BenchError("no way came up; see the errors above")
        yield ways


def _way(stack: contextlib.ExitStack, spec: WaySpec, frames: Frames, family: Family, underlay: Family) -> Way:
    keywords = {"family": f"ipv{family}", "underlay": f"ipv{underlay}", **spec.lab}
    lab = stack.enter_context(Lab.up(LabSpec(name=unique_name(), **keywords), owned=True))
    a, b = lab.hosts
    if frames == "1500":
        cut_frames(a, b)
    if spec.between == "hosts":
        return Way(spec.name, spec.title, Local(a), Local(b), str(b.public_ip), facts={"mtu": lab.spec.underlay_mtu})
    address = str(b.container(0).address(family))
    if spec.name in OTHERS:
        programs, mtu, seconds = tunnel(stack, OTHERS[spec.name], lab)
        carriers = programs or (None, None)
        client, server = (Local(host.container(0), one) for host, one in zip((a, b), carriers, strict=True))
        facts = {"mode": spec.name, "engine": OTHERS[spec.name].engine, "mtu": mtu, "up_seconds": [round(seconds, 3)]}
        return Way(spec.name, spec.title, client, server, address, programs, facts)
    daemons = tuple(daemon_of(host) for host in (a, b))
    status = daemons[0].status()
    client, server = (Local(host.container(0), daemon) for host, daemon in zip((a, b), daemons, strict=True))
    facts = {
        "mode": lab.spec.mode,
        "engine": status["engine"],
        "offloads": status["offloads"],
        "mtu": a.plan.overlay_mtu,
        "up_seconds": [round(host.ready_after, 3) for host in (a, b) if host.ready_after is not None],
    }
    return Way(spec.name, spec.title, client, server, address, daemons, facts)


def peer_way(name: str, server: Station, daemon: Daemon | None) -> Way:
    """The way from this machine to another's address; its name is the one given, or else that of what leads there."""
    client, address = Local(ThisHost(), daemon), server.name
    status = daemon.status() if daemon is not None else {}
    overlay = status.get("overlay") or {"networks": []}
    if daemon is None or not any(ip_address(address) in ip_network(network) for network in overlay["networks"]):
        found = re.search(r"\bdev (\S+)", client.run(["ip", "-o", "route", "get", address], 1))
        facts = {"address": address, **_device(found[1] if found else "")}
        return Way(name or "host", name or WAYS["host"].title, client, server, address, facts=facts)
    mode, engine = status["mode"], status["engine"]
    known = WAYS.get(f"{mode}-{engine}" if engine else mode)
    facts = {"mode": mode, "engine": engine, "offloads": status["offloads"], "mtu": overlay["mtu"], "address": address}
    facts |= _device(status["underlay"]["interface"])
    own, title = (known.name, known.title) if known else (mode, mode)
    return Way(name or own, name or title, client, server, address, (daemon,), facts)


def _device(name: str) -> dict[str, Any]:
    """The underlay's device and which of its features make or take superpackets."""
    try:
        return {"device": name, "features": sorted(features(name) & _TELLING)}
    except OSError:
        return {}


def cut_frames(*hosts: Namespace) -> None:
    """Have nothing longer than the MTU on these hosts' underlay."""
    for host in hosts:
        host.run("ethtool", "-K", "eth0", *(word for name in SEGMENTATION for word in (name, "off")))


def daemon_of(host: Host) -> Daemon:
    """The overlayd of a lab's host. Raises BenchError when it has none."""
    if host.pid is None:
        raise BenchError(f"{host.name}: overlayd does not run; its log: {host.log_path}")
    return Daemon(host.pid, host.socket_path)
