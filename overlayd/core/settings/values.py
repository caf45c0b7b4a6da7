"""One parser for each kind of value that can be set: text in, value out, ValueError with the remedy.

Text is what comes in, wherever a value is given: the grammar is the same for a flag, a variable and a line of YAML.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any, TypeVar, cast

from overlayd.core import mtu
from overlayd.core.address import Address, Network
from overlayd.core.settings.section import Parser

T = TypeVar("T")


def parser(parse: Callable[[str], T]) -> Parser[T]:
    """A value that is text in every source; defaults, which have their type already, pass through."""

    def accept(value: object) -> T:
        if isinstance(value, str):
            return parse(value.strip())
        if isinstance(value, Mapping | list):
            raise ValueError("takes a single value, not a list or a mapping")
        return cast(T, value)  # already of its type

    return accept


def integer(low: int, high: int) -> Parser[int]:
    """A whole number in this range, both ends included."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,12}", text):
            raise ValueError(f"is not a whole number; use {low} to {high}")
        if not low <= int(text) <= high:
            raise ValueError(f"is out of range; use {low} to {high}")
        return int(text)

    return parser(parse)


def boolean(text: str) -> bool:
    """true, yes, on, or their opposites."""
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    if text.lower() not in words:
        raise ValueError("is neither true nor false")
    return words[text.lower()]


def choice(*words: str) -> Parser[Any]:
    """One of these words; for a near miss the error names the word that was meant."""

    return parser(_one_of(words))


def _one_of(words: Sequence[str]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text in words:
            return text
        close = difflib.get_close_matches(text, words, 1)
        raise ValueError(f"is not one of {', '.join(words)}" + (f"; did you mean {close[0]}?" if close else ""))

    return parse


def words(*known: str) -> Parser[tuple[str, ...]]:
    """Any number of these words, separated by commas."""
    one = _one_of(known)

    def parse(text: str) -> tuple[str, ...]:
        return tuple(one(word.strip()) for word in text.split(",") if word.strip())

    return parser(parse)


def _zoneless(text: str) -> str:
    if "%" in text:
        raise ValueError("has a zone, which means nothing to other hosts; remove the part after the %")
    return text


def network(version: int) -> Parser[Any]:
    """A network of that family: without host bits, and usable for an overlay."""

    def parse(text: str) -> Network:
        example = "10.1.0.0/16" if version == 4 else "fd00:10:1::/48"
        try:
            network = ip_network(_zoneless(text), strict=False)
        except ValueError:
            raise ValueError(f"is not a valid IPv{version} network; write it like {example}") from None
        if "/" not in text:
            raise ValueError(f"has no prefix length; write it like {example}")
        if network.version != version:
            raise ValueError(f"is an IPv{network.version} network, and this setting takes an IPv{version} one")
        if text.split("/")[0] != str(network[0]) and ip_network(text.split("/")[0]) != ip_network(network[0]):
            raise ValueError(f"has host bits set; did you mean {network}?")
        if network.is_multicast or network.is_loopback or network.is_link_local:
            raise ValueError("is multicast, loopback or link-local; an overlay needs private or global addresses")
        return network

    return parser(parse)


def address(version: int) -> Parser[Any]:
    """An address of that family, without a zone."""
    kind = IPv4Address if version == 4 else IPv6Address

    def parse(text: str) -> Address:
        try:
            return kind(_zoneless(text))
        except ValueError:
            raise ValueError(f"is not a valid IPv{version} address") from None

    return parser(parse)


def public(version: int) -> Parser[Any]:
    """An address of that family that other hosts can send to."""
    kind = IPv4Address if version == 4 else IPv6Address

    def parse(text: str) -> Address:
        try:
            address = kind(text)
        except ValueError:
            other = "public_ipv6" if version == 4 else "public_ip"
            raise ValueError(
                f"is not a valid IPv{version} address (the setting for the other family is {other})"
            ) from None
        broadcast = address == IPv4Address("255.255.255.255")
        if broadcast or address.is_multicast or address.is_unspecified or address.is_loopback or address.is_link_local:
            raise ValueError("is not an address that other hosts can send to")
        if "%" in text:
            raise ValueError("has a zone, which means nothing to other hosts; remove the part after the %")
        if isinstance(address, IPv6Address) and address.ipv4_mapped:
            raise ValueError(f"is an IPv4-mapped IPv6 address; write public_ip: {address.ipv4_mapped}")
        return address

    return parser(parse)


class Duration(int):
    """Whole seconds, written with a unit: 24h, 60m, 90s."""

    def __str__(self) -> str:
        for unit, seconds in (("h", 3600), ("m", 60)):
            if self and self % seconds == 0:
                return f"{self // seconds}{unit}"
        return f"{int(self)}s"


def duration(low: int, high: int) -> Parser[Duration]:
    """A duration in this range of seconds; a bare number is in minutes, as in flannel's flags."""

    def parse(text: str) -> Duration:
        match = re.fullmatch(r"([0-9]{1,9})([hms]?)", text)
        if match is None:
            raise ValueError("is not a valid duration; write 24h, 60m or 90s (a bare number is in minutes)")
        found = Duration(int(match[1]) * {"h": 3600, "m": 60, "": 60, "s": 1}[match[2]])
        if not low <= found <= high:
            raise ValueError(f"is out of range; use {Duration(low)} to {Duration(high)}")
        return found

    return parser(parse)


def mtu_bytes(text: str) -> int:
    """An MTU in bytes."""
    if not re.fullmatch("[0-9]{1,6}", text) or not mtu.MINIMUM[4] <= int(text) <= mtu.MAXIMUM:
        raise ValueError(f"is not a valid MTU; use {mtu.MINIMUM[4]} to {mtu.MAXIMUM}")
    return int(text)


def regex(text: str) -> str:
    """A regular expression."""
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"is not a valid regular expression: {error}") from None
    return text


def key(text: str) -> str:
    """A key of 32 bytes in base64, as `wg genkey` and `wg pubkey` print it."""
    if not re.fullmatch("[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=", text):
        raise ValueError("is not a WireGuard key; write the 44 characters of base64 that wg prints")
    return text


def plain(value: object) -> object:
    """A setting as it is, a secret too."""
    return value.reveal() if isinstance(value, Secret) else value


def interface_name(text: str) -> str:
    """An interface's name or one of its addresses."""
    if len(text) > 45 or re.search(r"[\s/]", text):
        raise ValueError("is neither an interface name nor an address")
    return text


def host_name(text: str) -> str:
    """A host's name for display in terminals: letters, digits, dots and hyphens only."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,253}", text):
        raise ValueError("is not a valid host name; use letters, digits, dots and hyphens")
    return text


def file_name(text: str) -> str:
    """A path."""
    if "\0" in text:
        raise ValueError("is not a valid file name")
    return text


class Secret:
    """A text that no log, error or repr shows."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text."""
        return self._text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return "**********"


port = integer(1, 65535)
flag = parser(boolean)
path = parser(file_name)
