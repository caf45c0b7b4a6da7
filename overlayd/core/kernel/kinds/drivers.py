"""The class of a device, by its driver."""

from __future__ import annotations

from overlayd.core.kernel.kinds.bridge import BridgeLink, VethLink
from overlayd.core.kernel.kinds.link import Link, TunLink, VxlanLink
from overlayd.wire.netlink.link import LinkEntry

_BY_DRIVER: dict[str, type[Link]] = {kind.driver: kind for kind in (BridgeLink, TunLink, VethLink, VxlanLink)}


def link_of(entry: LinkEntry) -> Link:
    """A device of ours in a dump or a notification, as its driver's class."""
    return _BY_DRIVER.get(entry.driver, Link).of(entry)
