"""The prober's socket I/O: the sockets that questions and answers use, and those that collect ICMP errors.

Plain sockets with a reader callback rather than asyncio-dgram: its queue of received datagrams has no bound, and
anybody can flood this port; the padded questions need DF and EMSGSIZE, which belong to one send.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

from overlayd.core.address import Family
from overlayd.core.mtu import MAXIMUM
from overlayd.core.probing.target import Endpoint
from overlayd.system.errors import HostError
from overlayd.system.udp_socket import open_probe_socket

_BURST = 64  # datagrams in one wake-up
_ERROR_SOCKETS = 16
_ERROR_WAIT = 4.0  # seconds; after three the kernel gives up on a neighbour (arp(7): mcast_solicit, retrans_time)

_REASONS = {
    errno.ECONNREFUSED: "nothing receives probes there (overlayd is down or has probe.port 0), or a firewall rejects",
    errno.EHOSTUNREACH: "the network cannot reach it: the host or its link is down, or a firewall rejects",
    errno.ENETUNREACH: "this host has no route to it",
    errno.EPERM: "a firewall on this host drops outgoing probes",
    errno.ENETDOWN: "this host's underlay interface is down",
}


def error_text(number: int) -> str:
    """What an errno of a send to a peer, or an ICMP error that it met, means."""
    return _REASONS.get(number) or f"the kernel reports: {os.strerror(number)}"


class ProbeSockets:
    """One socket for each underlay family."""

    def __init__(self, port: int, receive: Callable[[memoryview, str, int], None]) -> None:
        """`receive` gets each datagram, valid during the call, with its sender's address and port."""
        self._port, self._receive = port, receive
        self._sockets: dict[Family, socket.socket] = {}
        self._locals: Mapping[Family, str] = {}
        self._buffer = memoryview(bytearray(MAXIMUM))

    def __bool__(self) -> bool:
        """Whether any is open."""
        return bool(self._sockets)

    def open(self, local: Mapping[Family, str]) -> None:
        """Bind to these addresses; sockets that are already bound to them stay. Raises HostError, with none open."""
        if local == self._locals:
            return
        self.close()
        try:
            for family, address in local.items():
                self._sockets[family] = sock = open_probe_socket(address, self._port)
                asyncio.get_running_loop().add_reader(sock.fileno(), partial(self._readable, sock))
        except HostError:
            self.close()
            raise
        self._locals = local

    def close(self) -> None:
        """Close them. Safe to call twice."""
        for sock in self._sockets.values():
            with suppress(RuntimeError):
                asyncio.get_running_loop().remove_reader(sock.fileno())
            sock.close()
        self._sockets, self._locals = {}, {}

    def send(self, payload: bytes, host: str, port: int, family: Family) -> None:
        """Raises OSError; where there is no socket of the family, as for a network out of reach."""
        sock = self._sockets.get(family)
        if sock is None:
            raise OSError(errno.ENETUNREACH, "no socket")
        sock.sendto(payload, (host, port))

    def _readable(self, sock: socket.socket) -> None:
        for _ in range(_BURST):
            try:
                length, sender = sock.recvfrom_into(self._buffer)
            except BlockingIOError:
                return
            except OSError:
                continue
            self._receive(self._buffer[:length], sender[0], sender[1])


class ErrorSockets:
    """Evidence of why a peer is silent: the kernel reports ICMP errors to connected sockets only.

    They are of no other use: the peer ignores what comes from their ports, and does not count it, because it is empty.
    """

    def __init__(self) -> None:
        self._sockets: dict[str, tuple[float, socket.socket]] = {}

    def poll(self, endpoint: Endpoint, now: float) -> int | None:
        """The errno that the last datagram to this endpoint met, 0 for none, None while that is open; sends another.

        Called whenever the endpoint is asked again; an answer comes with one of the next calls.
        """
        found = None
        if endpoint.host in self._sockets:
            sent, sock = self._sockets[endpoint.host]
            found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if not found and now - sent < _ERROR_WAIT:
                return None
            self.discard(endpoint.host)
        if len(self._sockets) >= _ERROR_SOCKETS:
            self.discard(next(iter(self._sockets)))
        self._send(endpoint, now)
        return found

    def _send(self, endpoint: Endpoint, now: float) -> None:
        family = socket.AF_INET if endpoint.underlay_family == 4 else socket.AF_INET6
        try:
            sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        except OSError:  # out of descriptors
            return
        try:
            sock.connect((endpoint.host, endpoint.port))
            sock.send(b"")
        except OSError:
            sock.close()
        else:
            self._sockets[endpoint.host] = now, sock

    def discard(self, host: str) -> None:
        """Forget what concerns this address."""
        if host in self._sockets:
            self._sockets.pop(host)[1].close()

    def close(self) -> None:
        """Forget everything."""
        for host in list(self._sockets):
            self.discard(host)
