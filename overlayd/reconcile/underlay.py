"""Follows the underlay interface: down and up again, another MTU, other addresses, recreated.

down or gone          what is there stays; a notification tells when it is back
up again              everything is compared: the kernel has forgotten what went over the interface
address missing       a grace period: an address is replaced in two steps, and IPv6 addresses go with "down"
otherwise changed     the node is discovered as at a start, and applied as on a reload
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from overlayd.core.node import Node
from overlayd.core.underlay import HostInterface
from overlayd.log import log
from overlayd.registry.base import RegistryError
from overlayd.system.errors import HostError
from overlayd.system.netlink import Netlink

_GRACE_PERIOD = 3.0  # seconds that an address may be missing
_RETRY_AFTER = 10.0  # seconds after which what failed is tried again, without a notification


class UnderlayFollower:
    """Checks the underlay interface; `trouble` is what is wrong with it."""

    def __init__(
        self,
        netlink: Netlink,
        node: Callable[[], Node],
        change: Callable[[], Awaitable[None]],
        compare: Callable[[], Awaitable[object]],
        recovered: Callable[[], None],
    ) -> None:
        """`change` applies the node as it is discovered now, and raises HostError or RegistryError where it cannot;
        `recovered` is called when the interface is usable again, or another."""
        self._netlink, self._node, self._change, self._compare = netlink, node, change, compare
        self._recovered = recovered
        self.trouble: str | None = None
        """Why the overlay has no working underlay, in words."""
        self._missing_since: float | None = None

    async def follow(self) -> float | None:
        """Check, and apply what has changed; in how many seconds to check again, if at all."""
        try:
            return await self._follow()
        except (HostError, RegistryError) as error:
            self._set_trouble(f"{error}; the overlay stays as it is")
            return _RETRY_AFTER

    async def _follow(self) -> float | None:
        was = self._node().underlay
        found = next((one for one in await self._netlink.interfaces() if one.name == was.name), None)
        if found is None or not found.up:
            self._set_trouble(f"interface {was.name} is {'gone' if found is None else 'down'}: no peer can be reached")
            return None
        left = self._grace_left(found)
        if left > 0:
            if self.trouble is not None:  # what it was has passed
                self._set_trouble(f"interface {was.name} is up without an address that packets were sent from")
            return left
        if (found.index, found.mtu, found.addresses) != (was.index, was.mtu, was.addresses):
            await self._change()
            self._log_change(self._node())
        else:
            await self._compare()
        self._set_trouble(None)
        self._recovered()
        return None

    def _grace_left(self, found: HostInterface) -> float:
        """Seconds to wait for another address in place of a missing one that packets are sent from."""
        node = self._node()
        missing = [underlay_family for underlay_family in node.underlay_families if not found.usable(underlay_family)]
        if not missing:
            self._missing_since = None
            return 0.0
        now = time.monotonic()
        if self._missing_since is None:
            self._missing_since = now
            log.warning("underlay has lost its address", interface=found.name, families=missing)
        return self._missing_since + _GRACE_PERIOD - now

    def _log_change(self, node: Node) -> None:
        underlay = node.underlay
        log.warning(
            "applied the changed underlay",
            interface=underlay.name,
            underlay_mtu=underlay.mtu,
            mtu=node.overlay_mtu,
            public_ip=str(underlay.public_ip) if underlay.public_ip else None,
            public_ipv6=str(underlay.public_ipv6) if underlay.public_ipv6 else None,
        )

    def _set_trouble(self, trouble: str | None) -> None:
        if trouble is not None and trouble != self.trouble:
            log.error("underlay is unusable", reason=trouble)
        elif trouble is None and self.trouble is not None:
            log.info("underlay is usable again")
        self.trouble = trouble
