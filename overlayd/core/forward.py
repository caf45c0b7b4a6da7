"""What becomes of a packet in udp mode: pure functions from bytes and a table to a verdict; the caller does the I/O.

Outbound, a packet read from the TUN:      Inbound, a datagram from the underlay:
                                            0. the outer source holds a lease
 1. its header is sound                     1. the header is sound and fills the datagram
 2. its source is of this host's subnet     2. the inner source's lease is held by the outer source
 3. its destination has a lease             3. the inner destination is of this host's subnet
 4. it fits the overlay MTU                 4. it fits the overlay MTU

Who owns an address is one question with one answer: this host's own subnets and the peers' stand in one table, and the
longest prefix decides. So what was delivered here can never be sent on: no packet loops. Nothing is edited on the way,
the TTL least of all: each host's kernel takes its hop when it forwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from overlayd.core.address import Address, Family, Network
from overlayd.core.prefix_table import PrefixTable
from overlayd.wire import icmp, ip


class DropReason(StrEnum):
    """Why a packet went no further. The values are what users see in counters."""

    TOO_SHORT = "too_short"
    BAD_VERSION = "bad_version"
    BAD_HEADER_LENGTH = "bad_header_length"
    LENGTH_MISMATCH = "length_mismatch"
    TOO_LONG = "too_long"
    """Longer than the overlay MTU; answered with ICMP where that is allowed."""
    SOURCE_NOT_OWN = "source_not_own"
    """Outbound, from an address that is not of this host's subnet: the peer would have to drop it."""
    NO_LEASE = "no_lease"
    """Outbound, to an address that nobody leases; answered with ICMP where that is allowed."""
    DESTINATION_OWN = "destination_own"
    """Outbound, back into this host's own subnet: the kernel should have delivered it."""
    UNKNOWN_PEER = "unknown_peer"
    """Inbound, from an underlay address that holds no lease."""
    SPOOFED_SOURCE = "spoofed_source"
    """Inbound, from a peer, but the inner source is not of that peer's subnet."""
    DESTINATION_NOT_OWN = "destination_not_own"
    """Inbound, for an address outside this host's subnet."""
    TTL_EXPIRED = "ttl_expired"
    """Inbound, with a TTL or hop limit of 0, which no router passes on (RFC 1812 section 5.3.1)."""
    CE_NOT_ECT = "ce_not_ect"
    """Inbound, marked by a congested router, but its transport knows no marks: the loss tells it (RFC 6040)."""
    SEND_ERROR = "send_error"
    """The underlay socket refused the datagram."""
    SEND_BUFFER_FULL = "send_buffer_full"
    """The underlay socket's buffer was full."""
    TUN_ERROR = "tun_error"
    """The kernel refused the packet on the TUN."""


@dataclass(frozen=True, slots=True, eq=False)
class Peer:
    """A remote host as the data path knows it, for subnets of one underlay family."""

    host: str
    """Its public IP, in the text form in which the socket names senders."""
    port: int
    underlay_family: Family
    name: str
    """The lease's key, under which its counters are kept."""
    announced: bool = False
    """Its lease says that it is overlayd, and so does ours: capabilities beyond flannel's format are negotiated."""
    public_key: str = ""
    """Of wireguard mode, in base64."""

    @property
    def sender(self) -> str:
        """What shows that a packet is this peer's: its key, or where packets are not authenticated its address."""
        return self.public_key or self.host


@dataclass(frozen=True, slots=True)
class Send:
    """To this peer, as it is."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class Deliver:
    """To this host's kernel through the TUN, as it is."""


@dataclass(frozen=True, slots=True)
class Drop:
    """No further; counted."""

    reason: DropReason


@dataclass(frozen=True, slots=True)
class Reply:
    """Dropped and counted like Drop; `packet`, an ICMP error, goes back to where the packet came from."""

    reason: DropReason
    packet: bytes


Verdict = Send | Deliver | Drop | Reply

DELIVER = Deliver()
"""Also what the table holds for this host's own subnets."""
DROP = {reason: Drop(reason) for reason in DropReason}
_MALFORMED = {malformed: Drop(DropReason(malformed.value)) for malformed in ip.Malformed}


@dataclass(frozen=True, slots=True)
class Change:
    """What one ForwardingTable has that the one before had not, and the reverse: all routes of a peer or none."""

    gone: Sequence[tuple[Network, Peer]]
    come: Sequence[tuple[Network, Peer]]


