"""Paths to peers that are narrower than the underlay interface.

In udp mode the engine gets EMSGSIZE and answers with ICMP, packet by packet; in host-gw mode the router with the narrow
link answers the container itself. In vxlan mode neither happens: the kernel learns the path MTU from ICMP, and yet
forwards containers' packets by the MTU of the route, and they are lost (ip_forward_use_pmtu is off, and the host's to
set). So what it has learnt goes into the routes to that peer's subnets, by which it tells containers.

What probes have found, where no ICMP comes back, goes there too, in any mode.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from overlayd.backend.base import Backend
from overlayd.core.address import Address
from overlayd.log import log
from overlayd.reconcile.reconciler import Reconciler
from overlayd.system.errors import HostError
from overlayd.system.netlink import Netlink

_POLL_EVERY = 1.0  # seconds between reading the ICMP counters, which costs next to nothing
_REREAD_AFTER = 30.0  # seconds after which a narrow path is read again: the kernel forgets it (mtu_expires)


class PathFollower:
    """Path MTUs from ICMP and probes, given to the backend."""

    def __init__(
        self,
        netlink: Netlink,
        backend: Callable[[], Backend],
        reconciler: Reconciler,
        probed: Callable[[], Mapping[Address, int]],
    ) -> None:
        """`probed`: how many bytes of IP packet get to underlay addresses, as probes have found it."""
        self._netlink, self._backend, self._reconciler, self._probed = netlink, backend, reconciler, probed
        self._learnt: dict[Address, int] = {}
        self._counted: tuple[str, ...] = ()
        self._read_at = 0.0

    async def run(self) -> None:
        """Follow without end."""
        while True:
            await asyncio.sleep(_POLL_EVERY)
            try:
                await self.follow()
            except HostError as error:
                log.error("path MTUs cannot be read", error=str(error))

    async def follow(self) -> None:
        """Poll once, and apply what has changed. Raises HostError."""
        backend = self._backend()
        if backend.node.spec.routes_carry_path_mtu and self._is_due():
            self._learnt = await self._netlink.paths()
        paths = self._narrow(backend)
        if paths != backend.paths:
            for public in paths.keys() | backend.paths.keys():
                if paths.get(public) != backend.paths.get(public):
                    log.info("path MTU", peer=str(public), mtu=paths.get(public, backend.node.underlay.mtu))
            await self._reconciler.apply_paths(backend, paths)

    def _is_due(self) -> bool:
        counted, now = _icmp_counters(), time.monotonic()
        if counted == self._counted and not (self._learnt and now > self._read_at + _REREAD_AFTER):
            return False
        self._counted, self._read_at = counted, now
        return True

    def _narrow(self, backend: Backend) -> dict[Address, int]:
        found: dict[Address, int] = {}
        for source in (self._learnt if backend.node.spec.routes_carry_path_mtu else {}, self._probed()):
            for address, mtu in source.items():
                if mtu < backend.node.underlay.mtu and self._reconciler.table.is_public(address):
                    found[address] = min(mtu, found.get(address, mtu))
        return found


def _icmp_counters() -> tuple[str, ...]:
    """ICMP errors received of the kinds that carry a path MTU: Destination Unreachable, Packet Too Big."""
    found = []
    with suppress(OSError, ValueError, IndexError):
        names, values = (line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if "Icmp:" in line)
        found.append(values[names.index("InDestUnreachs")])
    with suppress(OSError):
        lines = Path("/proc/net/snmp6").read_text().splitlines()
        found += [line for line in lines if line.startswith("Icmp6InPktTooBigs")]
    return tuple(found)
