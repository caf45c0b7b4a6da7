"""The kernel's forwarding switches (ip-sysctl.rst), without which containers' packets go nowhere.

refusals  before a start touches the host: a switch that cannot be set refuses the start
enable    after what may be refused, so that a start that fails leaves them as they were; and on a reload
run       puts back what somebody switches off
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from overlayd.core.node import Node
from overlayd.core.settings.model import Settings
from overlayd.log import log
from overlayd.observe.overlay import Overlay
from overlayd.system.errors import HostError
from overlayd.system.files import is_sysctl_writable, read_sysctl, write_sysctl

_SYSCTLS = {4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding"}
_POLL_EVERY = 1.0  # seconds


def refusals(settings: Settings, node: Node) -> list[HostError]:
    """Of the switches that are off and to be set, those that cannot be; nothing is changed."""
    return [
        HostError(f"{_dotted(name)} is off and cannot be written; switch it on, or set ip_forward: check")
        for name in switched_off(node)
        if settings.ip_forward == "set" and not is_sysctl_writable(name)
    ]


def planned(settings: Settings, node: Node) -> list[str]:
    """What `enable` would set, in words."""
    if settings.ip_forward != "set":
        return []
    return [
        f"~ sysctl {_dotted(name)} = {value}" for switch in switched_off(node) for name, value in _steps(switch, node)
    ]


def faults(settings: Settings, node: Node) -> list[str]:
    """Which are off and not for overlayd to set, in words."""
    return [] if settings.ip_forward == "set" else [_fault(name) for name in switched_off(node)]


def switched_off(node: Node) -> list[str]:
    """The switches that are off, of those that the node needs."""
    return [name for family in node.families if read_sysctl(name := _SYSCTLS[family]) == "0"]


class Forwarding:
    """The switches of the node's container families. `run` is a task of the daemon's."""

    def __init__(self, overlay: Overlay) -> None:
        self._overlay = overlay
        self._off: list[str] = []
        self._refused: str | None = None

    def enable(self) -> None:
        """Switch them on, or log which are off. Raises HostError."""
        for name in self._switched_off():
            if self._is_ours():
                self._set(name)
                log.info("forwarding turned on", sysctl=_dotted(name))
            else:
                remedy = f"sysctl -w {_dotted(name)}=1, or ip_forward: set"
                log.error("forwarding is off: containers reach nobody", sysctl=_dotted(name), remedy=remedy)
        self._off = self._switched_off()

    async def run(self) -> None:
        """Repair without end."""
        while True:
            await asyncio.sleep(_POLL_EVERY)
            self.repair()

    def repair(self) -> None:
        """Switch on again what is off, if that is for overlayd to do."""
        try:
            for name in self._switched_off() if self._is_ours() else ():
                self._set(name)
                self._overlay.switch_repairs += 1
                log.warning("kernel state repaired", operation=f"{_dotted(name)} = 1", differs="it was switched off")
            self._refused = None
        except HostError as error:
            if str(error) != self._refused:
                log.error("forwarding cannot be switched on again", error=str(error))
            self._refused = str(error)
        self._off = self._switched_off()

    def faults(self) -> list[str]:
        """What was off after the last repair, in words."""
        return [_fault(name) for name in self._off]

    def _is_ours(self) -> bool:
        return self._overlay.settings.ip_forward == "set"

    def _switched_off(self) -> list[str]:
        return switched_off(self._overlay.node)

    def _set(self, switch: str) -> None:
        for name, value in _steps(switch, self._overlay.node):
            write_sysctl(name, value)
            if name != switch:
                log.info("router advertisements stay accepted", sysctl=_dotted(name))


def _steps(switch: str, node: Node) -> Iterator[tuple[str, str]]:
    """What to set, in order, to have it on. A host that forwards IPv6 ignores router advertisements, and loses the
    default route that came by them, unless accept_ra is 2."""
    accept = f"net/ipv6/conf/{node.underlay.name}/accept_ra"
    if switch == _SYSCTLS[6] and read_sysctl(accept) == "1":
        yield accept, "2"
    yield switch, "1"


def _fault(name: str) -> str:
    return f"{_dotted(name)} is off: containers reach nobody (sysctl -w {_dotted(name)}=1)"


def _dotted(name: str) -> str:
    return name.replace("/", ".")
