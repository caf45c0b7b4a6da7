"""The fast engine: bursts in C (native.c), set-up and whatever is rare here.

 1. probe     which offloads the kernel grants on the TUN and on the sockets; each can be left out by name
 2. compile   a ForwardingTable into the native one
 3. bursts    one native call each; the packets that it hands back are answered with ICMP as in the readable engine
 4. report    counters, offloads

The outer header's ECN field is Not-ECT, whatever the inner one says: RFC 6040 section 4.3, compatibility mode. The
inner field then passes untouched, and runs stay whole.
"""

from __future__ import annotations

import fcntl
import os
import platform
import socket
import struct
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import lru_cache
from ipaddress import ip_address

from overlayd.core.address import Family
from overlayd.core.decide import (
    DELIVER,
    ForwardingTable,
    Peer,
    Reply,
    TokenBucket,
    Verdict,
    decide_inbound,
    decide_outbound,
    too_big_for,
)
from overlayd.core.mtu import overhead
from overlayd.datapath import native
from overlayd.datapath.engine import ICMP_BURST, ICMP_RATE, Counters, Traffic, path_mtu

OFFLOADS = ("tso4", "tso6", "tso_ecn", "uso", "udp_gso", "udp_gro", "join_tcp", "join_udp")
"""What can be left out. The first four are the TUN's; joining is ours and needs the TUN's counterpart."""

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
_OUTBOUND, _INBOUND, _EMSGSIZE = 0, 1, 2  # why a packet was handed back


class NativeEngine:
    """See `datapath.engine.Engine`. Fast on a TUN that was opened with a virtio-net header, right on any other."""

    name = "native"

    def __init__(
        self,
        tun: int,
        sockets: Mapping[Family, socket.socket],
        table: ForwardingTable,
        now: Callable[[], float] = time.monotonic,
        *,
        without: Collection[str] = (),
        vnet_header: bool | None = None,
    ) -> None:
        """`without`: names of OFFLOADS; `vnet_header`: how `tun` was opened; None asks the kernel."""
        self._sockets = dict(sockets)
        self._table = table
        self._now = now
        self._without = frozenset(without)
        self._vnet_asked = vnet_header
        self._icmp = TokenBucket(ICMP_RATE, ICMP_BURST, now())
        self._icmp_sent = self._icmp_limited = self._answer_errors = 0
        self._reply_errors = 0
        self._slots: dict[str, int] = {}
        self._free: list[int] = []
        self._granted: list[str] = []
        self._socket_offloads = [name for name, on in (("udp_gso", self._gso()), ("udp_gro", self._gro())) if on]
        segments = 1
        if "udp_gso" in self._socket_offloads:
            segments = _SEGMENTS if _kernel() >= (6, 9) else _SEGMENTS_OLD
        fds = {family: sock.fileno() for family, sock in self._sockets.items()}
        self._native = native.Engine(fds.get(4, -1), fds.get(6, -1), segments)
        self._peers: list[Peer] = []
        self.replace_table(table)
        self.replace_tun(tun)

    # --- 1. probe ----------------------------------------------------------------------------------------------------

    def replace_tun(self, tun: int) -> None:
        self._tun = tun
        self._vnet = _has_vnet_header(tun) if self._vnet_asked is None else self._vnet_asked
        tun_offloads: list[str] = []
        if self._vnet:
            wanted = [name for name in _TUN_F if name not in self._without]
            tun_offloads = [*wanted, "csum"] if self._vnet_asked else _grant(tun, wanted)
        join_tcp = {"tso4", "tso6"} <= set(tun_offloads) and "join_tcp" not in self._without
        join_udp = "uso" in tun_offloads and "join_udp" not in self._without
        self._native.replace_tun(tun, self._vnet, join_tcp, join_udp)
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

    def replace_table(self, table: ForwardingTable) -> None:
        # By identity, as decisions hold them: peers[host] is the one that stands for an address, and comes last.
        listed = {owner.peer: None for owner in table.owners if owner is not DELIVER}  # type: ignore[union-attr]
        for peer in table.peers.values():
            listed.pop(peer, None)
        peers = [*listed, *table.peers.values()]
        names = {peer.name for peer in peers}
        for name in self._slots.keys() - names:
            slot = self._slots.pop(name)
            self._native.forget(slot)
            self._free.append(slot)
        index: dict[Peer | None, int] = {peer: number for number, peer in enumerate(peers)}
        rows = tuple([(_packed(peer.host), peer.port, self._slot(peer.name)) for peer in peers])
        levels = []
        for version, length, entries in table.owners.levels():
            width = 4 if version == 4 else 16
            found = [
                (prefix.to_bytes(width, "big"), -1 if owner is DELIVER else index[owner.peer])  # type: ignore[union-attr]
                for prefix, owner in entries
            ]
            levels.append((width, length, tuple(found)))
        self._native.replace_table(native.Table(table.mtu, rows, tuple(levels)))
        self._table, self._peers = table, peers

    def _slot(self, name: str) -> int:
        if name not in self._slots:
            self._slots[name] = self._free.pop() if self._free else len(self._slots)
        return self._slots[name]

    # --- 3. bursts ---------------------------------------------------------------------------------------------------

    def outbound(self) -> int:
        count = self._native.outbound()
        if count < native.REFUSED:
            return count
        self._answer()
        return count - native.REFUSED

    def inbound(self, carrier: Family) -> int:
        count = self._native.inbound(carrier)
        if count < native.REFUSED:
            return count
        self._answer()
        return count - native.REFUSED

    def _answer(self) -> None:
        for direction, number, length, kept in self._native.refused():
            packet = kept.ljust(length, b"\0")  # decisions look at lengths; an answer quotes no more than was kept
            peer = self._peers[number] if number >= 0 else None
            verdict: Verdict
            if direction == _OUTBOUND:
                verdict = decide_outbound(packet, self._table)
            elif peer is None:
                continue
            elif direction == _INBOUND:
                verdict = decide_inbound(packet, peer.host, self._table)
            else:
                verdict = too_big_for(packet, path_mtu(peer) - overhead("udp", peer.carrier), self._table)
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
            self._sockets[peer.carrier].sendto(answer, (peer.host, peer.port))
        except OSError:
            self._reply_errors += 1

    def _may_answer(self) -> bool:
        if self._icmp.take(self._now()):
            self._icmp_sent += 1
            return True
        self._icmp_limited += 1
        return False

    # --- 4. report ---------------------------------------------------------------------------------------------------

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
        """Each of OFFLOADS as 1 or 0, as it is now, and how often the kernel refused a run or a superpacket."""
        now = self._native.gauges()
        state = {name: int(name in self._granted) for name in OFFLOADS}
        state["udp_gso"] = int(now["run_segments"] > 1)
        state.update({name: now[name] for name in ("join_tcp", "join_udp", "gso_failures", "join_refusals")})
        return state


@lru_cache(1 << 16)
def _packed(host: str) -> bytes:
    return ip_address(host).packed


def _kernel() -> tuple[int, int]:
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
