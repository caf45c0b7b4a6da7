"""Ports to publish, as they are written on a command line.

80                        a port that is chosen -> 80
8080:80                   8080 of all addresses of the host -> 80
127.0.0.1:8080:80         of one address; [2001:db8::1]:8080:80; 192.0.2.1::80 has a port chosen
5353:53/udp               tcp where no protocol is named
8000-8010:9000-9010       each to its counterpart
"""

from __future__ import annotations

import re

from overlayd.core.attach import values
from overlayd.core.attach.errors import AttachError
from overlayd.core.attach.model import PORTS_MAX, PROTOCOLS, PublishedPort

_NUMBERS = r"[0-9]{1,5}(?:-[0-9]{1,5})?"
_FORM = re.compile(
    rf"(?:(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<ipv4>[0-9.]+)):(?=[0-9-]*:))?"
    rf"(?:(?P<host>{_NUMBERS})?:)?(?P<container>{_NUMBERS})(?:/(?P<protocol>\w+))?"
)


def parse_published(word: str) -> list[PublishedPort]:
    """The ports that a word publishes. Raises AttachError."""
    found = _FORM.fullmatch(word)
    if found is None:
        raise AttachError(
            f"port {values.quoted(word)} is not written as [[ADDRESS:]PORT:]CONTAINER_PORT[/PROTOCOL];"
            " for example 8080:80 or 127.0.0.1:5353:53/udp"
        )
    protocol = values.choice(found["protocol"] or "tcp", f"port {word}: protocol", PROTOCOLS)
    written = found["ipv6"] or found["ipv4"]
    address = values.address(written, f"port {word}: address") if written else None
    inner = _numbers(found["container"], word, 1)
    outer = _numbers(found["host"], word, 0) if found["host"] else range(1)
    if outer == range(1):  # 0, or none: chosen, each of them
        return [PublishedPort(protocol, address, 0, number) for number in inner]  # type: ignore[arg-type]
    if len(outer) != len(inner):
        raise AttachError(f"port {word}: {len(outer)} ports of the host and {len(inner)} of the container")
    return [PublishedPort(protocol, address, *pair) for pair in zip(outer, inner, strict=True)]  # type: ignore[arg-type]


def _numbers(written: str, word: str, low: int) -> range:
    first, _, last = written.partition("-")
    begin, end = (values.number(int(one), f"port {word}", low, 65535) for one in (first, last or first))
    if end < begin or end - begin >= PORTS_MAX or (end != begin and begin == 0):
        raise AttachError(f"port {word}: {written} is not a range of 1 to {PORTS_MAX} ports")
    return range(begin, end + 1)
