"""nf_tables messages for the elements of a set (linux/netfilter/nfnetlink.h, nf_tables.h).

Written by hand because a lease event changes an element: nft, a process that first reads the whole ruleset, takes tens
of milliseconds for what is one message. Tables, chains and rules, which hardly ever change, go through nft.

     batch: BATCH_BEGIN, messages, BATCH_END in one send; all of them are done, or none
     nlmsghdr, in native byte order; nfgenmsg: family u8, version u8, resource u16 in network byte order; attributes
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

from overlayd.wire.netlink.rtnetlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, attribute, message

_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
_NEWSETELEM, _DELSETELEM = _SUBSYSTEM << 8 | 12, _SUBSYSTEM << 8 | 14
_NFPROTO_INET = 1
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS = 1, 2, 3  # NFTA_SET_ELEM_LIST_...
_LIST_ELEM, _ELEM_KEY, _DATA_VALUE = 1, 1, 1  # NFTA_LIST_ELEM, NFTA_SET_ELEM_KEY, NFTA_DATA_VALUE
_NESTED = 0x8000  # NLA_F_NESTED

_NFGENMSG = struct.Struct("!BBH")

ELEMENTS_MAX = 1024
"""In one message: an attribute's length has 16 bits."""


def change_elements(
    table: str, name: str, addresses: Iterable[IPv4Address | IPv6Address], sequence: int, *, delete: bool
) -> bytes:
    """Add to a set of an inet table, or delete from it; what is to be added may be there, what is to go must be."""
    elements = b"".join(_element(address.packed) for address in addresses)
    body = _NFGENMSG.pack(_NFPROTO_INET, 0, 0)
    body += attribute(_LIST_TABLE, table.encode() + b"\0") + attribute(_LIST_SET, name.encode() + b"\0")
    body += attribute(_LIST_ELEMENTS | _NESTED, elements)
    flags = NLM_F_REQUEST | NLM_F_ACK | (0 if delete else NLM_F_CREATE)
    return message(_DELSETELEM if delete else _NEWSETELEM, flags, sequence, body)


def batch(messages: Iterable[bytes], sequence: int) -> bytes:
    """The messages as one transaction, which answers by `sequence` where it is refused as a whole."""
    ends = _NFGENMSG.pack(0, 0, _SUBSYSTEM)
    begin, end = (message(kind, NLM_F_REQUEST, sequence, ends) for kind in (_BATCH_BEGIN, _BATCH_END))
    return b"".join((begin, *messages, end))


def _element(key: bytes) -> bytes:
    return attribute(_LIST_ELEM | _NESTED, attribute(_ELEM_KEY | _NESTED, attribute(_DATA_VALUE, key)))
