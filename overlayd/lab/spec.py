"""The specification of a lab, and the plan of names, addresses and settings that follows from it.

All of it is pure: nothing here touches the machine. For two hosts with one container each the plan reads

    h1c1 10.1.1.2 -- br0 10.1.1.1 [h1] eth0 192.0.2.1 ======== eth0 192.0.2.2 [h2] br0 10.1.2.1 -- h2c1 10.1.2.2

The underlay is 192.0.2.0/24 (TEST-NET-1, RFC 5737) and fd00:192:0:2::/64; the overlay is 10.1.0.0/16 and
fd00:10:1::/48, unless the settings say otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_interface
from typing import Any, Literal, get_args

from overlayd.backend.modes import SETTINGS
from overlayd.core import mtu
from overlayd.core.address import Address, Family, Interface, Network
from overlayd.core.errors import ReportedError, UsageError
from overlayd.core.leases.lease import Lease, Wire
from overlayd.core.leases.subnet_env import subnet_env
from overlayd.core.node import Node, Underlay
from overlayd.core.settings.model import Settings
from overlayd.core.settings.validation import validate

Stack = Literal["ipv4", "ipv6", "dual"]
LabRegistry = Literal["static", "etcd"]
Offloads = Literal["wire", "on", "off"]

HOSTS_MAX = 250
UNDERLAY: dict[Family, str] = {4: "192.0.2.{}/24", 6: "fd00:192:0:2::{:x}/64"}
NETWORK = "10.1.0.0/16"
IPV6_NETWORK = "fd00:10:1::/48"

ETCD_MAX = 3
_ETCD_FIRST = 251  # the members' underlay addresses come after the hosts'

_PARTS = r"h\d+(c\d+)?|switch|etcd\d*"


class LabError(ReportedError):
    """A lab cannot be built, found or used; the text gives the reason and the remedy."""


class SpecError(LabError, UsageError):
    """A specification that no lab can have."""


def stack_families(stack: Stack) -> tuple[Family, ...]:
    """The address families that ipv4, ipv6 or dual stand for."""
    words: dict[Stack, tuple[Family, ...]] = {"ipv4": (4,), "ipv6": (6,), "dual": (4, 6)}
    return words[stack]


@dataclass(frozen=True)
class LabSpec:
    """What to build. Raises SpecError for a value that cannot work."""

    name: str = "lab"
    """Names the lab on this machine; lower case letters, digits and hyphens."""
    hosts: int = 2
    """2 hosts are joined by a cable, any other number by a switch."""
    containers: int = 1
    """On each host."""
    mode: str = "udp"
    """none builds the topology without any daemon; its bridges and containers have the underlay's MTU."""
    family: Stack = "ipv4"
    """Of the containers."""
    underlay: Stack = "ipv4"
    underlay_mtu: int = 1500
    """Bytes of IP packet."""
    offloads: Offloads = "on"
    """on: as veths have them; superpackets cross the underlay unsegmented. off: no TSO, GSO and GRO on any veth.
    wire: as with network cards: hosts and containers keep theirs, but the kernel segments at the underlay's device, to
    frames of at most the MTU, and coalesces (GRO) where it receives them."""
    wire: Wire = "flannel"
    """Wire formats that the hosts' leases announce for udp mode."""
    start: bool = True
    """False leaves the daemons, whose configuration is written, to be started by hand: `host.start()`."""
    registry: LabRegistry = "static"
    """The source of the daemons' leases: a table that the lab writes, or the lab's own etcd."""
    etcd_members: int = 1
    """Of the etcd, each in a namespace of its own."""
    etcd_secure: bool = False
    """TLS with certificates on both sides, among the members too, and users with passwords."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Merged into every host's configuration file; nested as there."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,30}", self.name):
            raise SpecError(
                f"name: {self.name!r} is not a valid lab name; use up to 31 of a-z, 0-9 and -, not beginning with -"
            )
        for key, low, high in (
            ("hosts", 1, HOSTS_MAX),
            ("containers", 0, 200),
            ("underlay_mtu", 576, mtu.MAXIMUM),
            ("etcd_members", 1, ETCD_MAX),
        ):
            if not low <= getattr(self, key) <= high:
                raise SpecError(f"{key}: {getattr(self, key)} is out of range; use {low} to {high}")
        for key, words in (
            ("mode", (*SETTINGS.modes, "none")),
            ("family", get_args(Stack)),
            ("underlay", get_args(Stack)),
            ("wire", get_args(Wire)),
            ("registry", get_args(LabRegistry)),
            ("offloads", get_args(Offloads)),
        ):
            if getattr(self, key) not in words:
                raise SpecError(f"{key}: {getattr(self, key)} is not one of {', '.join(words)}")
        if 6 in stack_families(self.underlay) and self.underlay_mtu < mtu.MINIMUM[6]:
            raise SpecError(
                f"underlay_mtu: {self.underlay_mtu} is too small for IPv6; use {mtu.MINIMUM[6]} or more, or ipv4"
            )

    def namespace(self, part: str) -> str:
        """The machine-wide name of the namespace of `part`: h1c1 is ovl-lab-h1c1."""
        return f"ovl-{self.name}-{part}"

    def mapping(self) -> dict[str, Any]:
        """The specification as JSON takes it; `LabSpec(**mapping)` is its inverse."""
        return asdict(self)


def namespace_pattern(lab: str) -> re.Pattern[str]:
    """Matches in full every namespace name of this lab, and none of another lab's."""
    return re.compile(rf"ovl-{re.escape(lab)}-({_PARTS})")


