"""The kinds of kernel object that overlayd makes: what is desired and what is there are both sets of these.

    Link <- BridgePort, LinkAddress, LocalnetRouting, Neighbour, FdbEntry, Route
    Ruleset <- SetElement, PortElement

To add a kind:
    1. a class here, on KernelObject or on one of its two channel classes: rank, key, parent, text, the rules that
       differ from the defaults, and its codec, from `wire.netlink` where it goes by netlink;
    2. if it goes to the kernel by a new channel, a writer for it in `system.kernel`;
    3. where it is read: rtnetlink kinds by a line in `RTNETLINK_KINDS`, others in `system.kernel`.
"""

from overlayd.core.kernel.kinds.base import (
    Channel,
    Interfaces,
    KernelObject,
    KernelState,
    Key,
    RtnetlinkObject,
    Verb,
    differences,
    state_of,
)
from overlayd.core.kernel.kinds.bridge import BridgeLink, BridgePort, VethLink, VethPeer
from overlayd.core.kernel.kinds.drivers import link_of
from overlayd.core.kernel.kinds.link import Link, LinkAddress, TunLink, VxlanLink
from overlayd.core.kernel.kinds.localnet import LocalnetRouting
from overlayd.core.kernel.kinds.neighbour import FdbEntry, Neighbour
from overlayd.core.kernel.kinds.nft import PROTOCOLS, Command, NftElement, NftObject, PortElement, Ruleset, SetElement
from overlayd.core.kernel.kinds.route import Route

RTNETLINK_KINDS: tuple[type[RtnetlinkObject], ...] = (
    BridgePort,
    LinkAddress,
    LocalnetRouting,
    Neighbour,
    FdbEntry,
    Route,
)

__all__ = [
    "PROTOCOLS",
    "RTNETLINK_KINDS",
    "BridgeLink",
    "BridgePort",
    "Channel",
    "Command",
    "FdbEntry",
    "Interfaces",
    "KernelObject",
    "KernelState",
    "Key",
    "Link",
    "LinkAddress",
    "LocalnetRouting",
    "Neighbour",
    "NftElement",
    "NftObject",
    "PortElement",
    "Route",
    "RtnetlinkObject",
    "Ruleset",
    "SetElement",
    "TunLink",
    "Verb",
    "VethLink",
    "VethPeer",
    "VxlanLink",
    "differences",
    "link_of",
    "state_of",
]
