"""flannel's data in etcd as pure functions: the network's configuration, subnet keys, lease values; and our own record.

    PREFIX/config                                 {"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","VNI":1}}
    PREFIX/subnets/10.5.52.0-24                   {"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan",
    PREFIX/subnets/10.5.52.0-24&fc00:0:0:34::-64   "BackendData":{"VNI":1,"VtepMAC":"06:47:0f:9c:01:2a"}}
    PREFIX/overlayd/hosts/192.0.2.1               {"id":"...","session":"...","subnet":"10.5.52.0-24","port":8472}

The first two are written exactly as flannel writes them and read as Go's encoding/json reads them: names match in any
case. What flannel does not know stands in the third, where it does not look: whose lease it is, whatever its address.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Any

from overlayd.core import values
from overlayd.core.config import Settings
from overlayd.core.lease import Lease
from overlayd.core.validation import Problem, validate
from overlayd.wire.mac import parse_mac

Json = dict[str, Any]

# flannel's names and ours. A number of 0 stands for the default, as it does there.
_TEXTS = {
    "Network": "network",
    "SubnetMin": "subnet_min",
    "SubnetMax": "subnet_max",
    "IPv6Network": "ipv6_network",
    "IPv6SubnetMin": "ipv6_subnet_min",
    "IPv6SubnetMax": "ipv6_subnet_max",
}
_NUMBERS = {"SubnetLen": "subnet_len", "IPv6SubnetLen": "ipv6_subnet_len"}
_SWITCHES = {"EnableIPv4": True, "EnableIPv6": False, "EnableNFTables": False}
_BACKENDS: dict[str, dict[str, type]] = {
    "udp": {"Port": int, "MTU": int},
    "vxlan": {"VNI": int, "Port": int, "MTU": int, "GBP": bool, "Learning": bool, "DirectRouting": bool},
    "host-gw": {"MTU": int},
}
_OURS = {
    "VNI": "vni",
    "Port": "port",
    "MTU": "mtu",
    "GBP": "gbp",
    "Learning": "learning",
    "DirectRouting": "direct_routing",
}

DECIDED = (*_TEXTS.values(), *_NUMBERS.values())
"""The settings that the network's configuration alone decides."""


class FormatError(ValueError):
    """A key or a value that is not what flannel writes; the text says what is wrong with it."""


# --- the network's configuration -------------------------------------------------------------------------------------


def parse_config(text: str) -> Settings | list[Problem]:
    """The settings that PREFIX/config decides, with defaults for all others; or every mistake in it, by its own names.

    Which of mode, mtu, udp and vxlan it decides is in `model_fields_set`, there and in the sections.
    """
    problems: list[Problem] = []
    try:
        given = _fields(_object(text), [*_TEXTS, *_NUMBERS, *_SWITCHES, "Backend"], (), problems)
    except FormatError as error:
        return [Problem((), "", str(error))]
    switches = {name: _typed(given, name, bool, (), problems) for name in _SWITCHES}
    raw: Json = {}
    places: dict[tuple[str | int, ...], tuple[str | int, ...]] = {}
    for names, kind in ((_TEXTS, str), (_NUMBERS, int)):
        for name, ours in names.items():
            value = _typed(given, name, kind, (), problems)
            enabled = switches["EnableIPv6"] if name.startswith("IPv6") else switches["EnableIPv4"] is not False
            if value and enabled:
                raw[ours] = str(value)
            places[(ours,)] = (name,)
    mode = _backend(given.get("Backend", {"Type": "udp"}), raw, places, problems)
    for switch, name in (("EnableIPv4", "network"), ("EnableIPv6", "ipv6_network")):
        wanted = switches[switch] if switches[switch] is not None else _SWITCHES[switch]
        if wanted and name not in raw and not problems:
            problems.append(Problem(places[(name,)], "", f"is missing; give a network, or set {switch} to false"))
    if problems:
        return problems
    result = validate({**raw, "mode": mode})
    if isinstance(result, Settings):
        return result
    return [Problem(places.get(one.path, one.path), one.value, one.text) for one in result]


