"""The readable engine: one packet at a time, in Python. It is the oracle that faster ones are held against.

outbound: read the TUN -> decide -> send to the peer's address          (or answer into the TUN, or drop)
inbound:  receive a datagram -> decide -> write to the TUN              (or answer to the peer, or drop)
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from enum import StrEnum

from overlayd.core.address import Family
from overlayd.core.forward import (
    Change,
    Deliver,
    Drop,
    DropReason,
    ForwardingTable,
    Peer,
    Reply,
    Send,
    decide_inbound,
    decide_outbound,
    too_big_for,
)
from overlayd.core.mtu import UDP_OVERHEAD
from overlayd.core.rate_limit import TokenBucket
from overlayd.datapath.contract import (
    DEFAULTS,
    ICMP_BURST,
    ICMP_RATE,
    NO_TUN,
    TUN_GONE,
    Counters,
    Degraded,
    Progress,
    Tap,
    Traffic,
    ignore_degraded,
    path_mtu,
)
from overlayd.datapath.settings import UdpSettings
from overlayd.wire.ip import decapsulate_ecn

_BURST = 64
"""Packets in one wake-up: enough to spread the loop's own cost, few enough that the other direction hardly waits."""
_CONTROL = 64  # bytes of ancillary data: the outer TOS or traffic class, in an int at most
_PACKET_MAX = 65536  # more than any IP packet, so that no read ever truncates one


