"""Which ports of this host an attachment gets: none that another attachment or a program of the host has."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from overlayd.core.address import Interface
from overlayd.core.attach.errors import AttachError
from overlayd.core.attach.model import AttachmentKey, PublishedPort
from overlayd.core.attach.ports import Claim, PortTable
from overlayd.core.kernel.kinds import PROTOCOLS
from overlayd.system.files import read_sysctl
from overlayd.system.holders import holder_of
from overlayd.system.netlink import Netlink

_CONNTRACK, _SCTP = (f"net/netfilter/nf_conntrack_{name}" for name in ("max", "sctp_timeout_established"))


async def assign_ports(
    netlink: Netlink,
    table: PortTable,
    key: AttachmentKey,
    wanted: Sequence[PublishedPort],
    addresses: Sequence[Interface],
) -> tuple[PublishedPort, ...]:
    """The wanted ports of an attachment with these addresses, all of them free, and a number chosen for each port 0.
    Raises AttachError, HostError."""
    protocols = {one.protocol for one in wanted}
    if "sctp" in protocols and read_sysctl(_CONNTRACK) is not None and read_sysctl(_SCTP) is None:
        raise AttachError("this kernel does not follow SCTP (CONFIG_NF_CT_PROTO_SCTP); publish tcp or udp ports")
    sockets = {one: await netlink.listening(PROTOCOLS[one]) for one in protocols}

    def listening(claim: Claim) -> str | None:
        found = next(filter(claim.meets_socket, sockets[claim.protocol]), None)
        return holder_of(found) if found is not None else None

    # In a thread: to say who has a port, all processes are looked at.
    return await asyncio.to_thread(table.assign, key, wanted, addresses, listening) if wanted else ()
