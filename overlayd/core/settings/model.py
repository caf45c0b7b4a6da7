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
from typing import Any, ClassVar, get_args

from overlayd.core.leases.lease import Lease, Wire
from overlayd.core.leases.subnets import SubnetRange
from overlayd.core.mode import ModeSpec
from overlayd.core.settings import etcd_values, values
from overlayd.core.settings.defaults import CONTROL_SOCKET, SUBNET_FILE
from overlayd.core.settings.section import Section, rows, setting
from overlayd.wire.mac import parse_mac


class ProbeSettings(Section):
    """Health probes between overlayd hosts."""

    port: int = setting(
        8286,
        values.integer(0, 65535),
        "UDP port of the health probes between overlayd hosts (flannel nodes are never probed);"
        " the same on all hosts of a static table; 0 disables",
    )
    interval: values.Duration = setting(
        values.Duration(10),
        values.duration(1, 3600),
        "how often each peer is probed; less often with thousands of peers",
    )


class EtcdSettings(Section):
    """The etcd registry."""

    endpoints: str = setting("http://127.0.0.1:2379", etcd_values.urls, "URLs of etcd's members, separated by commas")
    prefix: str = setting("/coreos.com/network", values.parser(etcd_values.etcd_prefix), "prefix of the network's keys")
    cafile: str | None = setting(None, values.path, "certificate authority to verify etcd's certificate with")
    certfile: str | None = setting(
        None,
        values.path,
        "this client's certificate (without a common name: etcd's gateway refuses those that have one)",
    )
    keyfile: str | None = setting(None, values.path, "private key of certfile")
    username: str | None = setting(None, values.parser(etcd_values.user_name), "etcd user")
    password: values.Secret | None = setting(
        None,
        values.parser(values.Secret),
        "password of the etcd user (a flag shows in `ps`: prefer the file or the environment)",
    )

    @property
    def urls(self) -> tuple[str, ...]:
        """The endpoints as a list; those without a scheme are https where a certificate is set, http elsewhere."""
        scheme = "https" if self.cafile or self.certfile else "http"
        return tuple(one if "://" in one else f"{scheme}://{one}" for one in self.endpoints.split(","))


class LeaseEntry(Section):
    """One row of the static lease table."""

    subnet: IPv4Network | None = setting(None, values.network(4))
    ipv6_subnet: IPv6Network | None = setting(None, values.network(6))
    public_ip: IPv4Address | None = setting(None, values.public(4))
    public_ipv6: IPv6Address | None = setting(None, values.public(6))
    vtep_mac: str | None = setting(None, values.parser(parse_mac))
    name: str = setting("", values.parser(values.host_name))
    wire: Wire = setting("flannel", values.choice(*get_args(Wire)))
    public_key: str | None = setting(None, values.parser(values.key))

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
            public_key=self.public_key,
            probe_port=probe_port,
        )


