"""The packet engine in C. Its policy and its set-up are `engine.py`'s; the pure functions are there for tests.

A *virtio-net header* is struct virtio_net_hdr of <linux/virtio_net.h>: 10 bytes in native order.
"""

from collections.abc import Sequence

REASONS: tuple[str, ...]
"""DropReason values in the order in which counters and verdicts number them."""

ATTENTION: int
"""Added to a burst's count when `Engine.punted` or `Engine.degraded` has something to give."""

OWN: int
"""The owner of this host's networks."""
NOBODY: int
"""No owner."""

PARTIAL_SUMS: int
"""Capability: inner sums stay partial."""
ECN: int
"""Capability: the outer ECN field is a copy of the inner one."""
TUNNEL_GSO: int
"""Capability: superpackets go through the TAP."""

OUTBOUND: int
"""Direction, as this host's containers see it; an index of drops."""
INBOUND: int
"""The other direction."""

PUNT_OUTBOUND: int
"""Punted: dropped outbound, and the container may deserve an ICMP error."""
PUNT_INBOUND: int
"""Punted: dropped inbound, and the peer may deserve an ICMP error."""
PUNT_EMSGSIZE: int
"""Punted: too long for the path to the peer."""
PUNT_HELLO: int
"""Punted: not an IP packet but a hello, from an announced peer."""

class Table:
    """An immutable forwarding table."""

    def __new__(cls, mtu: int) -> Table:
        """An empty one."""

    def changed(
        self,
        count: int,
        peers: tuple[tuple[int, bytes, int, int, bool], ...],
        hosts: tuple[tuple[bytes, int], ...],
        networks: tuple[tuple[bytes, int, int], ...],
    ) -> Table:
        """A copy in which these are set; costs a plain copy and what is set. Raises ValueError for what cannot be.

        `count`: the numbers of all peers are below it.
        `peers`: (number, underlay address, port, slot of its counters, announced); announced: it may leave sums
        partial, send superpackets whole and send hellos.
        `hosts`: (underlay address, number of the peer that stands for it), NOBODY to forget it.
        `networks`: (first address, prefix length, owner): the number of a peer, OWN for this host, NOBODY for none.
        """

    def outbound(self, packet: bytes) -> int:
        """The verdict of core.forward.decide_outbound: a peer's number, or -1 - index into REASONS."""

    def inbound(self, packet: bytes, outer_source: bytes) -> int:
        """The verdict of core.forward.decide_inbound: the sender's number, or -1 - index into REASONS."""

class Engine:
    """Two sockets, a TUN and a table. RuntimeError from any method while another thread is in a burst."""

    def __new__(cls, socket4: int, socket6: int, run_segments: int, poll_us: int) -> Engine:
        """On the descriptors of bound UDP sockets, -1 for none; `run_segments`: datagrams in a send, 1 without GSO.

        `poll_us`: for so many microseconds after a burst it looks for more, in both directions, before it returns;
        it returns after a millisecond in any case.
        """

    def replace_table(self, table: Table) -> None:
        """Decide by this table from the next burst on. Comes before the first burst."""

    def replace_tun(self, tun: int, vnet_header: bool, coalesce_tcp: bool, coalesce_udp: bool) -> None:
        """Use this TUN, opened with IFF_VNET_HDR or not; whether TCP and UDP flows are coalesced for it."""

    def set_run_segments(self, segments: int) -> None:
        """Datagrams in a send from now on, 1 without GSO: what a refusal has lowered is as it was."""

    def replace_tap(self, tap: int, mac: bytes, source4: bytes, source6: bytes, port: int) -> None:
        """Use this TAP, -1 for none; with its MAC, the outer source addresses (empty for none) and port."""

    def set_capabilities(self, slot: int, capabilities: int) -> None:
        """Use these with the peers of a slot: any of PARTIAL_SUMS, ECN, TUNNEL_GSO; 0 is flannel's format."""

    def tunnel(self, peer: int, payload: bytes) -> bool:
        """Send one datagram through the TAP; whether the kernel took it. Raises IndexError."""

    def outbound(self) -> int:
        """Carry one burst from the TUN: the number of reads, plus ATTENTION where that applies, or TUN_GONE (-1)."""

    def inbound(self, underlay_family: int) -> int:
        """Carry one burst from the socket of family 4 or 6: the number of messages, plus ATTENTION as above."""

    def punted(self) -> list[tuple[int, int, int, bytes]]:
        """Fetch and clear the punted packets: (PUNT_..., peer's number, length, the packet's first bytes)."""

    def unknown_sender(self) -> bytes | None:
        """The address of the last datagram dropped as unknown_peer since the last call; None if there is none."""

    def degraded(self) -> list[tuple[str, int]]:
        """Offloads that were given up since the last call: (names, errno that the kernel gave)."""

    def counters(
        self,
    ) -> tuple[
        tuple[int, int, int, int], list[tuple[int, int, int, int]], tuple[tuple[int, ...], tuple[int, ...]], int
    ]:
        """Total and by slot (tx packets, bytes, rx packets, bytes); drops by direction and REASONS; punts lost."""

    def reads(self) -> tuple[int, int]:
        """Reads of the TUN and of the sockets so far, those of busy polling included."""

    def gauges(self) -> dict[str, int]:
        """What is on now, and how often the kernel refused a run or a superpacket."""

    def forget(self, slot: int) -> None:
        """Set the counters of a slot to 0."""

def segment(header: bytes, packet: bytes) -> Sequence[bytes]:
    """The segments of a superpacket with this virtio-net header. Raises ValueError if it is not one."""

def complete(header: bytes, packet: bytes) -> bytes:
    """The packet with the checksum that its virtio-net header left open. Raises ValueError when that is outside."""

def coalesce(packets: list[bytes], announced: bool = False) -> list[tuple[bytes, bytes]]:
    """What is written to a TUN for these packets: (virtio-net header, packet), without malformed ones.

    `announced`: they come from a peer that may leave sums partial.
    """