def _backend(found: Any, raw: Json, places: dict[Any, Any], problems: list[Problem]) -> str:
    """Read the Backend object into `raw`; its type."""
    if not isinstance(found, dict):
        problems.append(Problem(("Backend",), "", 'is no object; write {"Type": "vxlan"}'))
        return ""
    folded = {name.lower(): value for name, value in found.items()}
    mode = folded.get("type", "")
    if not isinstance(mode, str) or mode not in _BACKENDS:
        text = f"is no backend that overlayd has; use {', '.join(_BACKENDS)}"
        problems.append(Problem(("Backend", "Type"), str(mode)[:40], text))
        return ""
    given = _fields(found, ["Type", *_BACKENDS[mode]], ("Backend",), problems)
    for name, kind in _BACKENDS[mode].items():
        value = _typed(given, name, kind, ("Backend",), problems)
        path = ("mtu",) if name == "MTU" else (mode, _OURS[name])
        places[path] = ("Backend", name)
        if value or isinstance(value, bool):
            text = str(value).lower()
            if name == "MTU":
                raw["mtu"] = text
            else:
                raw.setdefault(mode, {})[_OURS[name]] = text
    return mode


def config_text(settings: Settings) -> str:
    """PREFIX/config for these settings: what differs from flannel's defaults, under flannel's names."""
    config: Json = {}
    for names in (_TEXTS, _NUMBERS):
        for name, ours in names.items():
            value = getattr(settings, ours)
            if value is not None:
                config[name] = value if isinstance(value, int) else str(value)
    if settings.network is None:
        config["EnableIPv4"] = False
    if settings.ipv6_network is not None:
        config["EnableIPv6"] = True
    backend: Json = {"Type": settings.mode}
    section: Any = getattr(settings, settings.mode, None)  # host-gw has none, and no options either
    for name in _BACKENDS[settings.mode]:
        if name != "MTU" and _OURS[name] in section.model_fields_set:
            backend[name] = getattr(section, _OURS[name])
    if settings.mtu is not None:
        backend["MTU"] = settings.mtu
    return json.dumps({**config, "Backend": backend}, separators=(",", ":"))


# --- keys and lease values -------------------------------------------------------------------------------------------

_KEY = re.compile(r"(\d{1,3}(?:\.\d{1,3}){3})-(\d{1,2})(?:&([0-9A-Fa-f:.]{2,45})-(\d{1,3}))?")


def parse_key(key: str) -> tuple[IPv4Network | None, IPv6Network | None]:
    """The subnets that a key names, without its prefix. Raises FormatError.

    Without an IPv4 network flannel writes 0.0.0.0-0 in its place. An IPv6 key of ours alone is read as well.
    """
    match = _KEY.fullmatch(key) or re.fullmatch(r"()()([0-9A-Fa-f:.]{2,45})-(\d{1,3})", key)
    if match is None:
        raise FormatError("is no subnet key; flannel writes 10.5.52.0-24")
    first, length, second, length6 = match.groups()
    try:
        none = not first or f"{first}-{length}" == "0.0.0.0-0"
        subnet = None if none else IPv4Network((_ipv4(first) or first, int(length)))
        subnet6 = IPv6Network(f"{second}/{length6}") if second else None
    except ValueError as error:
        raise FormatError(f"is no subnet key: {error}") from None
    if subnet is None and subnet6 is None:
        raise FormatError("is no subnet key: it names no subnet")
    return subnet, subnet6


def key_of(lease: Lease) -> str:
    """The key of a lease, without its prefix, as flannel spells it."""
    return lease.key if lease.subnet is not None else f"0.0.0.0-0&{lease.key}"


