"""The fast engine: bursts in C (native.c), set-up and whatever is rare here.

 1. probe     which offloads the kernel grants on the TUN and on the sockets; each can be left out by name
 2. compile   a ForwardingTable into the native one (native_table.py)
 3. bursts    one native call each; the packets that it hands back are answered with ICMP as in the readable engine
 4. greet     peers that announced themselves, to find out what they can take (ways.py)
 5. report    counters, offloads

The outer header's ECN field is Not-ECT, whatever the inner one says, towards peers that may not heed it (RFC 6040
section 4.3, compatibility mode), and the inner one's towards those that say they do.
"""

from __future__ import annotations

import fcntl
import os
import platform
import socket
import struct
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from ipaddress import ip_address

from overlayd.core.address import FAMILIES, Family
from overlayd.core.forward import (
    Change,
    ForwardingTable,
    Peer,
    Reply,
    TokenBucket,
    Verdict,
    decide_inbound,
    decide_outbound,
    too_big_for,
)
from overlayd.core.mtu import UDP_OVERHEAD
from overlayd.core.offload import OFFLOADS
from overlayd.datapath.capabilities import Ways
from overlayd.datapath.contract import (
    DEFAULTS,
    ICMP_BURST,
    ICMP_RATE,
    NO_TUN,
    Counters,
    Degraded,
    Progress,
    Tap,
    Traffic,
    path_mtu,
    unheard,
)
from overlayd.datapath.handover import Recipe
from overlayd.datapath.native import _native as native
from overlayd.datapath.native.table import NativeTable
from overlayd.datapath.settings import UdpSettings

# <linux/if_tun.h>
_TUNGETIFF, _TUNSETOFFLOAD = 0x800454D2, 0x400454D0
_IFF_VNET_HDR = 0x4000
_TUN_F_CSUM = 0x01
_TUN_F = {"tso4": 0x02, "tso6": 0x04, "tso_ecn": 0x08, "uso": 0x20 | 0x40}
_IFREQ = struct.Struct("16sH22x")
# <linux/udp.h>
_SOL_UDP, _UDP_SEGMENT, _UDP_GRO = 17, 103, 104

_VNET_PLAIN = bytes(10)
_SEGMENTS, _SEGMENTS_OLD = 128, 64  # UDP_MAX_SEGMENTS since Linux 6.9 and before
_OUTBOUND, _INBOUND, _EMSGSIZE, _GREETING = 0, 1, 2, 3  # why a packet was handed back


