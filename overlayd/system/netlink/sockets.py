"""The sockets of this network namespace that take what comes to a port."""

from __future__ import annotations

import errno
import socket

from overlayd.system.netlink.dumps import DumpReader
from overlayd.wire.netlink import sock_diag as wire
from overlayd.wire.netlink.uapi import NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY


class SocketReader:
    """A netlink socket that only reads."""

    def __init__(self) -> None:
        """Raises OSError."""
        self._dumps = DumpReader(NETLINK_SOCK_DIAG)
        self.close = self._dumps.close

    def listening(self, protocol: int) -> list[wire.SocketEntry]:
        """Those of a protocol, by its IANA number; none of one that the kernel does not have. Raises OSError."""
        found: list[wire.SocketEntry] = []
        for family in (socket.AF_INET, socket.AF_INET6):
            try:
                header = wire.dump_header(family, protocol)
                found += self._dumps.dump(SOCK_DIAG_BY_FAMILY, header, wire.read_socket)
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise
        return found
