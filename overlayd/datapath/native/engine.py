"""The fast engine: bursts in C (module.c); set-up and whatever is rare in Python, here.

 1. offloads      probed on the TUN and the sockets (offloads.py); each can be left out by name
 2. table         a ForwardingTable is compiled into the native one (table.py)
 3. bursts        one native call each; punted packets get an ICMP reply as in the python engine
 4. capabilities  of announced peers are negotiated (datapath/capabilities.py)
 5. report        counters, gauges

The outer header's ECN field is Not-ECT towards peers that may ignore it (RFC 6040 section 4.3, compatibility mode), and
a copy of the inner one towards peers with that capability.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from ipaddress import ip_address

from overlayd.core.address import FAMILIES, Family
from overlayd.core.forward import (
    Change,
    ForwardingTable,
    Reply,
    Verdict,
    decide_inbound,
    decide_outbound,
    too_big_for,
)
from overlayd.core.mtu import UDP_OVERHEAD
from overlayd.core.offload import OFFLOADS
from overlayd.datapath.capabilities import Capabilities
from overlayd.datapath.contract import (
    DEFAULTS,
    NO_TUN,
    Counters,
    Degraded,
    Progress,
    Tap,
    Traffic,
    ignore_degraded,
    path_mtu,
)
from overlayd.datapath.handover import HandoverState
from overlayd.datapath.native import _native as native
from overlayd.datapath.native.offloads import (
    TUN_OFFLOADS,
    enable_tun_offloads,
    has_udp_gso,
    has_vnet_header,
    run_segments,
    set_udp_gro,
)
from overlayd.datapath.native.replies import Replies
from overlayd.datapath.native.table import NativeTable
from overlayd.datapath.settings import UdpSettings


class NativeEngine:
    """See `datapath.contract.Engine`. Fast on a TUN that was opened with a virtio-net header, right on any other."""

    name = "native"

    def __init__(
        self,
        tun: int,
        sockets: Mapping[Family, socket.socket],
        table: ForwardingTable,
        settings: UdpSettings = DEFAULTS,
        degraded: Degraded = ignore_degraded,
        now: Callable[[], float] = time.monotonic,
        *,
        vnet_header: bool | None = None,
    ) -> None:
        """`vnet_header`: how `tun` was opened; None asks the kernel."""
        self._sockets = dict(sockets)
        self._table = table
        self._replies = Replies(self._sockets, now)
        self._tap: Tap | None = None
        self._settings = settings
        self._without = frozenset(settings.without_offloads or ())
        self._degraded = degraded
        self._vnet_asked = vnet_header
        self._tx_bursts = self._rx_bursts = 0
        self._slots: dict[str, int] = {}
        self._free: list[int] = []
        self._granted: list[str] = []
        gso = "udp_gso" not in self._without and has_udp_gso(self._sockets.values())
        gro = set_udp_gro(self._sockets.values(), "udp_gro" not in self._without)
        self._socket_offloads = [name for name, on in (("udp_gso", gso), ("udp_gro", gro)) if on]
        fds = {family: sock.fileno() for family, sock in self._sockets.items()}
        self._segments = run_segments() if gso else 1
        self._native = native.Engine(fds.get(4, -1), fds.get(6, -1), self._segments, settings.busy_poll_us)
        self._compiled = NativeTable(self._slot)
        self._capabilities = Capabilities(self._native, self._replies.send, self._slots, self._compiled.numbers, now)
        self.replace_table(table)
        self.replace_tun(tun)

    # --- 1. offloads -------------------------------------------------------------------------------------------------

    def replace_tun(self, tun: int | None) -> None:
        if tun is None:
            self._tun = NO_TUN
            self._replies.use_tun(NO_TUN, vnet_header=False)
            self._native.replace_tun(NO_TUN, False, False, False)
            return
        self._tun = tun
        self._vnet = has_vnet_header(tun) if self._vnet_asked is None else self._vnet_asked
        self._replies.use_tun(tun, vnet_header=self._vnet)
        tun_offloads: list[str] = []
        if self._vnet:
            wanted = [name for name in TUN_OFFLOADS if name not in self._without]
            tun_offloads = [*wanted, "csum"] if self._vnet_asked else enable_tun_offloads(tun, wanted)
        coalesce_tcp = {"tso4", "tso6"} <= set(tun_offloads) and "coalesce_tcp" not in self._without
        coalesce_udp = "uso" in tun_offloads and "coalesce_udp" not in self._without
        self._coalesces = (coalesce_tcp, coalesce_udp)
        self._native.replace_tun(tun, self._vnet, *self._coalesces)
        coalesced = [name for name, on in (("coalesce_tcp", coalesce_tcp), ("coalesce_udp", coalesce_udp)) if on]
        self._granted = [*tun_offloads, *self._socket_offloads, *coalesced]

    def restore_offloads(self) -> None:
        self._native.set_run_segments(self._segments)
        if self._tun != NO_TUN:
            self._native.replace_tun(self._tun, self._vnet, *self._coalesces)
        if self._tap is not None:
            self.replace_tap(self._tap)

    # --- 2. table ----------------------------------------------------------------------------------------------------

    def replace_table(self, table: ForwardingTable, change: Change | None = None) -> None:
        if change is None:
            self._compiled.replace(table)
            gone = self._slots.keys() - {peer.name for peer in self._compiled.numbers}
        else:
            self._compiled.change(table, change)
            gone = {peer.name for _, peer in change.gone} - {peer.name for _, peer in change.come}
        self._native.replace_table(self._compiled.made)
        for slot in [self._slots.pop(name) for name in gone]:
            self._native.forget(slot)
            self._free.append(slot)
        self._table = table
        self._capabilities.replace_table(table, change)

    def _slot(self, name: str) -> int:
        if name not in self._slots:
            self._slots[name] = self._free.pop() if self._free else len(self._slots)
        return self._slots[name]

    # --- 3. bursts ---------------------------------------------------------------------------------------------------

    def outbound(self) -> int:
        count = self._native.outbound()
        if count >= native.ATTENTION:
            self._handle_attention()
            count -= native.ATTENTION
        self._tx_bursts += 1
        return count

    def inbound(self, underlay_family: Family) -> int:
        count = self._native.inbound(underlay_family)
        if count >= native.ATTENTION:
            self._handle_attention()
            count -= native.ATTENTION
        self._rx_bursts += 1
        return count

    def _handle_attention(self) -> None:
        """Disabled offloads, and punted packets."""
        for offload, number in self._native.degraded():
            self._degraded(offload, os.strerror(number))
        for reason, number, length, kept in self._native.punted():
            self._handle_punted(reason, number, length, kept)

    def _handle_punted(self, reason: int, number: int, length: int, kept: bytes) -> None:
        packet = kept.ljust(length, b"\0")  # decisions need the length; a reply quotes no more than was kept
        peer = self._compiled.peers.get(number)
        verdict: Verdict
        if reason == native.PUNT_OUTBOUND:
            verdict = decide_outbound(packet, self._table)
        elif peer is None:
            return
        elif reason == native.PUNT_HELLO:
            self._capabilities.receive(kept, peer)
            return
        elif reason == native.PUNT_INBOUND:
            verdict = decide_inbound(packet, peer.host, self._table)
        else:
            self._capabilities.disable_tunnel(peer)
            verdict = too_big_for(packet, path_mtu(peer) - UDP_OVERHEAD[peer.underlay_family], self._table)
        if isinstance(verdict, Reply):
            self._replies.reply(verdict.packet, peer if reason == native.PUNT_INBOUND else None)

    # --- 4. capabilities ---------------------------------------------------------------------------------------------

    def replace_tap(self, tap: Tap | None) -> None:
        self._tap = tap
        own = {family: sock.getsockname() for family, sock in self._sockets.items()}
        source4, source6 = (ip_address(own[family][0]).packed if family in own else b"" for family in FAMILIES)
        port = next(iter(own.values()))[1]
        self._native.replace_tap(tap.fileno() if tap else -1, tap.mac if tap else bytes(6), source4, source6, port)
        self._capabilities.replace_tap(tap)

    def send_hellos(self) -> None:
        self._capabilities.send_hellos()

    def capabilities(self) -> dict[str, list[str]]:
        return self._capabilities.describe()

    def handover_state(self) -> HandoverState:
        return HandoverState(
            self._segments,
            self._settings.busy_poll_us,
            self._vnet,
            *self._coalesces,
            self._table.mtu,
            self._compiled.values(self._table),
        )

    # --- 5. report ---------------------------------------------------------------------------------------------------

    def counters(self) -> Counters:
        replies = self._replies
        total, slots, dropped, unanswered = self._native.counters()
        tx, rx = (
            {reason: count for reason, count in zip(native.REASONS, dropped[direction], strict=True) if count}
            for direction in (native.OUTBOUND, native.INBOUND)
        )
        for drops, reason, count in ((rx, "tun_error", replies.tun_errors), (tx, "send_error", replies.send_errors)):
            if count:
                drops[reason] = drops.get(reason, 0) + count
        return Counters(
            total=Traffic(*total),
            peers={name: Traffic(*slots[slot]) for name, slot in self._slots.items() if any(slots[slot])},
            tx_drops=tx,
            rx_drops=rx,
            icmp_sent=replies.sent,
            icmp_limited=replies.limited + unanswered,
        )

    def unknown_sender(self) -> str | None:
        found = self._native.unknown_sender()
        return None if found is None else str(ip_address(found))

    @property
    def offloads(self) -> str:
        """What the kernel granted, for the log."""
        return ",".join(self._granted) or "none"

    @property
    def progress(self) -> Progress:
        tx_reads, rx_reads = self._native.reads()
        return Progress(self._tx_bursts, tx_reads, self._rx_bursts, rx_reads)

    def gauges(self) -> dict[str, int]:
        state = {name: int(name in self._granted) for name in OFFLOADS}
        return {**state, **self._native.gauges(), "busy_poll_us": self._settings.busy_poll_us}
