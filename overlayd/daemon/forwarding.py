"""The kernel's forwarding switches (ip-sysctl.rst), without which containers' packets go nowhere."""

from __future__ import annotations

import structlog

from overlayd.core.node import Node
from overlayd.core.settings.model import Settings
from overlayd.system.files import read_sysctl, write_sysctl

log = structlog.get_logger()

_SYSCTLS = {4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding"}


def enable_forwarding(node: Node, settings: Settings) -> None:
    """Switch it on for the node's container families, or say that it is off. Raises HostError."""
    for family in node.families:
        name = _SYSCTLS[family]
        if read_sysctl(name) == "1":
            continue
        if settings.ip_forward == "set":
            if family == 6:
                _keep_router_advertisements(node.underlay.name)
            write_sysctl(name, "1")
            log.info("forwarding turned on", sysctl=name.replace("/", "."))
        else:
            log.error(
                "forwarding is off: containers reach nobody",
                sysctl=name.replace("/", "."),
                remedy=f"sysctl -w {name.replace('/', '.')}=1, or ip_forward: set",
            )


def _keep_router_advertisements(interface: str) -> None:
    """A host that forwards IPv6 ignores router advertisements, and loses the default route that came by them, unless
    accept_ra is 2."""
    name = f"net/ipv6/conf/{interface}/accept_ra"
    if read_sysctl(name) == "1":
        write_sysctl(name, "2")
        log.info("router advertisements stay accepted", sysctl=name.replace("/", "."))
