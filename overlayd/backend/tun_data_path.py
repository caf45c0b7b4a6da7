"""The data path of modes in which overlayd itself moves the packets: the TUN, the sockets and the engine between them.

    TUN ovl0 --read--> engine --send--> UDP socket       to the peer that holds the lease
    UDP socket --read--> engine --write--> TUN ovl0

A mode says which port and which engine (`udp_data_path.py`, `wireguard_data_path.py`). One TUN; one socket for each
underlay family in use. systemd keeps them open over a restart (`datapath/handover.py`).
"""

from __future__ import annotations

import asyncio
import select
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial

from overlayd.backend.tun import DEVICE
from overlayd.core.address import Address, Family
from overlayd.core.forward import Change, ForwardingTable
from overlayd.core.leases.lease import Lease
from overlayd.core.leases.table import LeaseEvent
from overlayd.core.node import Node
from overlayd.datapath.contract import TUN_GONE, Counters, Degraded, Engine, Progress
from overlayd.datapath.faults import FaultDetector
from overlayd.datapath.handover import SOCKETS, STATE, TUN, HandoverFile
from overlayd.datapath.offload_retry import OffloadRetry
from overlayd.datapath.peers import PeerTable
from overlayd.log import log
from overlayd.system.device import fault
from overlayd.system.errors import HostError
from overlayd.system.files import write_sysctl
from overlayd.system.service_manager import ServiceManager
from overlayd.system.tun import Tun, refusal
from overlayd.system.udp_socket import adopt_udp_socket, is_bound, open_udp_socket

_SAVE_AFTER = 1.0  # seconds in which changes of the table are gathered; a handover may be that much behind

Make = Callable[[int, Mapping[Family, socket.socket], ForwardingTable, Degraded], Engine]
"""How an engine is made: as `datapath.contract.MakeEngine`, with the mode's settings."""


