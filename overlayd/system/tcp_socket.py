"""The TCP port of the health checks (tcp(7))."""

from __future__ import annotations

import errno
import os
import socket

from overlayd.system.errors import HostError, InUseError


def try_health_port(host: str, port: int) -> None:
    """Bind it as a server would, and let go; nobody can connect meanwhile. Raises HostError."""
    try:
        for family, kind, number, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            with socket.socket(family, kind, number) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as event loops do
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind(address)
    except OSError as error:
        raise health_refusal(host, port, error) from None


def health_refusal(host: str, port: int, error: OSError) -> HostError:
    """Why nothing can listen there, and what to do."""
    reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
    text = f"health check on {host} port {port}: {reason}; set healthz_port"
    return InUseError(text, port) if error.errno == errno.EADDRINUSE else HostError(text)