class PythonEngine:
    """See `datapath.engine.Engine`."""

    name = "python"
    offloads = "none"

    def __init__(
        self,
        tun: int,
        sockets: Mapping[Family, socket.socket],
        table: ForwardingTable,
        settings: UdpSettings = DEFAULTS,
        degraded: Degraded = ignore_degraded,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """It has nothing that could be set or degrade."""
        self._tun = tun
        self._sockets = dict(sockets)
        self._table = table
        self._now = now
        self._icmp = TokenBucket(ICMP_RATE, ICMP_BURST, now())
        self._counters = Counters()
        self._unknown_sender: str | None = None
        self._peers: dict[str, Traffic] = self._counters.peers
        self.progress = Progress()

    def replace_table(self, table: ForwardingTable, change: Change | None = None) -> None:
        self._table = table
        names = {peer.name for peer in table.peers.values()}
        for name in self._peers.keys() - names:
            del self._peers[name]

    def replace_tun(self, tun: int | None) -> None:
        self._tun = NO_TUN if tun is None else tun

    def replace_tap(self, tap: Tap | None) -> None:
        pass  # it makes no superpackets

    def restore_offloads(self) -> None:
        pass  # it uses none

    def send_hellos(self) -> None:
        pass  # and neither sends nor answers hellos: flannel's format is used with every peer

    def capabilities(self) -> dict[str, list[str]]:
        return {}

    def handover_state(self) -> None:
        """There is none: starting this engine takes as long as a handover would save."""

    def counters(self) -> Counters:
        return deepcopy(self._counters)

    def gauges(self) -> dict[str, int]:
        return {}

    # --- outbound --------------------------------------------------------------------------------------------------

    def outbound(self) -> int:
        count = self._outbound()
        self.progress.tx_bursts += 1
        self.progress.tx_reads += max(count, 0)
        return count

    def _outbound(self) -> int:
        for count in range(_BURST):
            try:
                packet = os.read(self._tun, _PACKET_MAX)
            except BlockingIOError:
                return count
            except OSError as error:
                if error.errno == errno.EINTR:
                    continue
                return TUN_GONE
            verdict = decide_outbound(packet, self._table)
            if isinstance(verdict, Send):
                self._send(packet, verdict.peer)
            else:
                self._not_sent(packet, verdict)
        return _BURST

    def _send(self, packet: bytes, peer: Peer) -> None:
        try:
            self._sockets[peer.underlay_family].sendto(packet, (peer.host, peer.port))
        except BlockingIOError:
            self._count(self._counters.tx_drops, DropReason.SEND_BUFFER_FULL)
            return
        except OSError as error:
            self._refused(packet, peer, error)
            return
        self._sent(len(packet), peer)

    def _sent(self, size: int, peer: Peer) -> None:
        """Count a packet of `size` bytes."""
        total, own = self._counters.total, self._traffic(peer)
        total.tx_packets += 1
        total.tx_bytes += size
        own.tx_packets += 1
        own.tx_bytes += size

    def _refused(self, packet: bytes, peer: Peer, error: OSError) -> None:
        """EMSGSIZE: the path to the peer is narrower than the interface. Others: no route, interface down, ..."""
        if error.errno != errno.EMSGSIZE:
            self._count(self._counters.tx_drops, DropReason.SEND_ERROR)
            return
        mtu = path_mtu(peer) - UDP_OVERHEAD[peer.underlay_family]
        self._not_sent(packet, too_big_for(packet, mtu, self._table))

    def _not_sent(self, packet: bytes, verdict: Drop | Reply) -> None:
        self._count(self._counters.tx_drops, verdict.reason)
        if isinstance(verdict, Reply) and self._may_answer():
            try:
                os.write(self._tun, verdict.packet)
            except OSError:
                self._count(self._counters.rx_drops, DropReason.TUN_ERROR)

    # --- inbound ---------------------------------------------------------------------------------------------------

    def inbound(self, underlay_family: Family) -> int:
        count = self._inbound(underlay_family)
        self.progress.rx_bursts += 1
        self.progress.rx_reads += count
        return count

    def _inbound(self, underlay_family: Family) -> int:
        receive = self._sockets[underlay_family].recvmsg
        for count in range(_BURST):
            try:
                packet, control, _, sender = receive(_PACKET_MAX, _CONTROL)
            except BlockingIOError:
                return count
            except OSError:  # an ICMP error about an earlier send; nothing was received
                continue
            self._received(packet, underlay_family, sender, _outer_ecn(control))
        return _BURST

    def _received(self, packet: bytes, underlay_family: Family, sender: tuple[str, int], outer_ecn: int) -> None:
        """Handle a datagram."""
        verdict = decide_inbound(packet, sender[0], self._table)
        if isinstance(verdict, Deliver):
            self._deliver(packet, sender[0], outer_ecn)
        else:
            self._not_delivered(verdict, underlay_family, sender)

    def _deliver(self, received: bytes, sender: str, outer_ecn: int) -> None:
        """Write a packet of the peer that `sender` (`Peer.sender`) is to the TUN."""
        packet = decapsulate_ecn(received, outer_ecn)
        if packet is None:
            self._count(self._counters.rx_drops, DropReason.CE_NOT_ECT)
            return
        try:
            os.write(self._tun, packet)
        except OSError:
            self._count(self._counters.rx_drops, DropReason.TUN_ERROR)
            return
        size = len(packet)
        total, own = self._counters.total, self._traffic(self._table.peers[sender])
        total.rx_packets += 1
        total.rx_bytes += size
        own.rx_packets += 1
        own.rx_bytes += size

    def _not_delivered(self, verdict: Drop | Reply, underlay_family: Family, sender: tuple[str, int]) -> None:
        self._count(self._counters.rx_drops, verdict.reason)
        if verdict.reason is DropReason.UNKNOWN_PEER:
            self._unknown_sender = sender[0]
        if isinstance(verdict, Reply) and self._may_answer():
            try:
                self._sockets[underlay_family].sendto(verdict.packet, (sender[0], self._table.peers[sender[0]].port))
            except OSError:
                self._count(self._counters.tx_drops, DropReason.SEND_ERROR)

    def unknown_sender(self) -> str | None:
        found, self._unknown_sender = self._unknown_sender, None
        return found

    # --- counting --------------------------------------------------------------------------------------------------

    def _may_answer(self) -> bool:
        if self._icmp.take(self._now()):
            self._counters.icmp_sent += 1
            return True
        self._counters.icmp_limited += 1
        return False

    def _traffic(self, peer: Peer) -> Traffic:
        try:
            return self._peers[peer.name]
        except KeyError:
            return self._peers.setdefault(peer.name, Traffic())

    @staticmethod
    def _count(counts: dict[str, int], reason: StrEnum) -> None:
        counts[reason.value] = counts.get(reason.value, 0) + 1


def _outer_ecn(control: list[tuple[int, int, bytes]]) -> int:
    """The ECN field of the outer header: the first byte of IP_TOS, the number in IPV6_TCLASS; 0 where neither came."""
    for level, kind, data in control:
        if (level, kind) == (socket.IPPROTO_IP, socket.IP_TOS):
            return data[0] & 3
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_TCLASS):
            return int.from_bytes(data, sys.byteorder) & 3
    return 0
