"""The UDP socket on the underlay (udp(7), ip(7), ipv6(7))."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress

from overlayd.core.address import Address, Family
from overlayd.system.errors import HostError, InUseError

_BUFFER = 16 * 1024 * 1024  # bytes each way: a full burst of TCP from several peers fits
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33  # beyond net.core.[rw]mem_max; they take CAP_NET_ADMIN
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_DO, _PMTUDISC_PROBE = 10, 23, 2, 3


def open_udp_socket(local: Address, port: int) -> socket.socket:
    """A non-blocking socket bound to `local` and `port`. Raises HostError.

    The outer packet carries DF, on purpose: a path too narrow then shows as EMSGSIZE, which becomes an ICMP error for
    the container, where fragments would cost every packet and be lost behind many a firewall. The outer TOS comes with
    each message, for its ECN field (RFC 6040).
    """
    sock = socket.socket(_family(local), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        if local.version == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # before it is bound, or never
        _set_options(sock)
        sock.bind((str(local), port))
    except OSError as error:
        sock.close()
        hints = {
            errno.EADDRINUSE: f"another program has the port (see ss -lunp 'sport = {port}')",
            errno.EADDRNOTAVAIL: "no interface has that address",
            errno.EACCES: "ports below 1024 need CAP_NET_BIND_SERVICE",
        }
        hint = hints.get(error.errno or 0, "see the kernel's message")
        raise _refusal(error, port, f"UDP {local} port {port}: {os.strerror(error.errno or 0)}; {hint}") from None
    return sock


def open_probe_socket(local: str, port: int) -> socket.socket:
    """A non-blocking socket for probes, bound to `local` and `port`. Raises HostError.

    Its packets carry DF, and are sent however narrow the kernel believes the path to be: that is what they try.
    """
    ipv4 = ":" not in local
    sock = socket.socket(socket.AF_INET if ipv4 else socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        if ipv4:
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE)
        sock.bind((local, port))
    except OSError as error:
        sock.close()
        reason = os.strerror(error.errno or 0)
        text = f"UDP {local} port {port}: {reason}; set probe.port, to 0 for no probes"
        raise _refusal(error, port, text) from None
    return sock


def is_port_taken(family: Family, port: int) -> bool:
    """Whether the kernel refuses the port on all addresses of the family, as a VXLAN device binds it."""
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    try:
        with socket.socket(kind, socket.SOCK_DGRAM) as sock:
            if kind == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(("", port))
    except OSError as error:  # a port below 1024 is refused to us, not to a device
        return error.errno == errno.EADDRINUSE
    return False


def adopt_udp_socket(fd: int, local: Address, port: int) -> socket.socket:
    """One that was opened as above, with what waits in it. Raises HostError, and closes it, when it is another."""
    what = f"UDP {local} port {port}: the socket that was kept is another"
    try:
        sock = socket.socket(fileno=fd)
    except OSError as error:
        os.close(fd)
        raise HostError(f"{what}: {os.strerror(error.errno or 0)}") from None
    try:
        found = _identity(sock)
        if found != (_family(local), socket.SOCK_DGRAM, (str(local), port)):
            raise HostError(f"{what}: {sock.family.name}, {sock.type.name}, bound to {found[2]}")
        sock.setblocking(False)
        _set_options(sock)
    except (OSError, HostError) as error:
        sock.close()
        raise HostError(str(error)) from None
    return sock


def is_bound(fd: int, local: Address, port: int) -> bool:
    """Whether this is such a socket, bound to `local` and `port`."""
    try:
        with socket.socket(fileno=os.dup(fd)) as sock:
            return _identity(sock) == (_family(local), socket.SOCK_DGRAM, (str(local), port))
    except OSError:
        return False


def _identity(sock: socket.socket) -> tuple[object, object, object]:
    return sock.family, sock.type, sock.getsockname()[:2]


def _refusal(error: OSError, port: int, text: str) -> HostError:
    return InUseError(text, port) if error.errno == errno.EADDRINUSE else HostError(text)


def _family(local: Address) -> socket.AddressFamily:
    return socket.AF_INET if local.version == 4 else socket.AF_INET6


def _set_options(sock: socket.socket) -> None:
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DO)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_DO)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
    for option in (_SO_SNDBUFFORCE, _SO_RCVBUFFORCE):
        with suppress(PermissionError):
            sock.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
