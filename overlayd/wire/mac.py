"""Ethernet addresses (IEEE 802) as canonical text: six lower-case hexadecimal octets joined by colons."""

from __future__ import annotations

import hashlib
import re

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_GROUP_BIT = 0x01
_LOCAL_BIT = 0x02


def parse_mac(text: str) -> str:
    """The canonical form of a unicast MAC written with colons or dashes.

    Raises ValueError, which says what to write instead.
    """
    mac = text.strip().lower().replace("-", ":")
    if not _MAC.fullmatch(mac):
        raise ValueError("is not a MAC address; write six octets like 06:47:0f:9c:01:2a")
    if int(mac[:2], 16) & _GROUP_BIT:
        raise ValueError("is a group address; a VTEP needs a unicast one (an even first octet)")
    if mac == "00:00:00:00:00:00":
        raise ValueError("is the all-zero address; leave it out to have one derived")
    return mac


def derive_mac(seed: str) -> str:
    """A locally administered unicast MAC that depends on `seed` alone, the same on every host."""
    octets = bytearray(hashlib.sha256(seed.encode()).digest()[:6])
    octets[0] = octets[0] & ~_GROUP_BIT | _LOCAL_BIT
    return octets.hex(":")