@dataclass(frozen=True)
class ContainerPlan:
    """A container: one namespace with one `eth0` on its host's bridge."""

    name: str
    namespace: str
    addresses: tuple[Interface, ...]
    gateways: tuple[Address, ...]


@dataclass(frozen=True)
class HostPlan:
    """A host: `eth0` on the underlay, bridge `br0`, and a veth `cN` for its Nth container."""

    name: str
    namespace: str
    underlay: tuple[Interface, ...]
    bridge: tuple[Interface, ...]
    lease: Lease
    overlay_mtu: int
    subnet_env: str
    """What the host's subnet.env holds once its daemon has the planned lease; empty without a daemon."""
    containers: tuple[ContainerPlan, ...]

    def lease_entry(self) -> dict[str, str]:
        """The host's row in the lease table, as YAML holds it."""
        keys = ("name", "subnet", "ipv6_subnet", "public_ip", "public_ipv6")
        entry = {key: str(value) for key in keys if (value := getattr(self.lease, key))}
        return entry if self.lease.wire == "flannel" else {**entry, "wire": self.lease.wire}


@dataclass(frozen=True)
class EtcdPlan:
    """A member of the lab's etcd: `eth0` on the underlay, and nothing else."""

    name: str
    namespace: str
    underlay: tuple[Interface, ...]


def plan_etcd(spec: LabSpec) -> tuple[EtcdPlan, ...]:
    """The members of the lab's etcd: one is called etcd, several etcd1, etcd2, ...; none with a static table."""
    if spec.registry != "etcd":
        return ()
    names = ["etcd"] if spec.etcd_members == 1 else [f"etcd{number}" for number in range(1, spec.etcd_members + 1)]
    return tuple(
        EtcdPlan(name, spec.namespace(name), _underlay(spec, _ETCD_FIRST + index)) for index, name in enumerate(names)
    )


def configuration(spec: LabSpec) -> dict[str, Any]:
    """What every host's configuration file holds, apart from paths: the lab's own keys, then the spec's settings."""
    own: dict[str, Any] = {"iface": "eth0"}
    if spec.wire != "flannel":
        own["udp"] = {"wire": spec.wire}
    if spec.mode != "none":
        own["mode"] = spec.mode
    if spec.family != "ipv6":
        own["network"] = NETWORK
    if spec.family != "ipv4":
        own["ipv6_network"] = IPV6_NETWORK
    return merged(own, spec.settings)