_WIRE = "Wire"
"""In the BackendData of a udp lease, which flannel leaves out and does not read: what else the host knows."""


def parse_lease(key: str, value: str) -> Lease:
    """The lease that a key and its value are. Raises FormatError."""
    subnet, subnet6 = parse_key(key)
    given = {name.lower(): content for name, content in _object(value).items()}
    kind = given.get("backendtype") or "udp"
    if not isinstance(kind, str) or not re.fullmatch(r"[A-Za-z0-9._-]{1,40}", kind):
        raise FormatError("BackendType: is no backend's name")
    data, data6 = given.get("backenddata"), given.get("backendv6data")
    told: Json | None = dict(data) if kind == "udp" and isinstance(data, dict) else None
    announced = told.pop(_WIRE, None) if told else None
    lease = Lease(
        subnet=subnet,
        ipv6_subnet=subnet6,
        public_ip=_public(given, "PublicIP", 4),
        public_ipv6=_public(given, "PublicIPv6", 6),
        backend=kind,
        written_mac=_mac(data, "BackendData") if kind == "vxlan" else None,
        written_mac_v6=_mac(data6, "BackendV6Data") if kind == "vxlan" else None,
        vni=_vni(data or data6) if kind == "vxlan" else None,
        data=None if announced is not None and not told else told,
        wire="overlayd" if announced == "overlayd" else "flannel",
    )
    if kind == "vxlan" and lease.public_ip and lease.written_mac is None:
        raise FormatError("BackendData: holds no VtepMAC, which every vxlan lease has")
    if kind == "vxlan" and lease.public_ipv6 and not (lease.written_mac or lease.written_mac_v6):
        raise FormatError("BackendV6Data: holds no VtepMAC, which every vxlan lease has")
    return lease


def lease_text(lease: Lease) -> str:
    """The value of a lease, byte for byte as flannel writes it."""
    value: Json = {
        "PublicIP": str(lease.public_ip or IPv4Address(0)),
        "PublicIPv6": None if lease.public_ipv6 is None else str(lease.public_ipv6),
    }
    if lease.backend not in (None, "udp"):
        value["BackendType"] = lease.backend
    if lease.backend == "vxlan":
        if lease.public_ip is not None:
            value["BackendData"] = {"VNI": lease.vni, "VtepMAC": lease.vtep_mac}
        if lease.public_ipv6 is not None:
            value["BackendV6Data"] = {"VNI": lease.vni, "VtepMAC": lease.mac_over(6)}
    elif lease.data is not None or lease.wire == "overlayd":
        value["BackendData"] = {**(lease.data or {}), **({_WIRE: lease.wire} if lease.wire == "overlayd" else {})}
    return json.dumps(value, separators=(",", ":"))


def _ipv4(text: str) -> IPv4Address | None:
    """IPv4Address(text), several times as fast; None where something is odd about the text, or wrong."""
    parts = text.split(".")
    octets = [int(part) for part in parts if part.isascii() and part.isdigit() and (part[0] != "0" or part == "0")]
    if len(parts) != 4 or len(octets) != 4 or max(octets) > 255:
        return None
    return IPv4Address(octets[0] << 24 | octets[1] << 16 | octets[2] << 8 | octets[3])


_PARSE_PUBLIC = {4: values.public(4).func, 6: values.public(6).func}


def _public(given: Mapping[str, Any], name: str, version: int) -> Any:
    text = given.get(name.lower())
    if text is None or text in ("", "0.0.0.0", "::"):
        return None
    if not isinstance(text, str):
        raise FormatError(f"{name}: is no address")
    try:
        if version == 4:
            address = _ipv4(text)
            if address and 0x01000000 <= int(address) < 0xE0000000 and int(address) >> 24 not in (127, 169):
                return address  # nothing about it that the rules would look at
        return _PARSE_PUBLIC[version](text)  # type: ignore[call-arg]
    except ValueError as error:
        raise FormatError(f"{name}: {text[:60]} {error}") from None


