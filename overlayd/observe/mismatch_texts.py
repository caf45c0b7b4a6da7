"""What signs of a different configuration mean, in words: what was seen, what is expected here, what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from overlayd.core.forward import DropReason
from overlayd.core.kernel.firewall import Sighting, Sign
from overlayd.core.node import Node

_SHOWN = 3  # pairs of addresses in one line
_FLANNELD = "(flanneld reads the configuration only when it starts: restart it after a change)"
_COMPARE = "compare overlayctl lease list on both hosts"

OUTER = {
    Sign.OTHER_PORT: "{source} sends VXLAN to UDP port {value}, this host uses {port}: use one on all hosts"
    f" {_FLANNELD}",
    Sign.OTHER_VNI: f"{{source}} sends this host VXLAN with another VNI than {{vni}}: use one on all hosts {_FLANNELD}",
    Sign.OTHER_MAC: "{source} sends this host VXLAN for another MAC than its VTEP's, which is dropped: the leases on"
    f" the two hosts differ; {_COMPARE}",
    Sign.REFUSED: '{source} answers datagrams to UDP port {port} with "port unreachable": nothing receives them there;'
    f" use one port on all hosts {_FLANNELD}, or start the daemon there",
}
"""By underlay address; {value} is what was seen."""
INNER = {
    Sign.SOURCE_OUTSIDE: "the source is outside the network {networks}: the sending host changes containers' addresses"
    " (NAT; for Docker see overlayctl docker-opts), or its network is another",
    Sign.SOURCE_OWN: "they come from another host, but the source is in this host's own subnet {subnets}: two hosts use"
    " it; " + _COMPARE,
    Sign.ASTRAY: "the destination is outside this host's subnet {subnets}: the sending host's leases differ; "
    + _COMPARE,
}
DROPS = {
    DropReason.SPOOFED_SOURCE: "from a peer, but the inner source is not in that peer's subnet: the leases on the two"
    " hosts differ, or the peer changes containers' addresses (NAT); " + _COMPARE,
    DropReason.DESTINATION_NOT_OWN: "from a peer, but not for this host's subnet: the leases on the two hosts differ; "
    + _COMPARE,
}


def unknown(hosts: Sequence[str]) -> str:
    """Of senders whose addresses hold no lease."""
    return (
        f"packets from {', '.join(hosts)} are dropped: no lease has that public IP; add the host, or"
        " have its lease name the address that it sends from (NAT, several addresses, flanneld's -public-ip)"
    )


def outer(one: Sighting, section: Any) -> str:
    """Of a sender by its underlay address; `section`: this host's settings of the mode."""
    port, vni = getattr(section, "port", None), getattr(section, "vni", None)
    return OUTER[one.sign].format(source=one.source, value=one.value, port=port, vni=vni)


def inner(ends: Sequence[str], remedy: str, node: Node) -> str:
    """Of containers' packets; `ends`: their addresses, `remedy`: of INNER."""
    more = f" and {len(ends) - _SHOWN} more" if len(ends) > _SHOWN else ""
    networks = " and ".join(str(one.network) for one in node.ranges)
    meaning = remedy.format(networks=networks, subnets=" and ".join(map(str, node.lease.subnets)))
    return f"packets from {', '.join(ends[:_SHOWN])}{more} are dropped: {meaning}"


def dropped(reason: str, count: int, period: float) -> str:
    """Of packets that the engine has dropped within so many seconds."""
    return f"{count} packets were dropped in {period:.0f} s: {DROPS[DropReason(reason)]}"


def silent(sent: int, period: float, port: int | None) -> str:
    """Of a peer that nothing came from within so many seconds; `port`: this host's."""
    return (
        f"{sent} packets were sent there in {period:.0f} s and none came back: its host may use another port"
        f" than {port} (restart flanneld after a change: it reads the configuration only then), or a firewall"
        " drops them"
    )
