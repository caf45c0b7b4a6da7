"""The kernel's forwarding switches (ip-sysctl.rst), without which containers' packets go nowhere.

check     before a start touches the host: a switch that cannot be set refuses the start
enable    after what may be refused, so that a start that fails leaves them as they were; and on a reload
run       puts back what somebody switches off
"""

from __future__ import annotations

import asyncio

from overlayd.log import log
from overlayd.observe.overlay import Overlay
from overlayd.system.errors import HostError
from overlayd.system.files import is_sysctl_writable, read_sysctl, write_sysctl

_SYSCTLS = {4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding"}
_POLL_EVERY = 1.0  # seconds


class Forwarding:
    """The switches of the node's container families. `run` is a task of the daemon's."""

    def __init__(self, overlay: Overlay) -> None:
        self._overlay = overlay
        self._off: list[str] = []
        self._refused: str | None = None

    def check(self) -> None:
        """Raises HostError if a switch is off, to be set, and cannot be; changes nothing."""
        for name in self._switched_off() if self._is_ours() else ():
            if not is_sysctl_writable(name):
                raise HostError(f"{_dotted(name)} is off and cannot be written; switch it on, or set ip_forward: check")

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
        return [f"{_dotted(name)} is off: containers reach nobody (sysctl -w {_dotted(name)}=1)" for name in self._off]

    def _is_ours(self) -> bool:
        return self._overlay.settings.ip_forward == "set"

    def _switched_off(self) -> list[str]:
        return [name for family in self._overlay.node.families if read_sysctl(name := _SYSCTLS[family]) == "0"]

    def _set(self, name: str) -> None:
        if name == _SYSCTLS[6]:
            _keep_router_advertisements(self._overlay.node.underlay.name)
        write_sysctl(name, "1")


def _keep_router_advertisements(interface: str) -> None:
    """A host that forwards IPv6 ignores router advertisements, and loses the default route that came by them, unless
    accept_ra is 2."""
    name = f"net/ipv6/conf/{interface}/accept_ra"
    if read_sysctl(name) == "1":
        write_sysctl(name, "2")
        log.info("router advertisements stay accepted", sysctl=_dotted(name))


def _dotted(name: str) -> str:
    return name.replace("/", ".")
