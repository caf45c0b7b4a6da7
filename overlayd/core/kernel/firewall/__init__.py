"""overlayd's nftables rules, as data for `nft -j`.

table inet overlayd, ours alone:
    set peers4, peers6     the underlay addresses of peers, elements kept one by one
    sets other_port4, ...  who sends what no host that is configured alike would (signs.py)
    chain guard            drops datagrams to the VXLAN port and VNI whose source is not a peer's underlay address;
                           notes who sends VXLAN otherwise, and who refuses our datagrams
    chain inner            sends what comes by an overlay device or the underlay, found by one look-up, to its chain:
    chain from_DEVICE      drops it unless its source lies in the network, outside this host's own subnet, and its
                           destination in this host's subnet: neither the underlay nor a family that the overlay does
                           not have can be reached through the overlay
    chain from_underlay    where containers' packets arrive by the underlay as they are (host-gw, direct routing): drops
                           those from this host's own subnet, and those from the network for other hosts' subnets
    chain forwarded        sends what goes to the ports on which hosts trust each other's addresses to the next chain
    chain outbound         drops it: once masqueraded, it would speak for this host. Peers' own datagrams may pass
    chain keep_source      keeps containers' addresses across hosts, where another program has NAT rules: Docker
                           masquerades whatever leaves its bridge
    chain postrouting      masquerades as flannel does

    chains mark, unmark    mark the overlay's packets while they are forwarded, where that is needed:

An `accept` in a table of ours cannot overrule the drop policy of another table's chain, such as Docker's FORWARD.
So where a foreign forward chain has policy drop, rules that accept marked packets from and to this host's subnet, and
no others, stand at its head. Which packets are the overlay's is decided in our own table, by interface, address and
connection; the foreign rules use only what `iptables` can read and show, so that its owner can go on with it.

    model.py      terms              chains.py     the rules of our own table
    forward.py    foreign chains     table.py      the table, and all rulesets of a policy
    signs.py      what rules note of senders
    ports.py      the table of published ports
"""

from overlayd.core.kernel.firewall.forward import forward_accepts, overlay_packets
from overlayd.core.kernel.firewall.model import (
    COMMENT,
    FORWARD_MARK,
    NO_FOREIGN_RULES,
    OUTBOUND,
    PORTS_TABLE,
    TABLE,
    FirewallPolicy,
    ForeignChain,
    ForeignRules,
    GuardedPort,
    OverlayRange,
    peer_element,
)
from overlayd.core.kernel.firewall.ports import port_element, ports_table
from overlayd.core.kernel.firewall.signs import SETS, Sighting, Sign, sighting
from overlayd.core.kernel.firewall.table import own_table, rulesets

__all__ = [
    "COMMENT",
    "FORWARD_MARK",
    "NO_FOREIGN_RULES",
    "OUTBOUND",
    "PORTS_TABLE",
    "SETS",
    "TABLE",
    "FirewallPolicy",
    "ForeignChain",
    "ForeignRules",
    "GuardedPort",
    "OverlayRange",
    "Sighting",
    "Sign",
    "forward_accepts",
    "overlay_packets",
    "own_table",
    "peer_element",
    "port_element",
    "ports_table",
    "rulesets",
    "sighting",
]
