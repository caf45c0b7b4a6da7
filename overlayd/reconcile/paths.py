"""Paths to peers that are narrower than the underlay interface.

In host-gw mode the router with the narrow link answers the container itself. In udp and vxlan mode the kernel learns
the path MTU from ICMP, and yet forwards containers' packets by the MTU of the route, and they are lost
(ip_forward_use_pmtu is off, and the host's to set). So path MTUs go into the routes to that peer's subnets, by which
it tells containers:

1. probes      what they find goes there in any mode, whether ICMP errors come back or not
2. claims      what ICMP claims of a peer that is probed makes probes search at once, and nothing else: anybody can
               forge it. A claim that they refute is a problem in words, and the kernel is made to forget it
3. no probes   of a peer that answers none (flannel's do not) the kernel's word is taken
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from overlayd.backend.base import Backend
from overlayd.core.address import Address
from overlayd.log import log
from overlayd.reconcile.reconciler import Reconciler
from overlayd.system.errors import HostError
from overlayd.system.netlink import Netlink

_POLL_EVERY = 0.5  # seconds between reading the ICMP counters, which costs next to nothing
_REREAD_AFTER = 30.0  # seconds after which a narrow path is read again: the kernel forgets it (mtu_expires)
_REPORTED_FOR = 60.0  # seconds since a claim was last refuted


class PathProbes(Protocol):
    """What probes know of paths."""

    def narrow_paths(self) -> Mapping[Address, int]:
        """Underlay addresses whose path MTU is less than the interface's: bytes of IP packet."""

    def verify_path(self, address: Address, claimed: int) -> int | None:
        """The path MTU by probes since then, None while they are on their way; the claim where none is answered."""

    def forget_claim(self, address: Address) -> None:
        """A claim that was refuted: the next one is verified again."""


class PathFollower:
    """Path MTUs from ICMP and probes, given to the backend."""

    def __init__(
        self,
        netlink: Netlink,
        backend: Callable[[], Backend],
        reconciler: Reconciler,
        probes: PathProbes,
    ) -> None:
        self._netlink, self._backend, self._reconciler, self._probes = netlink, backend, reconciler, probes
        self._learnt: dict[Address, int] = {}
        self._refuted: dict[Address, tuple[int, int, float]] = {}
        """What was claimed, what probes have found, and when that was last seen."""
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
        if not backend.node.spec.routes_carry_path_mtu(backend.node):
            self._learnt = {}
        elif self._is_due():
            self._learnt = await self._netlink.paths()
        paths = self._narrowest(backend, self._probes.narrow_paths(), await self._verified(backend))
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

    async def _verified(self, backend: Backend) -> dict[Address, int]:
        """What the kernel has learnt of peers, without what probes have refuted, or have yet to confirm."""
        claims = self._narrowest(backend, self._learnt)
        found = {address: self._probes.verify_path(address, claimed) for address, claimed in claims.items()}
        refuted = {address: path for address, path in found.items() if path is not None and path > claims[address]}
        for address, path in refuted.items():
            self._report(address, claims[address], path)
        if refuted:
            await self._forget(refuted)
        return {address: path for address, path in found.items() if path is not None}

    async def _forget(self, refuted: Iterable[Address]) -> None:
        with suppress(HostError):  # /proc/sys may be read-only: then it stays as it is, and stays reported
            await self._netlink.forget_paths(self._learnt)
            self._learnt, self._counted = {}, ()  # and read it again
            for address in refuted:
                self._probes.forget_claim(address)

    def _report(self, address: Address, claimed: int, path: int) -> None:
        now, known = time.monotonic(), self._refuted.get(address)
        self._refuted[address] = claimed, path, now
        if known is None or now > known[2] + _REPORTED_FOR:
            log.warning("false ICMP errors about a path", peer=str(address), claimed=claimed, mtu=path)

    def problems(self) -> Iterator[str]:
        """The claims that were refuted lately, in words."""
        now, interface = time.monotonic(), self._backend().node.underlay.name
        self._refuted = {key: one for key, one in self._refuted.items() if now <= one[2] + _REPORTED_FOR}
        for address, (claimed, path, _) in self._refuted.items():
            capture = "icmp[0:2] == 0x0304" if address.version == 4 else "ip6[40] == 2"
            yield (
                f"{address}: ICMP errors claim that no more than {claimed} bytes get there, but probes of {path}"
                f" do: they are forged, or a router errs; overlayd ignores them"
                f" (their sender: tcpdump -ni {interface} '{capture}')"
            )

    def _narrowest(self, backend: Backend, *sources: Mapping[Address, int]) -> dict[Address, int]:
        """Of peers' paths that are narrower than the underlay."""
        found: dict[Address, int] = {}
        for source in sources:
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
