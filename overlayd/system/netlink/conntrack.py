"""Connections that the kernel follows: those to a few ports, read and forgotten."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial

from overlayd.core.address import Address
from overlayd.core.kernel.conntrack import MovedPorts
from overlayd.system.netlink.dumps import DumpReader
from overlayd.system.netlink.request_socket import RequestSocket
from overlayd.wire.netlink import conntrack as wire
from overlayd.wire.netlink.uapi import NETLINK_NETFILTER

_BATCH = 100
"""Messages in one send: their acknowledgements fit the receive buffer."""
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


class ConntrackReader:
    """A netlink socket that only reads."""

    def __init__(self) -> None:
        """Raises OSError."""
        self._dumps = DumpReader(NETLINK_NETFILTER)
        self.close = self._dumps.close

    def stale(self, moved: MovedPorts, local: Callable[[], Collection[Address]]) -> list[wire.ConntrackEntry]:
        """The UDP connections that `moved` calls stale; `local`: this host's addresses. Raises OSError."""
        found = [entry for version, ports in moved.by_version().items() for entry in self.entries(version, ports)]
        addresses = local() if found else ()
        return [one for one in found if moved.is_stale(one, lambda to: to.is_loopback or to in addresses)]

    def entries(self, version: int, ports: Collection[int]) -> Iterator[wire.ConntrackEntry]:
        """The UDP connections to these ports, from one walk of the kernel's through its table. Raises OSError."""
        asked = next(iter(ports)) if len(ports) == 1 else None
        header = wire.dump_header(_FAMILIES[version], socket.IPPROTO_UDP, asked)
        read = partial(wire.read_entry, protocol=socket.IPPROTO_UDP)
        return (entry for entry in self._dumps.dump(wire.GET, header, read) if entry.destination.port in ports)


class ConntrackWriter:
    """A netlink socket of its own."""

    def __init__(self) -> None:
        """Raises OSError."""
        self._socket = RequestSocket(NETLINK_NETFILTER)
        self.close = self._socket.close

    def forget(self, entries: Iterable[wire.ConntrackEntry]) -> None:
        """Forget these connections; one may be gone already. Raises OSError."""
        messages = [(sequence := self._socket.next_sequence(), wire.delete_entry(one, sequence)) for one in entries]
        for start in range(0, len(messages), _BATCH):
            part = dict(messages[start : start + _BATCH])
            refused = self._socket.exchange(b"".join(part.values()), part)
            number = next((number for number in refused.values() if number != errno.ENOENT), 0)
            if number:
                raise OSError(number, "the kernel keeps a connection that is to be forgotten")
