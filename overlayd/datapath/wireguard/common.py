"""What a tunnel and its peers share."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from overlayd.datapath.wireguard.primitives import PrivateKey
from overlayd.datapath.wireguard.session import Timing
from overlayd.datapath.wireguard.tai64n import Stamps

if TYPE_CHECKING:
    from overlayd.datapath.wireguard.peer import TunnelPeer


class TunnelDrop(StrEnum):
    """Why a message or a packet goes no further, beside `core.forward.DropReason`."""

    NOT_WIREGUARD = "not_wireguard"
    """Inbound, a datagram that is none of WireGuard's messages."""
    BAD_MAC = "bad_mac"
    """Inbound, a handshake whose sender does not know this host's public key."""
    UNDER_LOAD = "under_load"
    """Inbound, a handshake while there are too many: its sender was asked to prove its address, or asks too often."""
    BAD_HANDSHAKE = "bad_handshake"
    """Inbound, a handshake that is not a peer's, or not meant for this host, or replayed."""
    NO_SESSION = "no_session"
    """Inbound, under keys that this host does not have (any more); outbound, the peer does not answer handshakes."""
    REPLAYED = "replayed"
    """Inbound, a message that was received before, or is too old to know."""
    NOT_AUTHENTIC = "not_authentic"
    """Inbound, forged or damaged."""


class Endpoint(NamedTuple):
    """Where a peer is on the underlay."""

    host: str
    port: int


class Outgoing(NamedTuple):
    """A datagram to send. `packet`: the container's in it; None where there is none."""

    datagram: bytes
    endpoint: Endpoint
    peer: TunnelPeer | None
    """None for a stranger."""
    packet: bytes | None = None


class Surroundings(NamedTuple):
    """What the peers of a tunnel have in common."""

    own: PrivateKey
    timing: Timing
    random: Callable[[int], bytes]
    stamps: Stamps
    indices: dict[int, TunnelPeer]
    """Whose an index is, of a session or of a handshake of ours."""
    post: Callable[[Outgoing], None]