class ForwardingTable:
    """What decisions look at: replaced as a whole when a lease changes, never changed in place."""

    __slots__ = ("mtu", "owners", "peers", "routers")

    def __init__(
        self, own: Iterable[Network], routers: Iterable[Address], mtu: int, routes: Iterable[tuple[Network, Peer]]
    ):
        """Raises ValueError when two networks are the same.

        `own`: this host's subnets; `routers`: its address in the overlay for each family, the source of ICMP
        errors; `mtu`: the overlay MTU in bytes; `routes`: every leased subnet with the peer that holds it.
        `peers` then has them by `Peer.sender`.
        """
        routes = list(routes)
        self.routers: dict[int, int] = {router.version: int(router) for router in routers}
        self.mtu = mtu
        # The verdict itself is what the table holds: the common case allocates nothing.
        entries: list[tuple[Network, Send | Deliver]] = [(network, Send(peer)) for network, peer in routes]
        self.owners = PrefixTable([*entries, *((network, DELIVER) for network in own)])
        self.peers = {peer.sender: peer for _, peer in routes}

    def changed(self, change: Change) -> ForwardingTable:
        """The table without the routes that are gone, which are in it, and with those that have come.

        Raises ValueError where one that is to come is there already.
        """
        gone, come = change.gone, change.come
        table = object.__new__(ForwardingTable)
        table.mtu, table.routers = self.mtu, self.routers
        table.owners = self.owners.changed((network for network, _ in gone), ((one, Send(peer)) for one, peer in come))
        table.peers = dict(self.peers)
        orphaned = {peer.sender for _, peer in gone if table.peers.get(peer.sender) is peer}
        for sender in orphaned:
            del table.peers[sender]
        if orphaned:  # another lease may name the same address
            for owner in table.owners:
                if isinstance(owner, Send) and owner.peer.sender in orphaned:
                    table.peers[owner.peer.sender] = owner.peer
        table.peers.update((peer.sender, peer) for _, peer in come)
        return table


def decide_outbound(packet: bytes, table: ForwardingTable) -> Send | Drop | Reply:
    """The verdict on a packet that containers or the host sent into the TUN: Send, Reply or Drop."""
    header = ip.parse(packet)
    if isinstance(header, ip.Malformed):
        return _MALFORMED[header]
    version, source, destination = header[:3]
    if table.owners.lookup(version, source) is not DELIVER:
        return DROP[DropReason.SOURCE_NOT_OWN]
    owner = table.owners.lookup(version, destination)
    if owner is None:
        return _answer(DropReason.NO_LEASE, packet, header, table)
    if isinstance(owner, Deliver):
        return DROP[DropReason.DESTINATION_OWN]
    if len(packet) > table.mtu:
        return _answer(DropReason.TOO_LONG, packet, header, table)
    return owner


def decide_inbound(packet: bytes, sender: str, table: ForwardingTable) -> Deliver | Drop | Reply:
    """The verdict on a packet that came from `sender` (`Peer.sender`): Deliver, Reply or Drop."""
    if sender not in table.peers:
        return DROP[DropReason.UNKNOWN_PEER]
    header = ip.parse(packet)
    if isinstance(header, ip.Malformed):
        return _MALFORMED[header]
    version, source, destination = header[:3]
    holder = table.owners.lookup(version, source)
    if not isinstance(holder, Send) or holder.peer.sender != sender:
        return DROP[DropReason.SPOOFED_SOURCE]
    if table.owners.lookup(version, destination) is not DELIVER:
        return DROP[DropReason.DESTINATION_NOT_OWN]
    if ip.ttl(packet) == 0:
        return DROP[DropReason.TTL_EXPIRED]
    if len(packet) > table.mtu:
        return _answer(DropReason.TOO_LONG, packet, header, table)
    return DELIVER


def too_big_for(packet: bytes, mtu: int, table: ForwardingTable) -> Drop | Reply:
    """The verdict on an outbound packet that the underlay refused as too large: its path takes only `mtu` bytes."""
    header = ip.parse(packet)
    if isinstance(header, ip.Malformed):
        return _MALFORMED[header]
    return _answer(DropReason.TOO_LONG, packet, header, table, mtu)


def _answer(
    reason: DropReason, packet: bytes, header: ip.Header, table: ForwardingTable, mtu: int | None = None
) -> Drop | Reply:
    """Reply with the ICMP error for `reason`, from this host's own overlay address, where the RFCs allow one."""
    router = table.routers.get(header.version)
    if router is None or not icmp.may_answer(packet, header):
        return DROP[reason]
    if reason is DropReason.NO_LEASE:
        return Reply(reason, icmp.unreachable(packet, header, router))
    return Reply(reason, icmp.too_big(packet, header, router, table.mtu if mtu is None else mtu))
