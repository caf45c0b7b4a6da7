"""Signs of a host that is configured differently: rules note in sets who sends what no peer configured alike would.

    other_port4   { 192.0.2.2 . 8472 }        source, and what the sign is of; the kernel forgets an element after
    astray4       { 10.1.3.2 . 10.1.9.9 }     SECONDS, or refuses another when there are MOST

A full set breaks off the rule that notes, so no rule that notes drops as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address
from typing import Any

from overlayd.core.address import FAMILIES, Address, Family
from overlayd.core.kernel.nft_json import Json, field

SECONDS = 2
"""For which a sender is kept after its last packet."""
MOST = 16
"""Elements of a set."""


class Sign(StrEnum):
    """What was noted, and the name of its sets without the family."""

    UNKNOWN_PEER = "unknown_peer"
    """The source is an underlay address that holds no lease."""
    OTHER_PORT = "other_port"
    """VXLAN for this host's device, to another UDP port than it has; the value is that port."""
    OTHER_VNI = "other_vni"
    """VXLAN for this host's device, with another VNI."""
    OTHER_MAC = "other_mac"
    """VXLAN from a peer for this host's VNI, whose inner Ethernet destination is another host's."""
    REFUSED = "refused"
    """An ICMP error from there: nothing receives the port that our datagrams are sent to."""
    SOURCE_OUTSIDE = "source_outside"
    """By the overlay, from an address outside the network; the value is the destination, as below."""
    SOURCE_OWN = "source_own"
    """By the overlay, from an address of this host's own subnet."""
    ASTRAY = "astray"
    """By the overlay, for an address outside this host's subnet."""


_ADDRESSED = frozenset({Sign.SOURCE_OUTSIDE, Sign.SOURCE_OWN, Sign.ASTRAY})


@dataclass(frozen=True, slots=True)
class Sighting:
    """One element: who sent a packet of this sign lately."""

    sign: Sign
    source: Address
    """A container's where the sign is of what came by the overlay, else of the underlay."""
    value: Address | int | None = None


SETS: dict[str, tuple[Sign, Family]] = {f"{sign}{family}": (sign, family) for sign in Sign for family in FAMILIES}
"""Every set that the table may have, by name."""


def set_type(name: str) -> str | list[str]:
    """nft's type of the set's elements."""
    sign, family = SETS[name]
    address = "ipv4_addr" if family == 4 else "ipv6_addr"
    if sign is Sign.OTHER_PORT:
        return [address, "inet_service"]
    return [address, address] if sign in _ADDRESSED else address


def note(sign: Sign, family: Family) -> Json:
    """The statement that notes a packet's sender, after a match that is the sign."""
    protocol = "ip" if family == 4 else "ip6"
    source: Any = field(protocol, "saddr")
    if sign is Sign.OTHER_PORT:
        source = {"concat": [source, field("udp", "dport")]}
    elif sign in _ADDRESSED:
        source = {"concat": [source, field(protocol, "daddr")]}
    return {"set": {"op": "update", "elem": source, "set": f"@{sign}{family}"}}


def sighting(name: str, key: bytes) -> Sighting | None:
    """An element of this set as the kernel keeps it: fields in network byte order, each padded to 4 bytes. None for
    what is not one."""
    sign, family = SETS[name]
    size = 4 if family == 4 else 16
    source, rest = key[:size], key[size:]
    if len(source) != size:
        return None
    value: Address | int | None = None
    if sign is Sign.OTHER_PORT:
        value = int.from_bytes(rest[:2], "big")
    elif sign in _ADDRESSED:
        if len(rest) != size:
            return None
        value = ip_address(rest)
    return Sighting(sign, ip_address(source), value)