def _mac(data: Any, name: str) -> str | None:
    if data is None:
        return None
    if not isinstance(data, dict):
        raise FormatError(f"{name}: is no object")
    text = next((content for key, content in data.items() if key.lower() == "vtepmac"), None)
    if not isinstance(text, str):
        raise FormatError(f"{name}: holds no VtepMAC")
    try:
        return parse_mac(text)
    except ValueError as error:
        raise FormatError(f"{name}.VtepMAC: {text[:40]} {error}") from None


def _vni(data: Any) -> int | None:
    """The VNI; None where an older flannel left it out."""
    if not isinstance(data, dict):
        return None
    vni = next((content for key, content in data.items() if key.lower() == "vni"), None)
    if vni is not None and (type(vni) is not int or not 0 <= vni < 2**24):
        raise FormatError(f"BackendData.VNI: {str(vni)[:20]} is no VNI")
    return vni


# --- our own record --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HostRecord:
    """Which node has a public IP, and with it a lease."""

    id: str
    """The node's identity, kept on its disk."""
    session: str
    """One run of its daemon: tells a node from its clone while both run."""
    subnet: str
    """The key of its lease."""
    name: str = ""
    port: int | None = None
    """The UDP port that it listens on; flannel's values do not say."""
    probe: int | None = None
    """The UDP port on which it answers probes."""


def parse_host(value: str) -> HostRecord:
    """Our record behind a public IP. Raises FormatError."""
    given = _object(value)
    ports = {}
    for key in ("port", "probe"):
        port = ports[key] = given.get(key)
        if port is not None and (type(port) is not int or not 1 <= port <= 65535):
            raise FormatError(f"{key}: is no port")
    name = given.get("name", "")
    if not isinstance(name, str) or (name and not re.fullmatch(r"[A-Za-z0-9._-]{1,253}", name)):
        raise FormatError("name: is no host name")
    words = {}
    for key in ("id", "session", "subnet"):
        word = given.get(key)
        if not isinstance(word, str) or not re.fullmatch(r"[A-Za-z0-9.:&_-]{1,120}", word):
            raise FormatError(f"{key}: is missing or no word")
        words[key] = word
    parse_key(words["subnet"])
    return HostRecord(**words, name=name, port=ports["port"], probe=ports["probe"])


def host_text(record: HostRecord) -> str:
    """The value of our record."""
    value: Json = {"id": record.id, "session": record.session, "subnet": record.subnet}
    if record.name:
        value["name"] = record.name
    if record.port is not None:
        value["port"] = record.port
    if record.probe is not None:
        value["probe"] = record.probe
    return json.dumps(value, separators=(",", ":"))


# --- JSON ------------------------------------------------------------------------------------------------------------


def _object(text: str) -> Json:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise FormatError("is no JSON object")
    return found


def _fields(found: Json, known: list[str], at: tuple[str, ...], problems: list[Problem]) -> Json:
    """The object under the known spellings of its names; an unknown or doubled one is a problem."""
    spelling = {name.lower(): name for name in known}
    given: Json = {}
    for name, value in found.items():
        if name.lower() not in spelling:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"
            problems.append(Problem((*at, name[:60]), "", f"unknown key; {hint}"))
        elif spelling[name.lower()] in given:
            problems.append(Problem((*at, name), "", "is given twice; keep one"))
        else:
            given[spelling[name.lower()]] = value
    return given


def _typed(given: Json, name: str, kind: type, at: tuple[str, ...], problems: list[Problem]) -> Any:
    """The value if it is of the kind; null is absence, as in Go."""
    value = given.get(name)
    if value is None or type(value) is kind:
        return value
    words = {str: "text", int: "a whole number", bool: "true or false"}
    problems.append(Problem((*at, name), json.dumps(value)[:60], f"is not {words[kind]}"))
    return None
