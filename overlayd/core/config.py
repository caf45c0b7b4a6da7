"""The configuration: what may be set, its defaults, and strict validation before anything on the host is touched.

 1. Sources (flags, environment, YAML) arrive as nested text, with the place each value came from.
 2. `Settings` parses each value on its own; an unknown key is an error.
 3. `cross_check` holds values against each other: subnets against the network, leases against one another.
Every mistake found becomes one `Problem`: place, value and remedy.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from overlayd.core import mtu
from overlayd.core.address import Address, Mode, Network, overlap
from overlayd.core.lease import Lease
from overlayd.core.subnets import SubnetRange, SubnetRuleError
from overlayd.wire.mac import parse_mac

Path = tuple[str | int, ...]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in the configuration."""

    path: Path
    """Keys and list indexes from the root: ("leases", 2, "subnet")."""
    value: str
    """The value seen, as it was written; empty where the matter is a missing one."""
    text: str
    """What is wrong, and what to do."""

    def __str__(self) -> str:
        return f"{dotted(self.path)}: {f'{self.value} ' if self.value else ''}{self.text}"


def dotted(path: Path) -> str:
    """("leases", 2, "subnet") as people write it: leases[2].subnet."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


# --- 1. one parser for each kind of value: text in, value out, ValueError with the remedy ----------------------------


def _parser(parse: Callable[[str], T]) -> BeforeValidator:
    def accept(value: object) -> object:
        if isinstance(value, str):
            return parse(value.strip())
        if isinstance(value, Mapping | list):
            raise ValueError("takes a single value, not a list or a mapping")
        return value  # a default, already of its type

    return BeforeValidator(accept)


def _integer(low: int, high: int) -> BeforeValidator:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[+-]?\d{1,12}", text):
            raise ValueError(f"is no whole number; use {low} to {high}")
        if not low <= int(text) <= high:
            raise ValueError(f"is out of range; use {low} to {high}")
        return int(text)

    return _parser(parse)


def _boolean(text: str) -> bool:
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    if text.lower() not in words:
        raise ValueError("is neither true nor false")
    return words[text.lower()]


def _choice(*words: str) -> BeforeValidator:
    def parse(text: str) -> str:
        if text in words:
            return text
        close = difflib.get_close_matches(text, words, 1)
        raise ValueError(f"is not one of {', '.join(words)}" + (f"; did you mean {close[0]}?" if close else ""))

    return _parser(parse)


def _network(version: int) -> BeforeValidator:
    def parse(text: str) -> Network:
        example = "10.1.0.0/16" if version == 4 else "fd00:10:1::/48"
        try:
            network = ip_network(text, strict=False)
        except ValueError:
            raise ValueError(f"is no IPv{version} network; write it like {example}") from None
        if "/" not in text:
            raise ValueError(f"has no prefix length; write it like {example}")
        if network.version != version:
            raise ValueError(f"is an IPv{network.version} network where an IPv{version} one belongs")
        if text.split("/")[0] != str(network[0]) and ip_network(text.split("/")[0]) != ip_network(network[0]):
            raise ValueError(f"has host bits set; did you mean {network}?")
        if network.is_multicast or network.is_loopback or network.is_link_local:
            raise ValueError("is multicast, loopback or link-local; an overlay needs private or global addresses")
        return network

    return _parser(parse)


def _address(version: int) -> BeforeValidator:
    kind = IPv4Address if version == 4 else IPv6Address

    def parse(text: str) -> Address:
        try:
            return kind(text)
        except ValueError:
            raise ValueError(f"is no IPv{version} address") from None

    return _parser(parse)


def _public(version: int) -> BeforeValidator:
    kind = IPv4Address if version == 4 else IPv6Address

    def parse(text: str) -> Address:
        try:
            address = kind(text)
        except ValueError:
            other = "public_ipv6" if version == 4 else "public_ip"
            raise ValueError(f"is no IPv{version} address (for the other family there is {other})") from None
        if address.is_multicast or address.is_unspecified or address.is_loopback or address.is_link_local:
            raise ValueError("is not an address that other hosts can send to")
        if isinstance(address, IPv6Address) and address.ipv4_mapped:
            raise ValueError(f"is an IPv4 address in IPv6 clothes; write public_ip: {address.ipv4_mapped}")
        return address

    return _parser(parse)


def _mtu(text: str) -> int:
    if not text.isdigit() or not mtu.MINIMUM[4] <= int(text) <= mtu.MAXIMUM:
        raise ValueError(f"is no MTU; leave it out to have it computed, or use {mtu.MINIMUM[4]} to {mtu.MAXIMUM}")
    return int(text)


def _regex(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from None
    return text


def _interface_name(text: str) -> str:
    if len(text) > 45 or re.search(r"[\s/]", text):
        raise ValueError("is neither an interface name nor an address")
    return text


def _file(text: str) -> str:
    if "\0" in text:
        raise ValueError("is no file name")
    return text


Port = Annotated[int, _integer(1, 65535)]
Flag = Annotated[bool, _parser(_boolean)]
Name = Annotated[str, _parser(_file)]


# --- 2. what may be set ----------------------------------------------------------------------------------------------


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class UdpSettings(_Section):
    """udp mode."""

    port: Port = Field(8285, description="UDP port, here and on every peer")
    engine: Annotated[str, _choice("auto", "python")] = Field(
        "auto", description="the packet engine: auto takes the fastest there is"
    )


class VxlanSettings(_Section):
    """vxlan mode."""

    vni: Annotated[int, _integer(1, 2**24 - 1)] = Field(1, description="VXLAN network identifier")
    port: Port = Field(
        8472, description="UDP port, here and on every peer (IANA's is 4789; 8472 is Linux's and flannel's)"
    )
    learning: Flag = Field(False, description="let the device learn MACs from traffic")
    gbp: Flag = Field(False, description="carry group-based policy marks")
    direct_routing: Flag = Field(False, description="plain routes, as host-gw does, to peers on the same link")


class LeaseEntry(_Section):
    """One row of the static lease table."""

    subnet: Annotated[IPv4Network | None, _network(4)] = None
    ipv6_subnet: Annotated[IPv6Network | None, _network(6)] = None
    public_ip: Annotated[IPv4Address | None, _public(4)] = None
    public_ipv6: Annotated[IPv6Address | None, _public(6)] = None
    vtep_mac: Annotated[str | None, _parser(parse_mac)] = None
    name: Name = ""

    def lease(self) -> Lease:
        """The row as a lease; the row has a subnet (cross_check)."""
        return Lease(
            subnet=self.subnet,
            ipv6_subnet=self.ipv6_subnet,
            public_ip=self.public_ip,
            public_ipv6=self.public_ipv6,
            written_mac=self.vtep_mac,
            name=self.name,
        )


class Settings(_Section):
    """Everything that can be set; the description of each is its help in every place where it can be given."""

    mode: Annotated[Mode, _choice(*get_args(Mode))] = Field(
        "vxlan", description="how packets travel: udp (user space), vxlan (kernel) or host-gw (no overlay)"
    )

    network: Annotated[IPv4Network | None, _network(4)] = Field(
        None, description="the IPv4 network that is divided into one subnet for each host"
    )
    subnet_len: Annotated[int | None, _integer(1, 30)] = Field(
        None, description="prefix length of each host's subnet (default: 24, or network + 2)"
    )
    subnet_min: Annotated[IPv4Address | None, _address(4)] = Field(
        None, description="lowest subnet to lease (default: the second)"
    )
    subnet_max: Annotated[IPv4Address | None, _address(4)] = Field(
        None, description="highest subnet to lease (default: the last)"
    )
    ipv6_network: Annotated[IPv6Network | None, _network(6)] = Field(None, description="likewise for IPv6")
    ipv6_subnet_len: Annotated[int | None, _integer(1, 126)] = Field(
        None, description="likewise for IPv6 (default: 64, or network + 2)"
    )
    ipv6_subnet_min: Annotated[IPv6Address | None, _address(6)] = Field(None, description="likewise for IPv6")
    ipv6_subnet_max: Annotated[IPv6Address | None, _address(6)] = Field(None, description="likewise for IPv6")

    iface: Annotated[str | None, _parser(_interface_name)] = Field(
        None, description="underlay interface, by name or by one of its addresses"
    )
    iface_regex: Annotated[str | None, _parser(_regex)] = Field(
        None, description="the first interface whose name or address matches this regular expression"
    )
    iface_can_reach: Annotated[str | None, _parser(_interface_name)] = Field(
        None, description="the interface that the kernel routes this address through"
    )
    public_ip: Annotated[IPv4Address | None, _public(4)] = Field(
        None, description="IPv4 address that peers send to (default: the interface's)"
    )
    public_ipv6: Annotated[IPv6Address | None, _public(6)] = Field(None, description="likewise for IPv6")
    mtu: Annotated[int | None, _parser(_mtu)] = Field(
        None, description="MTU of the overlay in bytes (default: the underlay's less the overhead)"
    )

    registry: Annotated[str, _choice("static")] = Field("static", description="where leases come from")
    leases: tuple[LeaseEntry, ...] = Field((), description="the static lease table")
    leases_file: Annotated[str | None, _parser(_file)] = Field(
        None, description="a YAML file that holds `leases:`, relative to the configuration file"
    )

    udp: UdpSettings = UdpSettings()
    vxlan: VxlanSettings = VxlanSettings()

    ip_forward: Annotated[str, _choice("set", "check")] = Field(
        "set", description="turn on the kernel's forwarding, or only check that it is on"
    )
    ip_masq: Flag = Field(False, description="masquerade what containers send beyond the network")
    forward_rules: Flag = Field(
        True, description="accept the overlay's packets where another firewall's forward policy is drop"
    )

    subnet_file: Name = Field("/run/flannel/subnet.env", description="where the lease is written in flannel's format")
    control_socket: Name = Field("/run/overlayd/overlayd.sock", description="unix socket that overlayctl asks")
    healthz_ip: Annotated[str, _parser(_interface_name)] = Field("0.0.0.0", description="address of the health check")
    healthz_port: Annotated[int, _integer(0, 65535)] = Field(0, description="port of the health check; 0 is none")
    log_format: Annotated[str, _choice("text", "json")] = Field("text", description="text (key=value) or json")
    log_level: Annotated[str, _choice("debug", "info", "warning", "error")] = Field(
        "info", description="least severe shown"
    )

    def ranges(self) -> tuple[SubnetRange, ...]:
        """The network of each family that is set. Raises SubnetRuleError (none after validation)."""
        return tuple(make(self) for _, make in _RANGES if make(self) is not None)  # type: ignore[misc]


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


_RANGES: tuple[tuple[str, Callable[[Settings], SubnetRange | None]], ...] = (("", _range_v4), ("ipv6_", _range_v6))


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


# --- 3. validation ---------------------------------------------------------------------------------------------------


def without_empty(raw: Any) -> Any:
    """The raw mapping without keys whose value is empty or null: `subnet_min:` means that nothing is set."""
    if isinstance(raw, Mapping):
        return {key: without_empty(value) for key, value in raw.items() if value not in ("", None, "null", "~")}
    if isinstance(raw, list):
        return [without_empty(value) for value in raw]
    return raw


def validate(raw: Mapping[str, Any]) -> Settings | list[Problem]:
    """The settings that the raw nested text describes, or every mistake in it; never both, never an exception."""
    if isinstance(raw.get("leases", []), str):
        return [Problem(("leases",), str(raw["leases"]), "is no list; write one `- subnet: ...` for each host")]
    try:
        settings = Settings.model_validate(without_empty(raw))
    except ValidationError as error:
        return [_problem(detail) for detail in error.errors(include_url=False)]
    return cross_check(settings) or settings


def _problem(detail: Any) -> Problem:
    path: Path = tuple(detail["loc"])
    if detail["type"] == "extra_forbidden":
        model: type[BaseModel] = Settings
        for part in path[:-1]:
            if part == "leases":
                model = LeaseEntry
            elif isinstance(part, str):
                model = type(model.model_fields[part].default)
        close = difflib.get_close_matches(str(path[-1]), model.model_fields, 1)
        hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(model.model_fields)}"
        return Problem(path, "", f"unknown key; {hint}")
    value = detail["input"] if isinstance(detail["input"], str) else ""
    if detail["type"] == "value_error":
        return Problem(path, value, str(detail["ctx"]["error"]))
    if detail["type"] in ("model_type", "model_attributes_type"):
        return Problem(path, value, "is no mapping; write `key: value` lines below it")
    if detail["type"] == "tuple_type":
        return Problem(path, value, "is no list; write one `- subnet: ...` for each host")
    return Problem(path, value, detail["msg"])


def cross_check(settings: Settings) -> list[Problem]:
    """What is wrong between values that are each right on their own."""
    problems: list[Problem] = []
    ranges: dict[int, SubnetRange] = {}
    for prefix, make in _RANGES:
        try:
            found = make(settings)
        except SubnetRuleError as error:
            key = prefix + error.field
            value = getattr(settings, key)
            problems.append(Problem((key,), "" if value is None else str(value), str(error)))
            continue
        if found is not None:
            ranges[found.network.version] = found
    if problems:
        return problems
    if not ranges:
        return [Problem(("network",), "", "nothing is set; give a network such as 10.1.0.0/16 (or an ipv6_network)")]
    for key in ("public_ip", "public_ipv6"):
        problems += _not_in_overlay((key,), getattr(settings, key), ranges)
    if settings.mtu is not None and 6 in ranges and settings.mtu < mtu.MINIMUM[6]:
        problems.append(Problem(("mtu",), str(settings.mtu), f"is too small for IPv6; use {mtu.MINIMUM[6]} or more"))
    return problems + _check_leases(settings, ranges)


def _not_in_overlay(path: Path, public: Address | None, ranges: Mapping[int, SubnetRange]) -> list[Problem]:
    if public is None or public.version not in ranges or public not in ranges[public.version].network:
        return []
    network = ranges[public.version].network
    return [Problem(path, str(public), f"lies inside the overlay's own network {network}; use an underlay address")]


def _check_leases(settings: Settings, ranges: Mapping[int, SubnetRange]) -> list[Problem]:
    problems: list[Problem] = []
    seen: dict[tuple[str, object], int] = {}
    ordered: dict[int, list[tuple[int, int, int, str, Network]]] = {4: [], 6: []}
    for index, entry in enumerate(settings.leases):
        at: Path = ("leases", index)
        for key in ("subnet", "ipv6_subnet"):
            subnet: Network | None = getattr(entry, key)
            if subnet is None:
                continue
            if subnet.version not in ranges:
                needed = "network" if subnet.version == 4 else "ipv6_network"
                problems.append(Problem((*at, key), str(subnet), f"has no network to be in; set {needed}"))
                continue
            wrong = ranges[subnet.version].check(subnet)
            if wrong:
                problems.append(Problem((*at, key), str(subnet), wrong))
            ordered[subnet.version].append((int(subnet[0]), int(subnet[-1]), index, key, subnet))
        if entry.subnet is None and entry.ipv6_subnet is None:
            problems.append(Problem(at, "", "has no subnet; add `subnet:` or `ipv6_subnet:`"))
        if entry.public_ip is None and entry.public_ipv6 is None:
            problems.append(Problem(at, "", "has no underlay address; add `public_ip:` or `public_ipv6:`"))
        for key in ("public_ip", "public_ipv6", "vtep_mac"):
            value = getattr(entry, key)
            if value is None:
                continue
            if key != "vtep_mac":
                problems += _not_in_overlay((*at, key), value, ranges)
            other = seen.setdefault((key, value), index)
            if other != index:
                problems.append(
                    Problem((*at, key), str(value), f"is that of leases[{other}] too; each host needs its own")
                )
    for entries in ordered.values():  # sorted, only neighbours can overlap
        entries.sort()
        for one, other in zip(entries, entries[1:], strict=False):
            if overlap(one[4], other[4]):
                first, second = sorted((one, other), key=lambda entry: entry[2])
                problems.append(
                    Problem(
                        ("leases", second[2], second[3]),
                        str(second[4]),
                        f"overlaps leases[{first[2]}] ({first[4]}); each host needs a subnet of its own",
                    )
                )
    return problems
