"""udp mode: this daemon encapsulates. The UDP payload is the container's IP packet and nothing else (flannel's format).

A container's packet for 10.1.2.5 meets, in this order:

    route 10.1.2.0/24 dev ovl0         only what is leased: for the rest of the network the kernel itself answers
    ovl0                               a TUN: what the kernel sends into it, the daemon reads
    the engine                         decides, and sends it to the peer that holds the lease
    a UDP socket                       adds UDP and IP headers; source port and destination port are the same

One TUN; one socket for each underlay family in use.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from ipaddress import ip_interface
from itertools import chain

import structlog

from overlayd.core.address import Address as IpAddress
from overlayd.core.address import Family, Network
from overlayd.core.forward import Change, ForwardingTable, Peer
from overlayd.core.kernel.firewall import Guarded
from overlayd.core.kernel.kinds import KernelObject, LinkAddress, Route, TunLink
from overlayd.core.leases.lease import Lease
from overlayd.core.leases.table import LeaseEvent
from overlayd.core.node import Node
from overlayd.datapath.contract import TUN_GONE, Counters, Engine, MakeEngine, Progress, choose
from overlayd.datapath.handover import RECIPE, SOCKETS, TUN, Shelf
from overlayd.datapath.negotiation import GREET_EVERY
from overlayd.datapath.python import PythonEngine
from overlayd.datapath.settings import UdpSettings
from overlayd.datapath.stall import STALLED_AFTER, Refusals, StallDetector
from overlayd.system.device import ailment
from overlayd.system.errors import HostError
from overlayd.system.files import write_sysctl
from overlayd.system.service_manager import ServiceManager
from overlayd.system.tun import Tun
from overlayd.system.tunnel_tap import TunnelTap
from overlayd.system.udp_socket import adopt_udp_socket, open_udp_socket

log = structlog.get_logger()

DEVICE = "ovl0"
TAP = "ovl-gso"
_SHELVE_AFTER = 1.0  # seconds in which changes of the table are gathered; a stand-in may be so much behind
_TXQUEUELEN = 1000  # packets; twice the default, so that a burst survives a late wake-up

ENGINES: tuple[tuple[str, MakeEngine], ...] = (("python", PythonEngine),)
"""Fastest first."""
NO_NATIVE = ""
"""Why the native engine is not among them."""
try:
    from overlayd.datapath.native.engine import NativeEngine
except ImportError as error:  # built without a C compiler
    NO_NATIVE = str(error)
else:
    ENGINES = (("native", NativeEngine), *ENGINES)


class UdpBackend:
    """See `backend.base.Backend`."""

    devices: tuple[str, ...] = (DEVICE,)
    guarded: tuple[Guarded, ...] = ()

    def __init__(self, node: Node, settings: UdpSettings, manager: ServiceManager | None = None) -> None:
        """The service manager keeps the TUN and the sockets open, and what waits in them, until our next run."""
        self.node = node
        self.paths: Mapping[IpAddress, int] = {}
        self._settings = settings
        self._manager = manager or ServiceManager()
        self._sockets: dict[Family, socket.socket] = {}
        self._tun: Tun | None = None
        self._engine: Engine | None = None
        self._tap: TunnelTap | None = None
        self._greeting: asyncio.TimerHandle | None = None
        self._shelf: Shelf | None = None
        self._shelving: asyncio.TimerHandle | None = None
        self._routes: dict[str, list[tuple[Network, Peer]]] = {}
        """What each peer's lease comes to in the table, by the lease's key."""
        self._stalls = StallDetector()
        self._refused_out, self._refused_in = Refusals(), Refusals()
        self._table = self._make_table(())

    # --- kernel state ----------------------------------------------------------------------------------------------

    def base(self) -> Sequence[KernelObject]:
        link = TunLink(DEVICE, self.node.overlay_mtu, txqueuelen=_TXQUEUELEN)
        bases = [(subnet.network_address, subnet.max_prefixlen) for subnet in self.node.lease.subnets]
        return [link, *(LinkAddress(DEVICE, ip_interface(base)) for base in bases)]

    def peer(self, lease: Lease) -> Sequence[KernelObject]:
        return [
            Route(subnet, DEVICE, own_link=True, mtu=self.node.route_mtu(subnet, public, self.paths))
            for subnet, public in self.node.reachable(lease)
        ]

    # --- packets ---------------------------------------------------------------------------------------------------

    def open(self) -> None:
        for underlay_family in self.node.underlay_families:
            local = self.node.underlay.local(underlay_family)
            assert local is not None  # this host has an address of every family in use
            self._sockets[underlay_family] = self._open_socket(SOCKETS[underlay_family], local)

    def _open_socket(self, name: str, local: IpAddress) -> socket.socket:
        kept = self._manager.take(name)
        if kept is not None:
            try:
                return adopt_udp_socket(kept, local, self._settings.port)
            except HostError as error:
                self._give_up(name, error)
        sock = open_udp_socket(local, self._settings.port)
        self._manager.keep(name, sock.fileno())
        return sock

    def _give_up(self, name: str, error: HostError) -> None:
        log.warning("what the service manager kept is not used: packets that waited in it are lost", reason=str(error))
        self._manager.forget(name)  # else it would still be attached, or bound, and we could not be

    def resume(self) -> None:
        kept = self._manager.take(TUN)
        if kept is None:
            return
        name, make = self._choose()
        try:
            tun = Tun(DEVICE, vnet_header=name == "native", kept=kept)
        except HostError as error:
            self._give_up(TUN, error)
            return
        self._begin(tun, name, make)

    def attach(self) -> None:
        if self._tun is not None:
            if self._tun.attached:
                return
            # The event loop tells once that the device is gone, and a read in that very moment may still say that
            # nothing waits: then nobody has noticed yet.
            self._detach()
        if not self._sockets:
            return
        name, make = self._choose()
        tun = Tun(DEVICE, vnet_header=name == "native")
        self._manager.keep(TUN, tun.fileno())
        self._begin(tun, name, make)

    def _begin(self, tun: Tun, name: str, make: MakeEngine) -> None:
        self._tun = tun
        # Our ICMP errors enter through the TUN with this host's own overlay address as their source. The kernel takes
        # such a packet for a spoofed one unless told otherwise; the engine lets none in from the underlay.
        try:
            write_sysctl(f"net/ipv4/conf/{DEVICE}/accept_local", "1")
        except HostError as error:
            log.warning("ICMP errors from the engine will not reach containers", error=str(error))
        if self._engine is None:
            self._engine = make(self._tun.fileno(), self._sockets, self._table, self._settings, _tell_degraded)
            log.info("packet engine", engine=self._engine.name, offloads=self._engine.offloads)
            if self._settings.busy_poll_us and name != "native":
                log.warning("only the native engine polls; the setting does nothing", setting="udp.busy_poll_us")
        else:
            self._engine.replace_tun(self._tun.fileno())
        self._shelve(self._engine)
        self._open_tap(self._engine)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._tun.fileno(), self._outbound, self._engine)
        for underlay_family, sock in self._sockets.items():
            loop.add_reader(sock.fileno(), partial(self._engine.inbound, underlay_family))

    def _shelve(self, engine: Engine) -> None:
        """Keep what a stand-in goes on with when the next run starts."""
        if self._shelving is not None:
            self._shelving.cancel()
            self._shelving = None
        recipe = engine.recipe() if self._manager else None
        if recipe is None:
            return
        if self._shelf is None:
            self._shelf = Shelf()
            self._manager.keep(RECIPE, self._shelf.fd)
        self._shelf.write(recipe)

    def _open_tap(self, engine: Engine) -> None:
        """Where this host announces that it is overlayd: the TAP for superpackets, and questions to peers."""
        if self._greeting is not None or self.node.lease.wire != "overlayd":
            return
        if engine.name != "native":
            log.warning("only the native engine knows more than flannel's wire format", lease=str(self.node.lease))
            return
        if "tunnel_gso" not in (self._settings.without_offloads or ()):
            try:
                self._tap = TunnelTap(TAP, self.node.underlay.name)
            except HostError as error:
                log.info("no tunnel GSO", reason=str(error))
        engine.replace_tap(self._tap)
        self._greet(engine)

    def _greet(self, engine: Engine) -> None:
        engine.greet()
        self._greeting = asyncio.get_running_loop().call_later(GREET_EVERY, self._greet, engine)

    def _choose(self) -> tuple[str, MakeEngine]:
        wanted = self._settings.engine
        if NO_NATIVE and wanted == "native":
            raise HostError(
                f"udp.engine: native is not installed ({NO_NATIVE}); install a C compiler, then overlayd anew"
            )
        if NO_NATIVE and wanted == "auto" and self._engine is None:
            log.warning("the native engine is not installed: packets take the slow way", reason=NO_NATIVE)
        return choose(wanted, ENGINES)

    def _outbound(self, engine: Engine) -> None:
        if engine.outbound() == TUN_GONE:
            log.error("the TUN is gone; it is made again at once", device=DEVICE)
            self._detach()

    def _detach(self) -> None:
        if self._tun is not None:
            asyncio.get_running_loop().remove_reader(self._tun.fileno())
            if self._engine is not None:  # the sockets go on: what comes for containers must not go into another file
                self._engine.replace_tun(None)
            self._tun.close()
            self._tun = None

    def stop(self) -> None:
        self._detach()
        if self._greeting is not None:
            self._greeting.cancel()
            self._greeting = None
        if self._tap is not None:
            self._tap.close()
            self._tap = None
        if self._shelving is not None:
            self._shelving.cancel()
            self._shelving = None
        if self._shelf is not None:
            self._shelf.close()
            self._shelf = None
        for sock in self._sockets.values():
            with suppress(RuntimeError):
                asyncio.get_running_loop().remove_reader(sock.fileno())
            sock.close()
        self._sockets.clear()
        self._engine = None  # it holds the sockets that are closed now

    def waiting(self) -> frozenset[str]:
        fds = {sock.fileno(): "inbound" for sock in self._sockets.values()}
        if self._tun is not None:
            fds[self._tun.fileno()] = "outbound"
        look = select.poll()
        for fd in fds:
            look.register(fd, select.POLLIN)
        return frozenset(fds[fd] for fd, events in look.poll(0) if events & select.POLLIN)

    def peers_changed(self, peers: Iterable[Lease]) -> None:
        self._use(self._make_table(peers))

    def peers_moved(self, events: Sequence[LeaseEvent]) -> None:
        gone = [route for event in events for route in self._routes.pop(event.lease.key, ())]
        new = {event.lease.key: self._of(event.new) for event in events if event.new is not None}
        self._routes.update(new)
        change = Change(gone, [route for routes in new.values() for route in routes])
        self._use(self._table.changed(change), change)

    def _use(self, table: ForwardingTable, change: Change | None = None) -> None:
        self._table = table
        if self._engine is not None:
            self._engine.replace_table(table, change)
            if self._manager and self._shelving is None:
                self._shelving = asyncio.get_running_loop().call_later(_SHELVE_AFTER, self._shelve, self._engine)

    def _make_table(self, peers: Iterable[Lease]) -> ForwardingTable:
        self._routes = {lease.key: self._of(lease) for lease in peers}
        routes = chain.from_iterable(self._routes.values())
        own = self.node.lease.subnets
        return ForwardingTable(own, [subnet.network_address for subnet in own], self.node.overlay_mtu, routes)

    def _of(self, lease: Lease) -> list[tuple[Network, Peer]]:
        made: dict[str, Peer] = {}  # one peer for both of a lease's subnets where one underlay family takes both
        routes = []
        announced = self.node.lease.wire == lease.wire == "overlayd"
        for subnet, public in self.node.reachable(lease):
            host = str(public)
            peer = made.setdefault(host, Peer(host, self._settings.port, public.version, lease.key, announced))
            routes.append((subnet, peer))
        return routes

    # --- how it is -------------------------------------------------------------------------------------------------

    def ailments(self, now: float) -> list[str]:
        if self._tun is None or self._engine is None:
            return [f"{DEVICE}: the TUN is gone: nothing of the containers' leaves until it is made again"]
        found = [text for text in (ailment(DEVICE),) if text is not None]
        stalled = self._stalls.update(self.waiting(), self._engine.progress, now)
        if (seconds := stalled.get("outbound", 0.0)) >= STALLED_AFTER:
            found.append(f"{DEVICE}: packets wait on the TUN, and the engine has read none for {seconds:.0f} s")
        if (seconds := stalled.get("inbound", 0.0)) >= STALLED_AFTER:
            found.append(f"UDP port {self._settings.port}: datagrams wait, none has been read for {seconds:.0f} s")
        return found + self._refusals(self._engine, now)

    def _refusals(self, engine: Engine, now: float) -> list[str]:
        if self._refused_out.due(now):
            counters = engine.counters()
            full, error = (counters.tx_drops.get(reason, 0) for reason in ("send_buffer_full", "send_error"))
            self._refused_out.update(counters.total.tx_packets, full + error, now)
            self._refused_in.update(counters.total.rx_packets, counters.rx_drops.get("tun_error", 0), now)
        found = []
        if out := self._refused_out.verdict:
            found.append(f"underlay: it refused the last {out} datagrams and took none (route, interface, firewall?)")
        if into := self._refused_in.verdict:
            found.append(f"{DEVICE}: the kernel refused the last {into} packets from peers and took none")
        return found

    @property
    def progress(self) -> Progress | None:
        return self._engine.progress if self._engine is not None else None

    @property
    def engine(self) -> str | None:
        return self._engine.name if self._engine is not None else None

    def counters(self) -> Counters | None:
        return self._engine.counters() if self._engine is not None else None

    def ways(self) -> dict[str, list[str]]:
        return self._engine.ways() if self._engine is not None else {}

    def gauges(self) -> dict[str, int]:
        return self._engine.gauges() if self._engine is not None else {}


def _tell_degraded(offload: str, seen: str) -> None:
    log.warning("an offload does not work here: packets take a slower way", offload=offload, error=seen)
