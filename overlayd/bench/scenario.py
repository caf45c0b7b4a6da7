"""The data paths between containers that are compared, each a scenario, and the labs that they are measured in.

Every scenario has a lab of its own, all of them up at once, so that rounds can be interleaved.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any, Literal

from overlayd.bench import counters
from overlayd.bench.endpoint import Daemon, Endpoint, Local, Program, ThisHost
from overlayd.bench.errors import BenchError
from overlayd.bench.tunnels import TUNNELS, tunnel
from overlayd.core.address import Family
from overlayd.lab import Host, LabError, LabSpec
from overlayd.lab.lab import Lab, unique_name
from overlayd.lab.spec import Offloads
from overlayd.system.ethtool import features

Frames = Literal["wire", "any", "1500", "peer"]
"""wire: as on real machines: everything has its offloads, and only the cable is limited to frames of the MTU.
any and 1500 are the two extremes. any: superpackets cross the underlay unsegmented, which flatters the kernel's data
paths; 1500: no offloads anywhere, not even in containers. peer: between two machines it is as it is."""

OFFLOADS: Mapping[Frames, Offloads] = {"wire": "wire", "any": "on", "1500": "off"}
"""The lab's offloads for each setting of the underlay that a lab can have."""

_RELEVANT = frozenset(
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


def no_preparation() -> None:
    """The preparation of a scenario that needs none."""


@dataclass(frozen=True)
class ScenarioSpec:
    """A scenario as it is requested."""

    name: str
    title: str
    lab: Mapping[str, Any]
    """LabSpec's keywords."""
    between: Literal["hosts", "containers"] = "containers"


@dataclass
class Scenario:
    """A scenario as it is measured: from the client's endpoint to the server's at an address."""

    name: str
    title: str
    client: Local
    server: Endpoint
    address: str
    daemons: tuple[Daemon | Program, ...] = ()
    """Those of this machine that carry its packets."""
    facts: dict[str, Any] = field(default_factory=dict)
    """For the result file: mode, engine, MTU, seconds to come up."""
    prepare: Callable[[], None] = no_preparation
    """Called before every measurement."""

    @property
    def one_machine(self) -> bool:
        """Whether both endpoints are here, and one set of processors does all the work."""
        return isinstance(self.server, Local)

    def busy(self) -> float:
        """The share (0..1) in use now of the busier end's machine."""
        return self.client.busy() if self.one_machine else max(self.client.busy(), self.server.busy())

    def memory(self) -> list[float]:
        """Resident MiB of each of its daemons."""
        return [round(counters.memory(one.pid), 1) for one in self.daemons]


def _udp(engine: str, **settings: Any) -> dict[str, Any]:
    return {"mode": "udp", "settings": {"udp": {"engine": engine, **settings}}}


SCENARIOS = {
    one.name: one
    for one in (
        ScenarioSpec("host", "host to host", {"mode": "none", "containers": 0}, "hosts"),
        ScenarioSpec("host-gw", "host-gw", {"mode": "host-gw"}),
        ScenarioSpec("vxlan", "vxlan", {"mode": "vxlan"}),
        ScenarioSpec("udp-python", "udp, python engine", _udp("python")),
        ScenarioSpec("udp-native", "udp, native engine", _udp("native")),
        ScenarioSpec("udp-overlayd", "udp, native, wire: overlayd", {**_udp("native"), "wire": "overlayd"}),
        ScenarioSpec("udp-busy-poll", "udp, native, busy_poll_us 50", _udp("native", busy_poll_us=50)),
        *(ScenarioSpec(name, f"{name}, encrypted", {"mode": "none"}) for name in TUNNELS),
    )
}


def available() -> tuple[str, ...]:
    """The scenarios whose programs are installed; whether the kernel supports them shows when they come up."""
    return tuple(name for name in SCENARIOS if name not in TUNNELS or not TUNNELS[name].missing())


BASE = "vxlan"
"""Ratios are to this one."""
QUICK = ("host", "host-gw", "vxlan", "udp-python", "udp-native")


@contextlib.contextmanager
def labs(
    names: Sequence[str],
    frames: Frames,
    family: Family = 4,
    underlay: Family = 4,
    failed: Callable[[str, str], None] = print,
) -> Iterator[list[Scenario]]:
    """The scenarios of that name, each in a lab of its own that ends with the block.

    `failed` gets the name and the reason of one that does not come up; the others are measured. Raises BenchError
    when none does.
    """
    with contextlib.ExitStack() as stack:
        scenarios = []
        for name in names:
            try:
                scenarios.append(_scenario(stack, SCENARIOS[name], frames, family, underlay))
            except (LabError, BenchError) as error:
                failed(name, str(error))
        if not scenarios:
            raise BenchError("no scenario came up; see the errors above")
        yield scenarios


def _scenario(
    stack: contextlib.ExitStack, spec: ScenarioSpec, frames: Frames, family: Family, underlay: Family
) -> Scenario:
    keywords = {"family": f"ipv{family}", "underlay": f"ipv{underlay}", **spec.lab}
    lab = stack.enter_context(Lab.up(LabSpec(name=unique_name(), offloads=OFFLOADS[frames], **keywords), owned=True))
    a, b = lab.hosts
    if spec.between == "hosts":
        return Scenario(
            spec.name, spec.title, Local(a), Local(b), str(b.public_ip), facts={"mtu": lab.spec.underlay_mtu}
        )
    address = str(b.container(0).address(family))
    if spec.name in TUNNELS:
        programs, mtu, seconds = tunnel(stack, TUNNELS[spec.name], lab)
        carrying = programs or (None, None)
        client, server = (Local(host.container(0), one) for host, one in zip((a, b), carrying, strict=True))
        facts = {"mode": spec.name, "engine": TUNNELS[spec.name].engine, "mtu": mtu, "up_seconds": [round(seconds, 3)]}
        return Scenario(spec.name, spec.title, client, server, address, programs, facts)
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
    return Scenario(spec.name, spec.title, client, server, address, daemons, facts)


def peer_scenario(name: str, server: Endpoint, daemon: Daemon | None) -> Scenario:
    """The scenario from this machine to another's address; without a name it is named after the route's mode."""
    client, address = Local(ThisHost(), daemon), server.name
    status = daemon.status() if daemon is not None else {}
    overlay = status.get("overlay") or {"networks": []}
    if daemon is None or not any(ip_address(address) in ip_network(network) for network in overlay["networks"]):
        found = re.search(r"\bdev (\S+)", client.run(["ip", "-o", "route", "get", address], 1))
        facts = {"address": address, **_device(found[1] if found else "")}
        return Scenario(name or "host", name or SCENARIOS["host"].title, client, server, address, facts=facts)
    mode, engine = status["mode"], status["engine"]
    known = SCENARIOS.get(f"{mode}-{engine}" if engine else mode)
    facts = {"mode": mode, "engine": engine, "offloads": status["offloads"], "mtu": overlay["mtu"], "address": address}
    facts |= _device(status["underlay"]["interface"])
    own, title = (known.name, known.title) if known else (mode, mode)
    return Scenario(name or own, name or title, client, server, address, (daemon,), facts)


def _device(name: str) -> dict[str, Any]:
    """The underlay's device and which of its features concern superpackets."""
    try:
        return {"device": name, "features": sorted(features(name) & _RELEVANT)}
    except OSError:
        return {}


def daemon_of(host: Host) -> Daemon:
    """The overlayd of a lab's host. Raises BenchError when it has none."""
    if host.pid is None:
        raise BenchError(f"{host.name}: overlayd is not running; its log: {host.log_path}")
    return Daemon(host.pid, host.socket_path)