def merged(base: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `extra` over it; nested mappings are merged as well, everything else is replaced."""
    result = dict(base)
    for key, value in extra.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def plan(spec: LabSpec) -> tuple[HostPlan, ...]:
    """Names and addresses of every host and container. Raises SpecError where the settings do not allow them."""
    settings = settings_of(spec)
    return tuple(_host(spec, settings, number) for number in range(1, spec.hosts + 1))


def settings_of(spec: LabSpec) -> Settings:
    """The spec's settings with overlayd's defaults. Raises SpecError for those that overlayd refuses."""
    settings = validate(_as_text(configuration(spec)), SETTINGS)
    if not isinstance(settings, Settings):
        raise SpecError("settings: " + "; ".join(str(problem) for problem in settings))
    return settings


def _host(spec: LabSpec, settings: Settings, number: int) -> HostPlan:
    name = f"h{number}"
    underlay = _underlay(spec, number)
    ranges = settings.ranges()
    subnets: dict[int, Network] = {}
    for one in ranges:
        if one.count < spec.hosts:
            raise SpecError(f"hosts: {spec.hosts} do not fit: {one.network} has {one.count} subnets; use fewer")
        subnet = one[number - 1]
        if subnet.num_addresses < spec.containers + 3:
            raise SpecError(f"containers: {spec.containers} do not fit into {subnet}; use a shorter subnet_len")
        subnets[one.network.version] = subnet
    public: dict[int, Address] = {address.version: address.ip for address in underlay}
    v4, v6, public4, public6 = subnets.get(4), subnets.get(6), public.get(4), public.get(6)
    lease = Lease(
        subnet=v4 if isinstance(v4, IPv4Network) else None,
        ipv6_subnet=v6 if isinstance(v6, IPv6Network) else None,
        public_ip=public4 if isinstance(public4, IPv4Address) else None,
        public_ipv6=public6 if isinstance(public6, IPv6Address) else None,
        name=name,
        wire=spec.wire,
    )
    size, written = settings.mtu or spec.underlay_mtu, ""
    if spec.mode != "none":
        link = Underlay("eth0", 1, spec.underlay_mtu, underlay, lease.public_ip, lease.public_ipv6)
        node = Node(settings.spec, settings.section, lease, link, ranges, settings.mtu)
        size, written = node.overlay_mtu, subnet_env(node, settings.ip_masq)
    if lease.ipv6_subnet is not None and size < mtu.MINIMUM[6]:
        raise SpecError(f"underlay_mtu: {spec.underlay_mtu} leaves {size} for containers; IPv6 needs {mtu.MINIMUM[6]}")
    return HostPlan(
        name=name,
        namespace=spec.namespace(name),
        underlay=underlay,
        bridge=tuple(_member(subnet, 1) for subnet in lease.subnets),
        lease=lease,
        overlay_mtu=size,
        subnet_env=written,
        containers=tuple(
            ContainerPlan(
                name=f"{name}c{index}",
                namespace=spec.namespace(f"{name}c{index}"),
                addresses=tuple(_member(subnet, index + 1) for subnet in lease.subnets),
                gateways=tuple(_member(subnet, 1).ip for subnet in lease.subnets),
            )
            for index in range(1, spec.containers + 1)
        ),
    )


def _underlay(spec: LabSpec, number: int) -> tuple[Interface, ...]:
    return tuple(ip_interface(UNDERLAY[family].format(number)) for family in stack_families(spec.underlay))


def _member(subnet: Network, offset: int) -> Interface:
    return ip_interface(f"{subnet[offset]}/{subnet.prefixlen}")


def _as_text(raw: Any) -> Any:
    """The values as the YAML file will spell them, which is how the configuration reads them."""
    if isinstance(raw, Mapping):
        return {key: _as_text(value) for key, value in raw.items()}
    if isinstance(raw, list | tuple):
        return [_as_text(value) for value in raw]
    return str(raw).lower() if isinstance(raw, bool) else "" if raw is None else str(raw)
