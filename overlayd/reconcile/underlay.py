"""Follows the underlay interface: down and up again, another MTU, other addresses, made anew.

down, or gone         what is there stays; its coming back is heard
up again              everything is compared: with the interface the kernel has forgotten what went over it
an address is away    a little patience: whoever replaces it does so in two steps, and IPv6 addresses go with "down"
otherwise another     the node is found out anew, as at a start, and gone over to, as on a reload
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import structlog

from overlayd.core.node import Node
from overlayd.core.underlay import HostInterface
from overlayd.registry.base import RegistryError
from overlayd.system.errors import HostError
from overlayd.system.netlink import Netlink

log = structlog.get_logger()

_PATIENCE = 3.0  # seconds that an address may be away
_AGAIN = 10.0  # seconds after which what failed is tried again, should nothing be heard before


class UnderlayFollower:
    """Knows how the underlay interface is, and whether that is a problem."""

    def __init__(
        self,
        netlink: Netlink,
        node: Callable[[], Node],
        change: Callable[[], Awaitable[None]],
        compare: Callable[[], Awaitable[object]],
    ) -> None:
        """`change` goes over to the node as it is found now, and raises HostError or RegistryError where it cannot."""
        self._netlink, self._node, self._change, self._compare = netlink, node, change, compare
        self.trouble: str | None = None
        """Why the overlay has no working underlay, in words."""
        self._missing_since: float | None = None

    async def follow(self) -> float | None:
        """Look, and do what is to be done; in how many seconds to look again, if at all."""
        try:
            return await self._follow()
        except (HostError, RegistryError) as error:
            self._say(f"{error}; the overlay stays as it was")
            return _AGAIN

    async def _follow(self) -> float | None:
        was = self._node().underlay
        found = next((one for one in await self._netlink.interfaces() if one.name == was.name), None)
        if found is None or not found.up:
            self._say(f"interface {was.name} is {'gone' if found is None else 'down'}: no peer can be reached")
            return None
        left = self._patience(found)
        if left > 0:
            return left
        if (found.index, found.mtu, found.addresses) != (was.index, was.mtu, was.addresses):
            await self._change()
            self._tell(self._node())
        else:
            await self._compare()
        self._say(None)
        return None

    def _patience(self, found: HostInterface) -> float:
        """Seconds to wait for an address that packets are sent from and that nothing has replaced yet."""
        node = self._node()
        missing = [underlay_family for underlay_family in node.underlay_families if not found.usable(underlay_family)]
        if not missing:
            self._missing_since = None
            return 0.0
        now = time.monotonic()
        if self._missing_since is None:
            self._missing_since = now
            log.warning("the underlay has lost its address", interface=found.name, families=missing)
        return self._missing_since + _PATIENCE - now

    def _tell(self, node: Node) -> None:
        underlay = node.underlay
        log.warning(
            "follows the underlay",
            interface=underlay.name,
            underlay_mtu=underlay.mtu,
            mtu=node.overlay_mtu,
            public_ip=str(underlay.public_ip) if underlay.public_ip else None,
            public_ipv6=str(underlay.public_ipv6) if underlay.public_ipv6 else None,
        )

    def _say(self, trouble: str | None) -> None:
        if trouble is not None and trouble != self.trouble:
            log.error("the underlay cannot be used", reason=trouble)
        elif trouble is None and self.trouble is not None:
            log.info("the underlay can be used again")
        self.trouble = trouble
