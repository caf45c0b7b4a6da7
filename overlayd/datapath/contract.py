"""The contract of a packet engine: what moves packets between the TUN and the underlay in udp mode.

An engine works on bursts. The event loop calls `outbound` when the TUN can be read and `inbound` when a socket can;
each call handles one bounded burst, blocks on nothing, raises nothing, and leaves what remains to the next wake-up, so
that neither direction starves the other. Policy is not an engine's business: it gets a `ForwardingTable`, decides
as `core.decide` does, and counts.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from overlayd.core.address import Family
from overlayd.core.forward import Change, ForwardingTable, Peer
from overlayd.datapath.handover import HandoverState
from overlayd.datapath.settings import UdpSettings

NO_TUN = -1
"""In place of a TUN's descriptor: no file has that number, so reading and writing it is refused."""

TUN_GONE = -1
"""What `outbound` gives back when the device was deleted: the caller must stop watching it, or spin for ever."""

ICMP_RATE, ICMP_BURST = 100, 50
"""ICMP errors a second; the kernel's own limit is of the same kind (icmp_msgs_per_sec)."""


@dataclass(slots=True)
class Traffic:
    """Packets and bytes of container traffic, both directions as this host sees them."""

    tx_packets: int = 0
    tx_bytes: int = 0
    rx_packets: int = 0
    rx_bytes: int = 0


@dataclass(slots=True)
class Counters:
    """One snapshot of everything an engine counts, since it was made."""

    total: Traffic = field(default_factory=Traffic)
    peers: dict[str, Traffic] = field(default_factory=dict)
    """By `Peer.name`."""
    tx_drops: dict[str, int] = field(default_factory=dict)
    """By DropReason, of packets from the TUN."""
    rx_drops: dict[str, int] = field(default_factory=dict)
    """By DropReason, of datagrams from the underlay."""
    icmp_sent: int = 0
    icmp_limited: int = 0
    """ICMP errors that the rate limit withheld."""


@dataclass(slots=True)
class Progress:
    """How far an engine has come since it was made. A read is one packet, or one superpacket or run of datagrams."""

    tx_bursts: int = 0
    """Wake-ups by the TUN."""
    tx_reads: int = 0
    rx_bursts: int = 0
    """Wake-ups by the sockets."""
    rx_reads: int = 0


class Engine(Protocol):
    """What the udp backend needs of an engine."""

    name: str

    @property
    def offloads(self) -> str:
        """What the kernel does for it, for the log: names with commas between, or none."""

    def replace_table(self, table: ForwardingTable, change: Change | None = None) -> None:
        """Decide by this table from the next packet on.

        `change`: how it differs from the one before, where that is known; it costs no more than that.
        """

    def replace_tun(self, tun: int | None) -> None:
        """Read and write this TUN from the next packet on: the old one is gone. None: there is none for now.

        This comes before the old descriptor is closed: its number is another file's soon.
        """

    def outbound(self) -> int:
        """Carry one burst from the TUN to the underlay; the number of packets read, or TUN_GONE."""

    def inbound(self, underlay_family: Family) -> int:
        """Carry one burst from the underlay socket of that family to the TUN; the number of datagrams read."""

    def replace_tap(self, tap: Tap | None) -> None:
        """Use this TAP for superpackets to peers that reply through it, or none."""

    def restore_offloads(self) -> None:
        """Use the offloads again that were disabled because the kernel refused them at some point."""

    def send_hellos(self) -> None:
        """Send hellos to the announced peers; called every HELLO_INTERVAL seconds."""

    def capabilities(self) -> dict[str, list[str]]:
        """The capabilities in use with each peer beyond flannel's format, by Peer.name."""

    def handover_state(self) -> HandoverState | None:
        """What a handover needs while the next run starts; None if this engine has none."""

    def counters(self) -> Counters:
        """A snapshot."""

    def unknown_sender(self) -> str | None:
        """The address of the last datagram dropped as unknown_peer since the last call; None if there is none."""

    @property
    def progress(self) -> Progress:
        """Bursts and reads: cheap to ask, however many peers there are."""

    def gauges(self) -> dict[str, int]:
        """What is on now, each offload as 1 or 0, and how often the kernel refused one; empty without offloads."""


DEFAULTS = UdpSettings()


class Tap(Protocol):
    """Where superpackets go that the kernel cuts; see system/tunnel_tap.py."""

    mac: bytes

    def fileno(self) -> int:
        """Takes frames."""

    def pays(self) -> bool:
        """Whether it is the faster path, as the underlay interface is set now."""


Degraded = Callable[[str, str], None]
"""Called once when an offload that was granted turns out not to work: its name, and what was seen."""


def ignore_degraded(offload: str, seen: str) -> None:
    """The caller need not know."""


class MakeEngine(Protocol):
    """How an engine is made: on a TUN and one bound, non-blocking UDP socket for each underlay family."""

    def __call__(
        self,
        tun: int,
        sockets: Mapping[Family, socket.socket],
        table: ForwardingTable,
        settings: UdpSettings,
        degraded: Degraded,
    ) -> Engine:
        """An engine that owns neither the TUN nor the sockets."""


def choose(wanted: str, engines: Sequence[tuple[str, MakeEngine]]) -> tuple[str, MakeEngine]:
    """The engine of that name, or for "auto" the first, which is the fastest. Raises KeyError."""
    if wanted == "auto":
        return engines[0]
    return wanted, dict(engines)[wanted]


def path_mtu(peer: Peer) -> int:
    """What the kernel has learnt about the path (ip(7), IP_MTU on a connected socket); a rare question."""
    ipv4 = peer.underlay_family == 4
    level, option = (socket.IPPROTO_IP, 14) if ipv4 else (socket.IPPROTO_IPV6, 24)  # IP_MTU, IPV6_MTU
    try:
        with socket.socket(socket.AF_INET if ipv4 else socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.connect((peer.host, peer.port))
            return probe.getsockopt(level, option)
    except OSError:
        return 576 if ipv4 else 1280
