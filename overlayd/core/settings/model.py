"""The configuration: what may be set, and what holds when nothing is.

1. Sources (flags, environment, YAML) arrive as nested text, with the place each value came from (system/config_file).
2. `Settings` parses each value on its own (core/settings/values); an unknown key is an error.
3. Values are checked against each other (core/settings/validation): subnets against the network, leases against one
   another.

`Settings` here has no modes; `settings_model` adds them, with the section of each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, get_args

from pydantic import Field, SecretStr, create_model

from overlayd.core.leases.lease import Lease, Wire
from overlayd.core.leases.subnets import SubnetRange
from overlayd.core.mode import ModeSpec
from overlayd.core.settings import etcd_values, values
from overlayd.core.settings.defaults import CONTROL_SOCKET, SUBNET_FILE
from overlayd.core.settings.section import FileName, Flag, Section
from overlayd.wire.mac import parse_mac


class ProbeSettings(Section):
    """Health probes between overlayd hosts."""

    port: Annotated[int, values.integer(0, 65535)] = Field(
        8286,
        description="UDP port of the health probes between overlayd hosts (flannel nodes are never probed);"
        " the same on all hosts of a static table; 0 disables",
    )
    interval: Annotated[values.Duration, values.duration(1, 3600)] = Field(
        values.Duration(10), description="how often each peer is probed; less often with thousands of peers"
    )


class EtcdSettings(Section):
    """The etcd registry."""

    endpoints: Annotated[str, etcd_values.urls()] = Field(
        "http://127.0.0.1:2379", description="URLs of etcd's members, separated by commas"
    )
    prefix: Annotated[str, values.parser(etcd_values.etcd_prefix)] = Field(
        "/coreos.com/network", description="prefix of the network's keys"
    )
    cafile: FileName | None = Field(None, description="certificate authority to verify etcd's certificate with")
    certfile: FileName | None = Field(
        None,
        description="this client's certificate (without a common name: etcd's gateway refuses those that have one)",
    )
    keyfile: FileName | None = Field(None, description="private key of certfile")
    username: Annotated[str | None, values.parser(etcd_values.user_name)] = Field(None, description="etcd user")
    password: Annotated[SecretStr | None, values.parser(SecretStr)] = Field(
        None, description="password of the etcd user (a flag shows in `ps`: prefer the file or the environment)"
    )

    @property
    def urls(self) -> tuple[str, ...]:
        """The endpoints as a list; those without a scheme are https where a certificate is set, http elsewhere."""
        scheme = "https" if self.cafile or self.certfile else "http"
        return tuple(one if "://" in one else f"{scheme}://{one}" for one in self.endpoints.split(","))


class LeaseEntry(Section):
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


class Settings(Section):
    """Everything that can be set. The description of each setting is its help text."""

    modes: ClassVar[Mapping[str, ModeSpec[Any]]] = {}
    """By name, those that `mode` may choose."""

    mode: str = ""

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
    ipv6_network: Annotated[IPv6Network | None, values.network(6)] = Field(
        None, description="the IPv6 network that is divided into one subnet for each host"
    )
    ipv6_subnet_len: Annotated[int | None, values.integer(1, 126)] = Field(
        None, description="prefix length of each host's IPv6 subnet (default: 64, or network + 2)"
    )
    ipv6_subnet_min: Annotated[IPv6Address | None, values.address(6)] = Field(
        None, description="lowest IPv6 subnet to lease (default: the second)"
    )
    ipv6_subnet_max: Annotated[IPv6Address | None, values.address(6)] = Field(
        None, description="highest IPv6 subnet to lease (default: the last)"
    )

    node_name: Annotated[str | None, values.parser(values.host_name)] = Field(
        None, description="name of this host in the etcd registry (default: its host name)"
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
    public_ipv6: Annotated[IPv6Address | None, values.public(6)] = Field(
        None, description="IPv6 address that peers send to (default: the interface's)"
    )
    mtu: Annotated[int | None, values.parser(values.mtu_bytes)] = Field(
        None, description="MTU of the overlay in bytes (default: the underlay's minus the overhead)"
    )

    registry: Annotated[str, values.choice("static", "etcd")] = Field("static", description="where leases come from")
    leases: tuple[LeaseEntry, ...] = Field((), description="the static lease table")
    leases_file: FileName | None = Field(
        None, description="a YAML file with `leases:` in it, relative to the configuration file"
    )

    etcd: EtcdSettings = EtcdSettings()
    subnet_lease_ttl: Annotated[values.Duration, values.duration(5, 30 * 86400)] = Field(
        values.Duration(86400), description="how long a lease in etcd outlives its host"
    )
    subnet_lease_renew_margin: Annotated[values.Duration, values.duration(1, 30 * 86400)] = Field(
        values.Duration(3600), description="how long before its expiry a lease is renewed"
    )
    state_dir: FileName = Field(
        "/var/lib/overlayd", description="directory of the node's identity and the last known leases"
    )

    probe: ProbeSettings = ProbeSettings()

    ip_forward: Annotated[str, values.choice("set", "check")] = Field(
        "set", description="turn on the kernel's forwarding, or only check that it is on"
    )
    ip_masq: Flag = Field(False, description="masquerade what containers send to destinations outside the network")
    forward_rules: Flag = Field(
        True, description="accept the overlay's packets where another firewall's forward policy is drop"
    )

    subnet_file: FileName = Field(SUBNET_FILE, description="file that the lease is written to, in flannel's format")
    control_socket: FileName = Field(
        CONTROL_SOCKET, description="unix socket of the control API, which overlayctl uses"
    )
    healthz_ip: Annotated[str, values.parser(values.interface_name)] = Field(
        "0.0.0.0", description="address of the health checks and metrics"
    )
    healthz_port: Annotated[int, values.integer(0, 65535)] = Field(
        0, description="port of /healthz, /readyz and /metrics; 0 disables"
    )
    metrics_peers: Annotated[int, values.integer(0, 100_000)] = Field(
        500, description="the most peers that get metrics of their own; with more, only sums are exported"
    )
    log_format: Annotated[str, values.choice("text", "json")] = Field("text", description="text (key=value) or json")
    log_level: Annotated[str, values.choice("debug", "info", "warning", "error")] = Field(
        "info", description="least severe level to log"
    )

    @property
    def spec(self) -> ModeSpec[Any]:
        """The mode in use."""
        return self.modes[self.mode]

    @property
    def section(self) -> Section | None:
        """The settings of the mode in use; None where it has none."""
        return self.section_of(self.spec)

    def section_of(self, mode: ModeSpec[Any]) -> Section | None:
        """The settings of a mode; None where it has none."""
        return getattr(self, mode.key) if mode.section is not None else None

    def ranges(self) -> tuple[SubnetRange, ...]:
        """The network of each family that is set. Raises SubnetRuleError (none after validation)."""
        return tuple(make(self) for _, make in RANGES if make(self) is not None)  # type: ignore[misc]


def settings_model(modes: Sequence[ModeSpec[Any]], default: str) -> type[Settings]:
    """The configuration with these modes to choose from, each with its section."""
    summaries = [f"{mode.name} ({mode.summary})" for mode in modes]
    listed = f"{', '.join(summaries[:-1])} or {summaries[-1]}"
    fields: dict[str, Any] = {mode.key: (mode.section, mode.section()) for mode in modes if mode.section is not None}
    choice = Annotated[str, values.choice(*(mode.name for mode in modes))]
    fields["mode"] = (choice, Field(default, description=f"how packets travel: {listed}"))
    model = create_model("Settings", __base__=Settings, **fields)
    model.modes = MappingProxyType({mode.name: mode for mode in modes})
    return model


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
