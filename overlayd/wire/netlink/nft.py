"""nf_tables: messages for the elements of a set or map, and which notifications concern our rules.

By hand because a lease event changes an element: nft, a process that first reads the whole ruleset, takes tens of
milliseconds for what is one message. Tables, chains and rules, which hardly ever change, go through nft.

     batch     BATCH_BEGIN, messages, BATCH_END in one send; all of them are done, or none
     message   NLMSGHDR, NFGENMSG, attributes
"""

from __future__ import annotations

from collections.abc import Iterable

from overlayd.wire.netlink.message import SET, attribute, attributes, message, nested, text
from overlayd.wire.netlink.uapi import (
    NFGENMSG,
    NFNL_MSG_BATCH_BEGIN,
    NFNL_MSG_BATCH_END,
    NFNL_SUBSYS_NFTABLES,
    NFPROTO_INET,
    NFT_MSG_DELSETELEM,
    NFT_MSG_GETSETELEM,
    NFT_MSG_NEWCHAIN,
    NFT_MSG_NEWSETELEM,
    NFTA_CHAIN_HOOK,
    NFTA_DATA_VALUE,
    NFTA_LIST_ELEM,
    NFTA_SET_ELEM_DATA,
    NFTA_SET_ELEM_KEY,
    NFTA_SET_ELEM_LIST_ELEMENTS,
    NFTA_SET_ELEM_LIST_SET,
    NFTA_SET_ELEM_LIST_TABLE,
    NLM_F_CREATE,
    NLM_F_REQUEST,
)

ELEMENTS_MAX = 1000
"""In one message: an attribute's length has 16 bits, and the largest element takes 64 bytes."""


Element = tuple[bytes, bytes | None]
"""Key and, in a map, value; of several fields, `concatenated`."""


def concatenated(*fields: bytes) -> bytes:
    """A key or a value of several fields, each padded to 4 bytes (NFT_REG32_SIZE)."""
    return b"".join(field + bytes(-len(field) % 4) for field in fields)


def change_elements(table: str, name: str, elements: Iterable[Element], sequence: int, *, delete: bool) -> bytes:
    """Add to a set or map of an inet table, or delete from it; what is to be added may be there with the same value,
    what is to go must be."""
    body = _set_header(table, name)
    body += nested(NFTA_SET_ELEM_LIST_ELEMENTS, *(_element(*one) for one in elements))
    kind = NFT_MSG_DELSETELEM if delete else NFT_MSG_NEWSETELEM
    return message(_type(kind), SET if delete else SET | NLM_F_CREATE, sequence, body)


def elements_request(table: str, name: str) -> tuple[int, bytes]:
    """Type and body of a dump request for the elements of a set."""
    return _type(NFT_MSG_GETSETELEM), _set_header(table, name)


def read_keys(data: bytes, begin: int, end: int) -> list[bytes]:
    """The keys of the elements in the body of an answer, each as the kernel keeps it."""
    return [
        key
        for number, elements in attributes(data, begin + NFGENMSG.size, end)
        if number == NFTA_SET_ELEM_LIST_ELEMENTS
        for _, element in attributes(elements, 0, len(elements))
        for kind, wrapped in attributes(element, 0, len(element))
        if kind == NFTA_SET_ELEM_KEY
        for _, key in attributes(wrapped, 0, len(wrapped))
    ]


def batch(messages: Iterable[bytes], sequence: int) -> bytes:
    """The messages as one transaction, which answers by `sequence` where it is refused as a whole."""
    header = NFGENMSG.pack(0, 0, NFNL_SUBSYS_NFTABLES)
    begin, end = (message(kind, NLM_F_REQUEST, sequence, header) for kind in (NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END))
    return b"".join((begin, *messages, end))


def concerns(kind: int, data: bytes, begin: int, end: int, name: bytes) -> bool:
    """Whether the notification in this body can concern rules of ours: it names our table or carries a comment of
    ours, both of which contain `name`, or is about a base chain: another firewall's, with a policy that may be new."""
    if data.find(name, begin, end) >= 0:
        return True
    return kind == _type(NFT_MSG_NEWCHAIN) and any(
        number == NFTA_CHAIN_HOOK for number, _ in attributes(data, begin + NFGENMSG.size, end)
    )


def _set_header(table: str, name: str) -> bytes:
    header = NFGENMSG.pack(NFPROTO_INET, 0, 0)
    return header + text(NFTA_SET_ELEM_LIST_TABLE, table) + text(NFTA_SET_ELEM_LIST_SET, name)


def _type(kind: int) -> int:
    return NFNL_SUBSYS_NFTABLES << 8 | kind


def _element(key: bytes, value: bytes | None) -> bytes:
    fields = [nested(NFTA_SET_ELEM_KEY, attribute(NFTA_DATA_VALUE, key))]
    if value is not None:
        fields.append(nested(NFTA_SET_ELEM_DATA, attribute(NFTA_DATA_VALUE, value)))
    return nested(NFTA_LIST_ELEM, *fields)