class TunDataPath(ABC):
    """See `backend.data_path.DataPath`."""

    def __init__(self, node: Node, port: int, manager: ServiceManager) -> None:
        """`port`: of this host, for messages. The service manager keeps the TUN and the sockets open, and what waits in
        them, until our next run."""
        self._node = node
        self._manager = manager
        self._sockets: dict[Family, socket.socket] = {}
        self._tun: Tun | None = None
        self._engine: Engine | None = None
        self._handover_file: HandoverFile | None = None
        self._saving: asyncio.TimerHandle | None = None
        self._retry = OffloadRetry(self._restore_offloads)
        self._peers = PeerTable(node, self._port_over)
        self._faults = FaultDetector(DEVICE, port)

    @abstractmethod
    def _port_over(self, underlay_family: Family) -> int:
        """The UDP port on an address of that family: this host's, and the peers' whose leases do not tell."""

    @abstractmethod
    def _choose(self) -> tuple[str, Make]:
        """The engine's name, and how it is made. Raises HostError."""

    @abstractmethod
    def _begun(self, engine: Engine) -> None:
        """Packets move, for the first time or again on another TUN."""

    def refusals(self, readers: bool) -> Iterator[HostError]:
        kept = self._manager.given
        if TUN not in kept and (refused := refusal(DEVICE, attached=readers)) is not None:
            yield refused
        for underlay_family, local, port in self._ends():
            name = SOCKETS[underlay_family]
            if name in kept and is_bound(kept[name], local, port):
                continue
            try:
                open_udp_socket(local, port).close()
            except HostError as error:
                yield error

    def _ends(self) -> Iterator[tuple[Family, Address, int]]:
        """The addresses and ports that packets are sent from."""
        for underlay_family in self._node.underlay_families:
            local = self._node.underlay.local(underlay_family)
            assert local is not None  # this host has an address of every family in use
            yield underlay_family, local, self._port_over(underlay_family)

    def open(self) -> None:
        for underlay_family, local, port in self._ends():
            self._sockets[underlay_family] = self._open_socket(SOCKETS[underlay_family], local, port)

    def _open_socket(self, name: str, local: Address, port: int) -> socket.socket:
        kept = self._manager.take(name)
        if kept is not None:
            try:
                return adopt_udp_socket(kept, local, port)
            except HostError as error:
                self._discard(name, error)
        sock = open_udp_socket(local, port)
        self._manager.keep(name, sock.fileno())
        return sock

    def _discard(self, name: str, error: HostError) -> None:
        log.warning(
            "file descriptor kept by the service manager cannot be used: packets queued in it are lost",
            reason=str(error),
        )
        self._manager.forget(name)  # else it would still be attached, or bound, and we could not be

    def resume(self, devices: Collection[str]) -> None:
        kept = self._manager.take(TUN)
        if kept is None:
            if DEVICE in devices:
                self.attach()
            return
        name, make = self._choose()
        try:
            tun = Tun(DEVICE, vnet_header=name == "native", kept=kept)
        except HostError as error:
            self._discard(TUN, error)
            return
        self._begin(tun, make)

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
        self._begin(tun, make)

    def _begin(self, tun: Tun, make: Make) -> None:
        self._tun = tun
        # Our ICMP errors enter through the TUN with this host's own overlay address as their source. The kernel takes
        # such a packet for a spoofed one unless told otherwise; the engine lets none in from the underlay.
        try:
            write_sysctl(f"net/ipv4/conf/{DEVICE}/accept_local", "1")
        except HostError as error:
            log.warning("ICMP errors from the engine will not reach containers", error=str(error))
        if self._engine is None:
            self._engine = make(self._tun.fileno(), self._sockets, self._peers.table, self._retry.refused)
            log.info("packet engine", engine=self._engine.name, offloads=self._engine.offloads)
        else:
            self._engine.replace_tun(self._tun.fileno())
        self._save_state(self._engine)
        self._begun(self._engine)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._tun.fileno(), self._outbound, self._engine)
        for underlay_family, sock in self._sockets.items():
            loop.add_reader(sock.fileno(), partial(self._engine.inbound, underlay_family))

    def _save_state(self, engine: Engine) -> None:
        """Have the service manager keep the state that packets are moved by until the next run is up."""
        if self._saving is not None:
            self._saving.cancel()
            self._saving = None
        state = engine.handover_state() if self._manager else None
        if state is None:
            return
        if self._handover_file is None:
            self._handover_file = HandoverFile()
            self._manager.keep(STATE, self._handover_file.fd)
        self._handover_file.write(state)

    def _outbound(self, engine: Engine) -> None:
        if engine.outbound() == TUN_GONE:
            log.error("the TUN is gone; recreating it", device=DEVICE)
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
        self._retry.cancel()
        if self._saving is not None:
            self._saving.cancel()
            self._saving = None
        if self._handover_file is not None:
            self._handover_file.close()
            self._handover_file = None
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
        poll = select.poll()
        for fd in fds:
            poll.register(fd, select.POLLIN)
        return frozenset(fds[fd] for fd, events in poll.poll(0) if events & select.POLLIN)

    # --- peers -----------------------------------------------------------------------------------------------------

    def use(self, node: Node, peers: Iterable[Lease]) -> None:
        self._node = node
        self._peers.replace(node, peers)
        self._replace_table()

    def on_leases(self, events: Sequence[LeaseEvent]) -> None:
        self._replace_table(self._peers.apply(events))

    def _replace_table(self, change: Change | None = None) -> None:
        if self._engine is not None:
            self._engine.replace_table(self._peers.table, change)
            if self._manager and self._saving is None:
                self._saving = asyncio.get_running_loop().call_later(_SAVE_AFTER, self._save_state, self._engine)

    # --- state and counters ------------------------------------------------------------------------------------------

    def _restore_offloads(self) -> None:
        if self._engine is not None:
            self._engine.restore_offloads()

    def faults(self, now: float) -> list[str]:
        if self._tun is None or self._engine is None:
            return [f"{DEVICE}: the TUN is gone: packets of containers are lost until it is made again"]
        found = [text for text in (fault(DEVICE),) if text is not None]
        return [*found, *self._faults.poll(self._engine, self.waiting(), now)]

    @property
    def progress(self) -> Progress | None:
        return self._engine.progress if self._engine is not None else None

    @property
    def engine(self) -> str | None:
        return self._engine.name if self._engine is not None else None

    def counters(self) -> Counters | None:
        return self._engine.counters() if self._engine is not None else None

    def unknown_sender(self) -> str | None:
        return self._engine.unknown_sender() if self._engine is not None else None

    def capabilities(self) -> dict[str, list[str]]:
        return self._engine.capabilities() if self._engine is not None else {}

    def gauges(self) -> dict[str, int]:
        return self._engine.gauges() if self._engine is not None else {}
