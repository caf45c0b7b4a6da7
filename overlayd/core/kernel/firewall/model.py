"""The terms of the firewall: what a node's rules follow from, and the names that rules carry in the kernel."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from overlayd.core.address import Address, Family, Network
from overlayd.core.kernel import nft_json as nft
from overlayd.core.kernel.kinds import SetElement
from overlayd.core.kernel.nft_json import Json

Rule = tuple[str, list[Json]]
"""The text of its comment, and its expressions."""

TABLE = "overlayd"
PORTS_TABLE = "overlayd_ports"
"""Published ports; apart from the other rules, so that neither is written anew with the other."""
COMMENT = "overlayd: "
"""With which the comment of each of our rules begins, in whatever table it stands."""

OUTBOUND = "outbound"
"""The chain whose drops are of packets that leave through this host; those of all others come from elsewhere."""

FORWARD_MARK = 0x02000000
"""The bit of the packet mark that the overlay's packets carry between our two forward chains."""


@dataclass(frozen=True, slots=True)
class ForeignChain:
    """A base chain on the forward hook that is not ours."""

    family: str
    table: str
    chain: str


@dataclass(frozen=True, slots=True)
class ForeignRules:
    """What of other programs' nftables rules ours have to respond to."""

    dropping: tuple[ForeignChain, ...] = ()
    """Forward chains whose policy is drop."""
    source_nat: bool = False
    """Whether there is a chain that may translate the sources of forwarded packets."""
    flannel: tuple[ForeignChain, ...] = ()
    """Chains that flannel made."""


NO_FOREIGN_RULES = ForeignRules()


@dataclass(frozen=True, slots=True)
class GuardedPort:
    """A VXLAN device to guard: datagrams of `vni` to `port` on this underlay family."""

    underlay_family: Family
    port: int
    vni: int
    mac: str
    """The device's, which peers' inner Ethernet frames are for."""


@dataclass(frozen=True, slots=True)
class OverlayRange:
    """The overlay in one address family."""

    network: Network
    subnet: Network

    @property
    def protocol(self) -> str:
        """nft's name of the family."""
        return "ip" if self.network.version == 4 else "ip6"


@dataclass(frozen=True, slots=True)
class FirewallPolicy:
    """What the rules of a node follow from, beside other firewalls."""

    ranges: tuple[OverlayRange, ...]
    devices: tuple[str, ...]
    """The overlay's devices; empty for host-gw."""
    tunnels: tuple[str, ...]
    """Devices through which overlayd has the kernel forward its own datagrams (udp mode's TAP)."""
    guarded: tuple[GuardedPort, ...]
    underlay: str
    underlay_families: tuple[Family, ...]
    plain: bool
    """Whether containers' packets arrive by the underlay as they are, from some peers or all."""
    ports: tuple[int, ...]
    """UDP ports on which hosts of the overlay trust each other's addresses."""
    peer_ports: tuple[tuple[Family, int], ...]
    """Underlay families and UDP ports of the peers that datagrams are sent to."""
    masquerade: bool
    forward_accept: bool


def peer_element(address: Address) -> SetElement:
    """The element that makes this underlay address a peer's."""
    return SetElement(TABLE, f"peers{address.version}", address)


def comment_of(text: str, expressions: list[Json] | str) -> str:
    """The comment of a rule; its digest stands for the expressions, which the kernel gives back in another form."""
    digest = hashlib.sha256(json.dumps(expressions, sort_keys=True).encode()).hexdigest()[:8]
    return f"{COMMENT}{text} #{digest}"


def is_marked() -> Json:
    """The packet carries our mark."""
    return nft.has_mark(FORWARD_MARK)
