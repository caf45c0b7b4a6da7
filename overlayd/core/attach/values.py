"""One parser for each value that comes from outside: a command line, a container runtime, a socket, the state file.

Each takes anything that JSON can hold, and returns the value or raises AttachError, which quotes what was seen, in
short.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv6Address, ip_address, ip_interface
from typing import Any, TypeVar

from overlayd.core.address import Address, Interface
from overlayd.core.attach.errors import AttachError
from overlayd.core.text import printable
from overlayd.wire.mac import parse_mac

T = TypeVar("T")

NAME_MAX = 253
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_.-]{{0,{NAME_MAX - 1}}}")  # what CNI allows in a container's id
_INTERFACE = re.compile(r"[^\s/:]{1,15}")  # dev_valid_name() in the kernel; IFNAMSIZ holds 15 bytes and a NUL
_SYSCTL = re.compile(r"net(?:\.[A-Za-z0-9_/-]+|/[A-Za-z0-9_.-]+)+")
_CPUS = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?", re.ASCII)
_CPU_MAX = 4095
_PATH_MAX = 4096  # bytes, linux/limits.h
_SHOWN = 60  # characters of a value that an error quotes


def quoted(value: object) -> str:
    """The value as an error shows it: in quotes where it is text, on one line, and not longer than that."""
    shown = printable(str(value))
    shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
    return f"'{shown}'" if isinstance(value, str) else shown


def text(value: object, what: str, most: int) -> str:
    """Printable text of at most so many characters, and not empty."""
    if not isinstance(value, str) or not 0 < len(value) <= most or not value.isprintable():
        raise AttachError(f"{what}: {quoted(value)} is not a text of 1 to {most} printable characters")
    return value


def name(value: object, what: str) -> str:
    """A container's id, or a network's name."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise AttachError(
            f"{what}: {quoted(value)} is not a valid name; write letters, digits, '_', '.' and '-',"
            f" beginning with a letter or a digit, at most {NAME_MAX}"
        )
    return value


def interface(value: object) -> str:
    """The name of an interface."""
    valid = isinstance(value, str) and _INTERFACE.fullmatch(value) and value.isprintable()
    if not valid or value in (".", "..") or len(str(value).encode()) > 15:
        raise AttachError(f"interface: {quoted(value)} is not a valid interface name (1 to 15 bytes, no / or :)")
    return str(value)


def path(value: object, what: str) -> str:
    """An absolute path."""
    found = text(value, what, _PATH_MAX)
    if not found.startswith("/"):
        raise AttachError(f"{what}: {quoted(found)} is not an absolute path")
    return found


def choice(value: object, what: str, known: Sequence[str]) -> str:
    """One of these words."""
    if value in known:
        return str(value)
    close = difflib.get_close_matches(str(value)[:_SHOWN], known, 1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise AttachError(f"{what}: {quoted(value)} is not one of {', '.join(known)}{hint}")


def number(value: object, what: str, low: int, high: int) -> int:
    """A whole number within these bounds."""
    if type(value) is not int or not low <= value <= high:
        raise AttachError(f"{what}: {quoted(value)} is not a number from {low} to {high}")
    return value


def boolean(value: object, what: str) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise AttachError(f"{what}: {quoted(value)} is neither true nor false")
    return value


def mac(value: object) -> str:
    """A unicast MAC in canonical form."""
    try:
        return parse_mac(text(value, "mac", _SHOWN))
    except ValueError as error:
        raise AttachError(f"mac: {quoted(value)} {error}") from None


def address(value: object, what: str = "address") -> Address:
    """An address that a container can have."""
    try:
        found = ip_address(text(value, what, _SHOWN))
    except ValueError:
        raise AttachError(f"{what}: {quoted(value)} is not an IP address") from None
    if isinstance(found, IPv6Address) and (found.scope_id is not None or found.ipv4_mapped is not None):
        raise AttachError(f"{what}: {quoted(value)} has a zone or holds an IPv4 address; write a plain address")
    return found


def addresses(value: object) -> tuple[Address, ...]:
    """At most one address of each family, IPv4 first."""
    found = sorted(map(address, items(value, "addresses", 2)), key=lambda one: one.version)
    if len({one.version for one in found}) != len(found):
        raise AttachError(f"addresses: {', '.join(map(str, found))} are of one family; write one of each at most")
    return tuple(found)


def prefixed(value: object) -> Interface:
    """An address with its prefix length."""
    written = text(value, "address", _SHOWN)
    try:
        if "/" not in written or "%" in written:
            raise ValueError
        return ip_interface(written)
    except ValueError:
        raise AttachError(f"address: {quoted(value)} is not an IP address with a prefix length") from None


def sysctls(value: object) -> tuple[tuple[str, str], ...]:
    """Kernel settings by name, in the order given; whether the kernel has them in a namespace shows there.

    A name may be written with dots or, as sysctl(8) has it, with slashes, where a part of it holds a dot.
    """
    if not isinstance(value, Mapping) or len(value) > 64:
        raise AttachError("sysctls: not an object with at most 64 names and values")
    found = []
    for key, content in value.items():
        sysctl_path(key)
        found.append((str(key), text(content, f"sysctl {key}", 256)))
    return tuple(found)


def sysctl_path(key: object) -> str:
    """The file of a kernel setting below /proc/sys: net/ipv4/ip_forward."""
    if not isinstance(key, str) or len(key) > 128 or not _SYSCTL.fullmatch(key) or ".." in key or "//" in key:
        raise AttachError(
            f"sysctl {quoted(key)} is not per network namespace; only names that begin with net. can be set"
        )
    return key if key.startswith("net/") else key.replace(".", "\0").replace("/", ".").replace("\0", "/")


def cpus(value: object) -> str:
    """A list of CPUs as `taskset -c` writes it: 0-3,7. Empty for none."""
    if value == "":
        return ""
    found: set[int] = set()
    for part in text(value, "rps", 256).split(","):
        match = _CPUS.fullmatch(part.strip())
        if match is None or (last := int(match[2] or match[1])) < (first := int(match[1])) or last > _CPU_MAX:
            raise AttachError(f"rps: {quoted(value)} is not a list of CPUs; write 0-3,7, or on, or off")
        found.update(range(first, last + 1))
    return ",".join(map(str, sorted(found)))


def cpu_mask(listed: str) -> str:
    """The CPUs of such a list as the kernel takes them: a hexadecimal number in groups of 32 bits."""
    bits = sum(1 << int(one) for one in listed.split(",") if one)
    groups: list[str] = []
    while bits or not groups:
        groups.append(f"{bits & 0xFFFFFFFF:08x}")
        bits >>= 32
    return ",".join(reversed(groups))


def items(value: object, what: str, most: int) -> list[Any]:
    """A list of at most so many items."""
    if not isinstance(value, list) or len(value) > most:
        raise AttachError(f"{what}: not a list of at most {most}")
    return value


def mapping(value: object, what: str, known: Sequence[str]) -> Mapping[str, Any]:
    """An object with none but these keys."""
    if not isinstance(value, Mapping):
        raise AttachError(f"{what}: not an object")
    for key in value:
        if key not in known:
            raise AttachError(f"{what}: unknown key {quoted(key)}; known: {', '.join(known)}")
    return value


def optional(value: object, parse: Callable[[object], T]) -> T | None:
    """What `parse` makes of it; None of null."""
    return None if value is None else parse(value)
