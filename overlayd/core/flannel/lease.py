"""PREFIX/subnets/...: a lease as flannel's key and value, and the other way round."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Any

from overlayd.core.flannel.form import FormatError, Json, parse_object
from overlayd.core.leases.lease import Lease
from overlayd.core.settings import values
from overlayd.wire.mac import parse_mac

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
    given = {name.lower(): content for name, content in parse_object(value).items()}
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