class Settings(Section):
    """Everything that can be set. The description of each setting is its help text."""

    modes: ClassVar[Mapping[str, ModeSpec[Any]]] = {}
    """By name, those that `mode` may choose."""

    mode: str = setting("", values.parser(str))

    network: IPv4Network | None = setting(
        None, values.network(4), "the IPv4 network that is divided into one subnet for each host"
    )
    subnet_len: int | None = setting(
        None, values.integer(1, 30), "prefix length of each host's subnet (default: 24, or network + 2)"
    )
    subnet_min: IPv4Address | None = setting(None, values.address(4), "lowest subnet to lease (default: the second)")
    subnet_max: IPv4Address | None = setting(None, values.address(4), "highest subnet to lease (default: the last)")
    ipv6_network: IPv6Network | None = setting(
        None, values.network(6), "the IPv6 network that is divided into one subnet for each host"
    )
    ipv6_subnet_len: int | None = setting(
        None, values.integer(1, 126), "prefix length of each host's IPv6 subnet (default: 64, or network + 2)"
    )
    ipv6_subnet_min: IPv6Address | None = setting(
        None, values.address(6), "lowest IPv6 subnet to lease (default: the second)"
    )
    ipv6_subnet_max: IPv6Address | None = setting(
        None, values.address(6), "highest IPv6 subnet to lease (default: the last)"
    )

    node_name: str | None = setting(
        None, values.parser(values.host_name), "name of this host in the etcd registry (default: its host name)"
    )
    iface: str | None = setting(
        None, values.parser(values.interface_name), "underlay interface, by name or by one of its addresses"
    )
    iface_regex: str | None = setting(
        None, values.parser(values.regex), "the first interface whose name or address matches this regular expression"
    )
    iface_can_reach: str | None = setting(
        None, values.parser(values.interface_name), "the interface that the kernel routes this address through"
    )
    public_ip: IPv4Address | None = setting(
        None, values.public(4), "IPv4 address that peers send to (default: the interface's)"
    )
    public_ipv6: IPv6Address | None = setting(
        None, values.public(6), "IPv6 address that peers send to (default: the interface's)"
    )
    mtu: int | None = setting(
        None,
        values.parser(values.mtu_bytes),
        "MTU of the overlay in bytes (default: the underlay's minus the overhead)",
    )

    registry: str = setting("static", values.choice("static", "etcd"), "where leases come from")
    leases: tuple[LeaseEntry, ...] = setting((), rows(LeaseEntry.parse), "the static lease table")
    leases_file: str | None = setting(
        None, values.path, "a YAML file with `leases:` in it, relative to the configuration file"
    )

    etcd: EtcdSettings = setting(EtcdSettings(), EtcdSettings.parse)
    subnet_lease_ttl: values.Duration = setting(
        values.Duration(86400), values.duration(5, 30 * 86400), "how long a lease in etcd outlives its host"
    )
    subnet_lease_renew_margin: values.Duration = setting(
        values.Duration(3600), values.duration(1, 30 * 86400), "how long before its expiry a lease is renewed"
    )
    state_dir: str = setting(
        "/var/lib/overlayd",
        values.path,
        "directory of the node's identity, the last known leases and the attached containers",
    )

    probe: ProbeSettings = setting(ProbeSettings(), ProbeSettings.parse)

    ip_forward: str = setting(
        "set", values.choice("set", "check"), "turn on the kernel's forwarding, or only check that it is on"
    )
    ip_masq: bool = setting(False, values.flag, "masquerade what containers send to destinations outside the network")
    forward_rules: bool = setting(
        True, values.flag, "accept the overlay's packets where another firewall's forward policy is drop"
    )

    subnet_file: str = setting(SUBNET_FILE, values.path, "file that the lease is written to, in flannel's format")
    control_socket: str = setting(CONTROL_SOCKET, values.path, "unix socket of the control API, which overlayctl uses")
    healthz_ip: str = setting(
        "0.0.0.0", values.parser(values.interface_name), "address of the health checks and metrics"
    )
    healthz_port: int = setting(0, values.integer(0, 65535), "port of /healthz, /readyz and /metrics; 0 disables")
    metrics_peers: int = setting(
        500,
        values.integer(0, 100_000),
        "the most peers that get metrics of their own; with more, only sums are exported",
    )
    log_format: str = setting("text", values.choice("text", "json"), "text (key=value) or json")
    log_level: str = setting("info", values.choice("debug", "info", "warning", "error"), "least severe level to log")

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
    names = values.choice(*(mode.name for mode in modes))
    declared: dict[str, Any] = {
        "modes": MappingProxyType({mode.name: mode for mode in modes}),
        "mode": setting(default, names, f"how packets travel: {listed}"),
        **{mode.key: setting(mode.section(), mode.section.parse) for mode in modes if mode.section is not None},
    }
    return type("Settings", (Settings,), declared)


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