class NativeEngine:
    """See `datapath.engine.Engine`. Fast on a TUN that was opened with a virtio-net header, right on any other."""

    name = "native"

    def __init__(
        self,
        tun: int,
        sockets: Mapping[Family, socket.socket],
        table: ForwardingTable,
        settings: UdpSettings = DEFAULTS,
        degraded: Degraded = unheard,
        now: Callable[[], float] = time.monotonic,
        *,
        vnet_header: bool | None = None,
    ) -> None:
        """`vnet_header`: how `tun` was opened; None asks the kernel."""
        self._sockets = dict(sockets)
        self._table = table
        self._now = now
        self._settings = settings
        self._without = frozenset(settings.without_offloads or ())
        self._degraded = degraded
        self._vnet_asked = vnet_header
        self._icmp = TokenBucket(ICMP_RATE, ICMP_BURST, now())
        self._icmp_sent = self._icmp_limited = self._answer_errors = 0
        self._reply_errors = 0
        self.progress = Progress()
        self._slots: dict[str, int] = {}
        self._free: list[int] = []
        self._granted: list[str] = []
        self._socket_offloads = [name for name, on in (("udp_gso", self._gso()), ("udp_gro", self._gro())) if on]
        segments = 1
        if "udp_gso" in self._socket_offloads:
            segments = _SEGMENTS if kernel() >= (6, 9) else _SEGMENTS_OLD
        fds = {family: sock.fileno() for family, sock in self._sockets.items()}
        self._segments = segments
        self._native = native.Engine(fds.get(4, -1), fds.get(6, -1), segments, settings.busy_poll_us)
        self._compiled = NativeTable(self._slot)
        self._ways = Ways(self._native, self._answer_peer, self._slots, self._compiled.numbers, now)
        self.replace_table(table)
        self.replace_tun(tun)

    # --- 1. probe ----------------------------------------------------------------------------------------------------

    def replace_tun(self, tun: int | None) -> None:
        if tun is None:
            self._tun = NO_TUN
            self._native.replace_tun(NO_TUN, False, False, False)
            return
        self._tun = tun
        self._vnet = _has_vnet_header(tun) if self._vnet_asked is None else self._vnet_asked
        tun_offloads: list[str] = []
        if self._vnet:
            wanted = [name for name in _TUN_F if name not in self._without]
            tun_offloads = [*wanted, "csum"] if self._vnet_asked else _grant(tun, wanted)
        join_tcp = {"tso4", "tso6"} <= set(tun_offloads) and "join_tcp" not in self._without
        join_udp = "uso" in tun_offloads and "join_udp" not in self._without
        self._joins = (join_tcp, join_udp)
        self._native.replace_tun(tun, self._vnet, *self._joins)
        joined = [name for name, on in (("join_tcp", join_tcp), ("join_udp", join_udp)) if on]
        self._granted = [*tun_offloads, *self._socket_offloads, *joined]

    def _gso(self) -> bool:
        if "udp_gso" in self._without:
            return False
        try:
            for sock in self._sockets.values():
                sock.getsockopt(_SOL_UDP, _UDP_SEGMENT)
        except OSError:
            return False
        return True

    def _gro(self) -> bool:
        wanted = int("udp_gro" not in self._without)
        try:
            for sock in self._sockets.values():
                sock.setsockopt(_SOL_UDP, _UDP_GRO, wanted)
        except OSError:
            return False
        return bool(wanted)

    # --- 2. compile --------------------------------------------------------------------------------------------------

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
        self._ways.replace_table(table, change)

    def _slot(self, name: str) -> int:
        if name not in self._slots:
            self._slots[name] = self._free.pop() if self._free else len(self._slots)
        return self._slots[name]

    # --- 3. bursts ---------------------------------------------------------------------------------------------------

    def outbound(self) -> int:
        count = self._native.outbound()
        if count >= native.ATTENTION:
            self._attend()
            count -= native.ATTENTION
        self.progress.tx_bursts += 1
        self.progress.tx_reads += max(count, 0)
        return count

    def inbound(self, underlay_family: Family) -> int:
        count = self._native.inbound(underlay_family)
        if count >= native.ATTENTION:
            self._attend()
            count -= native.ATTENTION
        self.progress.rx_bursts += 1
        self.progress.rx_reads += count
        return count

    def _attend(self) -> None:
        """What is rare: packets that deserve an answer, and offloads that the engine gave up."""
        for offload, number in self._native.degraded():
            self._degraded(offload, os.strerror(number))
        self._answer()

    def _answer(self) -> None:
        for direction, number, length, kept in self._native.refused():
            packet = kept.ljust(length, b"\0")  # decisions look at lengths; an answer quotes no more than was kept
            peer = self._compiled.peers.get(number)
            verdict: Verdict
            if direction == _OUTBOUND:
                verdict = decide_outbound(packet, self._table)
            elif peer is None:
                continue
            elif direction == _INBOUND:
                verdict = decide_inbound(packet, peer.host, self._table)
            elif direction == _GREETING:
                self._ways.heard(kept, peer)
                continue
            else:
                self._ways.lose_tunnel(peer)
                verdict = too_big_for(packet, path_mtu(peer) - UDP_OVERHEAD[peer.underlay_family], self._table)
            if not isinstance(verdict, Reply) or not self._may_answer():
                continue
            if direction == _INBOUND and peer is not None:
                self._answer_peer(verdict.packet, peer)
            else:
                self._answer_container(verdict.packet)

    def _answer_container(self, answer: bytes) -> None:
        try:
            os.write(self._tun, _VNET_PLAIN + answer if self._vnet else answer)
        except OSError:
            self._answer_errors += 1

    def _answer_peer(self, answer: bytes, peer: Peer) -> None:
        try:
            self._sockets[peer.underlay_family].sendto(answer, (peer.host, peer.port))
        except OSError:
            self._reply_errors += 1

    def _may_answer(self) -> bool:
        if self._icmp.take(self._now()):
            self._icmp_sent += 1
            return True
        self._icmp_limited += 1
        return False

    # --- 4. greet ----------------------------------------------------------------------------------------------------

    def replace_tap(self, tap: Tap | None) -> None:
        own = {family: sock.getsockname() for family, sock in self._sockets.items()}
        source4, source6 = (ip_address(own[family][0]).packed if family in own else b"" for family in FAMILIES)
        port = next(iter(own.values()))[1]
        self._native.replace_tap(tap.fileno() if tap else -1, tap.mac if tap else bytes(6), source4, source6, port)
        self._ways.replace_tap(tap)

    def greet(self) -> None:
        self._ways.greet()

    def ways(self) -> dict[str, list[str]]:
        return self._ways.describe()

    def recipe(self) -> Recipe:
        table = self._table.mtu, self._compiled.values(self._table)
        return self._segments, self._settings.busy_poll_us, self._vnet, *self._joins, *table

    # --- 5. report ---------------------------------------------------------------------------------------------------

    def counters(self) -> Counters:
        total, slots, tx_drops, rx_drops, unanswered = self._native.counters()
        tx = {reason: count for reason, count in zip(native.REASONS, tx_drops, strict=True) if count}
        rx = {reason: count for reason, count in zip(native.REASONS, rx_drops, strict=True) if count}
        if self._answer_errors:
            rx["tun_error"] = rx.get("tun_error", 0) + self._answer_errors
        if self._reply_errors:
            tx["send_error"] = tx.get("send_error", 0) + self._reply_errors
        return Counters(
            total=Traffic(*total),
            peers={name: Traffic(*slots[slot]) for name, slot in self._slots.items() if any(slots[slot])},
            tx_drops=tx,
            rx_drops=rx,
            icmp_sent=self._icmp_sent,
            icmp_limited=self._icmp_limited + unanswered,
        )

    @property
    def offloads(self) -> str:
        """What the kernel granted, for the log."""
        return ",".join(self._granted) or "none"

    def gauges(self) -> dict[str, int]:
        state = {name: int(name in self._granted) for name in OFFLOADS}
        return {**state, **self._native.gauges(), "busy_poll_us": self._settings.busy_poll_us}


def kernel() -> tuple[int, int]:
    """The release of the running kernel, such as (6, 17)."""
    major, minor = platform.release().split(".")[:2]
    return int(major), int("".join(digit for digit in minor if digit.isdigit()) or 0)


def _has_vnet_header(tun: int) -> bool:
    """Whether the TUN was opened with IFF_VNET_HDR; false for what is no TUN."""
    try:
        flags: int = _IFREQ.unpack(fcntl.ioctl(tun, _TUNGETIFF, bytes(_IFREQ.size)))[1]
    except OSError:
        return False
    return bool(flags & _IFF_VNET_HDR)


def _grant(tun: int, wanted: list[str]) -> list[str]:
    """Turn on what can be, the youngest feature given up first (USO came with Linux 6.2); the names, csum the last."""
    while True:
        bits = _TUN_F_CSUM
        for name in wanted:
            bits |= _TUN_F[name]
        with suppress(OSError):
            fcntl.ioctl(tun, _TUNSETOFFLOAD, bits)
            return [*wanted, "csum"]
        if not wanted:
            return []
        wanted = wanted[:-1]
