"""The vocabulary of nft's JSON (libnftables-json(5)), as far as our rules use it."""

from __future__ import annotations

from typing import Any

from overlayd.core.address import Network

Json = dict[str, Any]


def differs(left: Json, network: Network) -> Json:
    """The address lies outside the network."""
    return {"match": {"op": "!=", "left": left, "right": prefix(network)}}


def has_mark(bit: int) -> Json:
    """The packet carries this bit of mark."""
    return equal({"&": [meta("mark"), bit]}, bit)


def lacks_mark(bit: int) -> Json:
    """The packet does not carry this bit of mark."""
    return equal({"&": [meta("mark"), bit]}, 0)


def drop() -> list[Json]:
    """Count and drop."""
    return [counter(), {"drop": None}]


def counter() -> Json:
    """Count packets and bytes."""
    return {"counter": {"packets": 0, "bytes": 0}}


def equal(left: Json, right: Any) -> Json:
    """The two are equal."""
    return {"match": {"op": "==", "left": left, "right": right}}


def meta(key: str) -> Json:
    """What the kernel keeps of a packet beside its bytes."""
    return {"meta": {"key": key}}


def field(protocol: str, field: str) -> Json:
    """A header field, by nft's names."""
    return {"payload": {"protocol": protocol, "field": field}}


def bits(base: str, offset: int, length: int) -> Json:
    """Bits of a packet that nft has no name for; `base`: where the offset counts from, th is the transport header."""
    return {"payload": {"base": base, "offset": offset, "len": length}}


def prefix(network: Network) -> Json:
    """A network as a right-hand side."""
    return {"prefix": {"addr": str(network.network_address), "len": network.prefixlen}}
