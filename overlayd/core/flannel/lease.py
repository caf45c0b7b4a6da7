"""PREFIX/subnets/...: a lease as flannel's key and value, and the reverse."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Any

from overlayd.core.flannel.form import FormatError, Json, parse_object
from overlayd.core.leases.lease import Lease
from overlayd.core.mode import UNTYPED, ModeSpec
from overlayd.core.settings import values

_KEY = re.compile(r"(\d{1,3}(?:\.\d{1,3}){3})-(\d{1,2})(?:&([0-9A-Fa-f:.]{2,45})-(\d{1,3}))?")


def parse_key(key: str) -> tuple[IPv4Network | None, IPv6Network | None]:
    """The subnets that a key names, without its prefix. Raises FormatError.

    Without an IPv4 network flannel writes 0.0.0.0-0 in its place. An IPv6 key of ours alone is read as well.
    """
    match = _KEY.fullmatch(key) or re.fullmatch(r"()()([0-9A-Fa-f:.]{2,45})-(\d{1,3})", key)
    if match is None:
        raise FormatError("is not a subnet key; flannel writes 10.5.52.0-24")
    first, length, second, length6 = match.groups()
    try:
        none = not first or f"{first}-{length}" == "0.0.0.0-0"
        subnet = None if none else IPv4Network((_ipv4(first) or first, int(length)))
        subnet6 = IPv6Network(f"{second}/{length6}") if second else None
    except ValueError as error:
        raise FormatError(f"is not a subnet key: {error}") from None
    if subnet is None and subnet6 is None:
        raise FormatError("is not a subnet key: it names no subnet")
    return subnet, subnet6


def key_of(lease: Lease) -> str:
    """The key of a lease, without its prefix, as flannel spells it."""
    return lease.key if lease.subnet is not None else f"0.0.0.0-0&{lease.key}"


def parse_lease(key: str, value: str, modes: Mapping[str, ModeSpec[Any]]) -> Lease:
    """The lease in a key and its value; of a mode that is not among these it has no data. Raises FormatError."""
    subnet, subnet6 = parse_key(key)
    given = {name.lower(): content for name, content in parse_object(value).items()}
    backend = given.get("backendtype") or UNTYPED
    if not isinstance(backend, str) or not re.fullmatch(r"[A-Za-z0-9._-]{1,40}", backend):
        raise FormatError("BackendType: is not a valid backend name")
    public_ip, public_ipv6 = _public(given, "PublicIP", 4), _public(given, "PublicIPv6", 6)
    fields: dict[str, Any] = {}
    if (mode := modes.get(backend)) is not None:
        public = public_ip is not None, public_ipv6 is not None
        fields = mode.parse_data(given.get("backenddata"), given.get("backendv6data"), public)
    return Lease(
        subnet=subnet,
        ipv6_subnet=subnet6,
        public_ip=public_ip,
        public_ipv6=public_ipv6,
        backend=backend,
        **fields,
    )


def lease_text(lease: Lease, modes: Mapping[str, ModeSpec[Any]]) -> str:
    """The value of a lease, byte for byte as flannel writes it."""
    value: Json = {
        "PublicIP": str(lease.public_ip or IPv4Address(0)),
        "PublicIPv6": None if lease.public_ipv6 is None else str(lease.public_ipv6),
    }
    if lease.backend not in (None, UNTYPED):
        value["BackendType"] = lease.backend
    if (mode := modes.get(lease.backend or UNTYPED)) is not None:
        value |= mode.lease_data(lease)
    return json.dumps(value, separators=(",", ":"))


def _ipv4(text: str) -> IPv4Address | None:
    """IPv4Address(text), several times as fast; None where something is odd about the text, or wrong."""
    parts = text.split(".")
    octets = [int(part) for part in parts if part.isascii() and part.isdigit() and (part[0] != "0" or part == "0")]
    if len(parts) != 4 or len(octets) != 4 or max(octets) > 255:
        return None
    return IPv4Address(octets[0] << 24 | octets[1] << 16 | octets[2] << 8 | octets[3])


_PARSE_PUBLIC = {4: values.public(4), 6: values.public(6)}


def _public(given: Mapping[str, Any], name: str, version: int) -> Any:
    text = given.get(name.lower())
    if text is None or text in ("", "0.0.0.0", "::"):
        return None
    if not isinstance(text, str):
        raise FormatError(f"{name}: is not an address")
    try:
        if version == 4:
            address = _ipv4(text)
            if address and 0x01000000 <= int(address) < 0xE0000000 and int(address) >> 24 not in (127, 169):
                return address  # nothing about it that the rules would look at
        return _PARSE_PUBLIC[version](text)
    except ValueError as error:
        raise FormatError(f"{name}: {text[:60]} {error}") from None
