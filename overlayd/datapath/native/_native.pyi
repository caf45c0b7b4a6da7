"""The packet engine in C. Its policy and its set-up are `native_engine`'s; the pure functions are there for tests.

A *virtio-net header* is struct virtio_net_hdr of <linux/virtio_net.h>: 10 bytes in native order.
"""

from collections.abc import Sequence

REASONS: tuple[str, ...]
"""DropReason values in the order in which counters and verdicts number them."""

ATTENTION: int
"""Added to a burst's count when `Engine.refused` or `Engine.degraded` has something to give."""

OWN: int
"""The owner of this host's networks."""
NOBODY: int
"""No owner."""

PARTIAL: int
"""A way: inner sums stay partial."""
ECN: int
"""A way: the outer ECN field is the inner one's."""
TUNNEL: int
"""A way: superpackets go through the TAP."""

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
        partial, send superpackets whole and speak to us.
        `hosts`: (underlay address, number of the peer that stands for it), NOBODY to forget it.
        `networks`: (first address, prefix length, owner): the number of a peer, OWN for this host, NOBODY for none.
        """

    def outbound(self, packet: bytes) -> int:
        """The verdict of core.decide.decide_outbound: a peer's number, or -1 - index into REASONS."""

    def inbound(self, packet: bytes, outer_source: bytes) -> int:
        """The verdict of core.decide.decide_inbound: the sender's number, or -1 - index into REASONS."""

class Engine:
    """Two sockets, a TUN and a table. RuntimeError from any method while another thread is in a burst."""

    def __new__(cls, socket4: int, socket6: int, run_segments: int, poll_us: int) -> Engine:
        """On the descriptors of bound UDP sockets, -1 for none; `run_segments`: datagrams in a send, 1 without GSO.

        `poll_us`: for so many microseconds after a burst it looks for more, in both directions, before it returns;
        it returns after a millisecond in any case.
        """

    def replace_table(self, table: Table) -> None:
        """Decide by this table from the next burst on. Comes before the first burst."""

    def replace_tun(self, tun: int, vnet_header: bool, join_tcp: bool, join_udp: bool) -> None:
        """Use this TUN, opened with IFF_VNET_HDR or not; whether TCP and UDP flows are joined for it."""

    def replace_tap(self, tap: int, mac: bytes, source4: bytes, source6: bytes, port: int) -> None:
        """Use this TAP, -1 for none; with its MAC, the outer source addresses (empty for none) and port."""

    def set_way(self, slot: int, way: int) -> None:
        """How packets go to the peers of a slot: any of PARTIAL, ECN, TUNNEL, or 0 for flannel's way."""

    def tunnel(self, peer: int, payload: bytes) -> bool:
        """Send one datagram through the TAP; whether the kernel took it. Raises IndexError."""

    def outbound(self) -> int:
        """Carry one burst from the TUN: the number of reads, plus ATTENTION where that applies, or TUN_GONE (-1)."""

    def inbound(self, underlay_family: int) -> int:
        """Carry one burst from the socket of family 4 or 6: the number of messages, and ATTENTION likewise."""

    def refused(self) -> list[tuple[int, int, int, bytes]]:
        """Take out what may deserve an ICMP error: (direction, peer's number, length, the packet's first bytes).

        Direction 0: outbound, by the table; 1: inbound, by the table; 2: outbound, by the socket (EMSGSIZE);
        3: no packet but a greeting from an announced peer.
        """

    def degraded(self) -> list[tuple[str, int]]:
        """Offloads that were given up since the last call: (names, errno that the kernel gave)."""

    def counters(
        self,
    ) -> tuple[tuple[int, int, int, int], list[tuple[int, int, int, int]], tuple[int, ...], tuple[int, ...], int]:
        """Total and by slot (tx packets, bytes, rx packets, bytes); drops tx and rx by REASONS; refused() overflows."""

    def gauges(self) -> dict[str, int]:
        """What is on now, and how often the kernel refused a run or a superpacket."""

    def forget(self, slot: int) -> None:
        """Set the counters of a slot to 0."""

def segment(header: bytes, packet: bytes) -> Sequence[bytes]:
    """The packets that a superpacket with this virtio-net header stands for. Raises ValueError when it is none."""

def complete(header: bytes, packet: bytes) -> bytes:
    """The packet with the checksum that its virtio-net header left open. Raises ValueError when that is outside."""

def coalesce(packets: list[bytes], announced: bool = False) -> list[tuple[bytes, bytes]]:
    """What is written to a TUN for these packets: (virtio-net header, packet), without malformed ones.

    `announced`: they come from a peer that may leave sums partial.
    """
