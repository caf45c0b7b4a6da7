"""The configuration: what may be set, and what holds when nothing is.

1. Sources (flags, environment, YAML) arrive as nested text, with the place each value came from (system/config_file).
2. `Settings` parses each value on its own (core/values); an unknown key is an error.
3. Values are held against each other (core/validation): subnets against the network, leases against one another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Annotated, get_args

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from pydantic.fields import FieldInfo

from overlayd.core.address import Mode
from overlayd.core.leases.lease import Lease, Wire
from overlayd.core.leases.subnets import SubnetRange
from overlayd.core.offload import OFFLOADS
from overlayd.core.settings import values
from overlayd.core.settings.defaults import CONTROL_SOCKET, SUBNET_FILE
from overlayd.wire.mac import parse_mac

Port = Annotated[int, values.integer(1, 65535)]
Flag = Annotated[bool, values.parser(values.boolean)]
Name = Annotated[str, values.parser(values.file_name)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class UdpSettings(_Section):
    """udp mode."""

    port: Port = Field(8285, description="UDP port, here and on every peer")
    engine: Annotated[str, values.choice("auto", "native", "python")] = Field(
        "auto", description="the packet engine: native (fast), python (readable), or auto: the fastest there is"
    )
    busy_poll_us: Annotated[int, values.integer(0, 1000)] = Field(
        0, description="native engine: look for more for so long before sleeping; quicker answers, busier processors"
    )
    wire: Annotated[Wire, values.choice(*get_args(Wire))] = Field(
        "flannel",
        description="what this host's lease in etcd announces: flannel's format alone, or overlayd's ways, too",
    )
    without_offloads: Annotated[tuple[str, ...] | None, values.words(*OFFLOADS)] = Field(
        None, description=f"native engine: leave these out ({', '.join(OFFLOADS)}), commas between"
    )


class VxlanSettings(_Section):
    """vxlan mode."""

    vni: Annotated[int, values.integer(1, 2**24 - 1)] = Field(1, description="VXLAN network identifier")
    port: Port = Field(
        8472, description="UDP port, here and on every peer (IANA's is 4789; 8472 is Linux's and flannel's)"
    )
    learning: Flag = Field(False, description="let the device learn MACs from traffic")
    gbp: Flag = Field(False, description="carry group-based policy marks")
    direct_routing: Flag = Field(False, description="plain routes, as host-gw does, to peers on the same link")


class ProbeSettings(_Section):
    """Probes between overlayd nodes."""

    port: Annotated[int, values.integer(0, 65535)] = Field(
        8286, description="UDP port of the probes between overlayd hosts, the same on all in a static table; 0 is none"
    )
    interval: Annotated[values.Duration, values.duration(1, 3600)] = Field(
        values.Duration(10), description="how often each peer is probed; less often where there are thousands"
    )


class EtcdSettings(_Section):
    """The etcd registry."""

    endpoints: Annotated[str, values.urls()] = Field(
        "http://127.0.0.1:2379", description="URLs of etcd's members, with commas between"
    )
    prefix: Annotated[str, values.parser(values.etcd_prefix)] = Field(
        "/coreos.com/network", description="where the network's keys begin"
    )
    cafile: Annotated[str | None, values.parser(values.file_name)] = Field(
        None, description="certificate authority that etcd's certificate is held against"
    )
    certfile: Annotated[str | None, values.parser(values.file_name)] = Field(
        None, description="this client's certificate (without a common name: etcd's gateway refuses those)"
    )
    keyfile: Annotated[str | None, values.parser(values.file_name)] = Field(None, description="its private key")
    username: Annotated[str | None, values.parser(values.user_name)] = Field(None, description="etcd user")
    password: Annotated[SecretStr | None, values.parser(SecretStr)] = Field(
        None, description="its password (a flag shows in `ps`: prefer the file or the environment)"
    )

    @property
    def urls(self) -> tuple[str, ...]:
        """The endpoints one by one."""
        return tuple(self.endpoints.split(","))


class LeaseEntry(_Section):
    """One row of the static lease table."""

    subnet: Annotated[IPv4Network | None, values.network(4)] = None
    ipv6_subnet: Annotated[IPv6Network | None, values.network(6)] = None
    public_ip: Annotated[IPv4Address | None, values.public(4)] = None
    public_ipv6: Annotated[IPv6Address | None, values.public(6)] = None
    vtep_mac: Annotated[str | None, values.parser(parse_mac)] = None
    name: Annotated[str, values.parser(values.host_name)] = ""
    wire: Annotated[Wire, values.choice(*get_args(Wire))] = "flannel"

    def lease(self, probe_port: int | None = None) -> Lease:
        """The row as a lease; the row has a subnet (cross_check)."""
        return Lease(
            subnet=self.subnet,
            ipv6_subnet=self.ipv6_subnet,
            public_ip=self.public_ip,
            public_ipv6=self.public_ipv6,
            written_mac=self.vtep_mac,
            name=self.name,
            wire=self.wire,
            probe_port=probe_port,
        )


class Settings(_Section):
    """Everything that can be set; the description of each is its help in every place where it can be given."""

    mode: Annotated[Mode, values.choice(*get_args(Mode))] = Field(
        "vxlan", description="how packets travel: udp (user space), vxlan (kernel) or host-gw (no overlay)"
    )

    network: Annotated[IPv4Network | None, values.network(4)] = Field(
        None, description="the IPv4 network that is divided into one subnet for each host"
    )
    subnet_len: Annotated[int | None, values.integer(1, 30)] = Field(
        None, description="prefix length of each host's subnet (default: 24, or network + 2)"
    )
    subnet_min: Annotated[IPv4Address | None, values.address(4)] = Field(
        None, description="lowest subnet to lease (default: the second)"
    )
    subnet_max: Annotated[IPv4Address | None, values.address(4)] = Field(
        None, description="highest subnet to lease (default: the last)"
    )
    ipv6_network: Annotated[IPv6Network | None, values.network(6)] = Field(None, description="likewise for IPv6")
    ipv6_subnet_len: Annotated[int | None, values.integer(1, 126)] = Field(
        None, description="likewise for IPv6 (default: 64, or network + 2)"
    )
    ipv6_subnet_min: Annotated[IPv6Address | None, values.address(6)] = Field(None, description="likewise for IPv6")
    ipv6_subnet_max: Annotated[IPv6Address | None, values.address(6)] = Field(None, description="likewise for IPv6")

    node_name: Annotated[str | None, values.parser(values.host_name)] = Field(
        None, description="what other hosts call this one, with the etcd registry (default: its host name)"
    )
    iface: Annotated[str | None, values.parser(values.interface_name)] = Field(
        None, description="underlay interface, by name or by one of its addresses"
    )
    iface_regex: Annotated[str | None, values.parser(values.regex)] = Field(
        None, description="the first interface whose name or address matches this regular expression"
    )
    iface_can_reach: Annotated[str | None, values.parser(values.interface_name)] = Field(
        None, description="the interface that the kernel routes this address through"
    )
    public_ip: Annotated[IPv4Address | None, values.public(4)] = Field(
        None, description="IPv4 address that peers send to (default: the interface's)"
    )
    public_ipv6: Annotated[IPv6Address | None, values.public(6)] = Field(None, description="likewise for IPv6")
    mtu: Annotated[int | None, values.parser(values.mtu_bytes)] = Field(
        None, description="MTU of the overlay in bytes (default: the underlay's less the overhead)"
    )

    registry: Annotated[str, values.choice("static", "etcd")] = Field("static", description="where leases come from")
    leases: tuple[LeaseEntry, ...] = Field((), description="the static lease table")
    leases_file: Annotated[str | None, values.parser(values.file_name)] = Field(
        None, description="a YAML file that holds `leases:`, relative to the configuration file"
    )

    etcd: EtcdSettings = EtcdSettings()
    subnet_lease_ttl: Annotated[values.Duration, values.duration(5, 30 * 86400)] = Field(
        values.Duration(86400), description="how long a lease in etcd lives without its host"
    )
    subnet_lease_renew_margin: Annotated[values.Duration, values.duration(1, 30 * 86400)] = Field(
        values.Duration(3600), description="how long before its end a lease is renewed"
    )
    state_dir: Name = Field(
        "/var/lib/overlayd", description="where the node's identity and the last known leases are kept"
    )

    udp: UdpSettings = UdpSettings()
    vxlan: VxlanSettings = VxlanSettings()
    probe: ProbeSettings = ProbeSettings()

    ip_forward: Annotated[str, values.choice("set", "check")] = Field(
        "set", description="turn on the kernel's forwarding, or only check that it is on"
    )
    ip_masq: Flag = Field(False, description="masquerade what containers send beyond the network")
    forward_rules: Flag = Field(
        True, description="accept the overlay's packets where another firewall's forward policy is drop"
    )

    subnet_file: Name = Field(SUBNET_FILE, description="where the lease is written in flannel's format")
    control_socket: Name = Field(CONTROL_SOCKET, description="unix socket that overlayctl asks")
    healthz_ip: Annotated[str, values.parser(values.interface_name)] = Field(
        "0.0.0.0", description="address of the health checks and metrics"
    )
    healthz_port: Annotated[int, values.integer(0, 65535)] = Field(
        0, description="port of /healthz, /readyz and /metrics; 0 is none"
    )
    metrics_peers: Annotated[int, values.integer(0, 100_000)] = Field(
        500, description="up to so many peers have metrics of their own; where there are more, only sums are given"
    )
    log_format: Annotated[str, values.choice("text", "json")] = Field("text", description="text (key=value) or json")
    log_level: Annotated[str, values.choice("debug", "info", "warning", "error")] = Field(
        "info", description="least severe shown"
    )

    def ranges(self) -> tuple[SubnetRange, ...]:
        """The network of each family that is set. Raises SubnetRuleError (none after validation)."""
        return tuple(make(self) for _, make in RANGES if make(self) is not None)  # type: ignore[misc]


def _range_v4(settings: Settings) -> SubnetRange | None:
    if settings.network is None:
        return None
    return SubnetRange.of(settings.network, settings.subnet_len, settings.subnet_min, settings.subnet_max)


def _range_v6(settings: Settings) -> SubnetRange | None:
    if settings.ipv6_network is None:
        return None
    return SubnetRange.of(
        settings.ipv6_network, settings.ipv6_subnet_len, settings.ipv6_subnet_min, settings.ipv6_subnet_max
    )


RANGES: tuple[tuple[str, Callable[[Settings], SubnetRange | None]], ...] = (("", _range_v4), ("ipv6_", _range_v6))


@dataclass(frozen=True, slots=True)
class Option:
    """One setting that takes a single value: as a flag, in the environment and in YAML."""

    path: tuple[str, ...]
    description: str
    default: object
    boolean: bool

    @property
    def flag(self) -> str:
        """--vxlan-port"""
        return "--" + "-".join(self.path).replace("_", "-")

    @property
    def variable(self) -> str:
        """OVERLAYD_VXLAN_PORT"""
        return "OVERLAYD_" + "_".join(self.path).upper()


def options() -> Iterator[Option]:
    """Every setting but the lease table, in the order in which `Settings` declares them."""

    def walk(model: type[BaseModel], prefix: tuple[str, ...]) -> Iterator[Option]:
        for key, info in model.model_fields.items():
            if isinstance(info.default, BaseModel):
                yield from walk(type(info.default), (*prefix, key))
            elif key != "leases":
                yield Option((*prefix, key), info.description or "", info.default, _is_flag(info))

    return walk(Settings, ())


def _is_flag(info: FieldInfo) -> bool:
    return info.annotation is bool
