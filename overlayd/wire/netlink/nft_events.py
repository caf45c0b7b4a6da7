"""Notifications of nftables (linux/netfilter/nf_tables.h): whether a change can concern rules of ours.

nlmsghdr, then nfgenmsg: family u8, version u8, resource id u16, then attributes
"""

from __future__ import annotations

from overlayd.wire.netlink.dump import attributes

_NFT_MSG_NEWCHAIN = 10 << 8 | 3  # NFNL_SUBSYS_NFTABLES in the high byte of the type
_NFTA_CHAIN_HOOK = 4
_NFGENMSG = 4  # bytes


def concerns(kind: int, data: bytes, begin: int, end: int, name: bytes) -> bool:
    """Whether the message in this body names our table or carries a comment of ours, both of which contain `name`, or
    is about a base chain: another firewall's, with a policy that may be new."""
    if data.find(name, begin, end) >= 0:
        return True
    return kind == _NFT_MSG_NEWCHAIN and any(
        attribute == _NFTA_CHAIN_HOOK for attribute, _ in attributes(data, begin + _NFGENMSG, end)
    )
