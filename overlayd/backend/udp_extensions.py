"""What a host that announces more than flannel's wire format does beside its engine: a TAP for superpackets, and
capability negotiation with the peers that announce it, too."""

from __future__ import annotations

import asyncio

from overlayd.backend.tun import TAP
from overlayd.core.node import Node
from overlayd.datapath.contract import Engine
from overlayd.datapath.negotiation import HELLO_INTERVAL
from overlayd.datapath.settings import UdpSettings
from overlayd.log import log
from overlayd.system.errors import HostError
from overlayd.system.tunnel_tap import TunnelTap


class Extensions:
    """Of one engine."""

    def __init__(self, settings: UdpSettings) -> None:
        self._settings = settings
        self._tap: TunnelTap | None = None
        self._timer: asyncio.TimerHandle | None = None

    def open(self, engine: Engine, node: Node) -> None:
        """Begin, if that is announced; nothing where it has begun."""
        if self._timer is not None or node.lease.wire != "overlayd":
            return
        if engine.name != "native":
            log.warning("only the native engine has extensions of flannel's wire format", lease=str(node.lease))
            return
        if "tunnel_gso" not in (self._settings.without_offloads or ()):
            try:
                self._tap = TunnelTap(TAP, node.underlay.name)
            except HostError as error:
                log.info("no tunnel GSO", reason=str(error))
        engine.replace_tap(self._tap)
        self._send_hellos(engine)

    def close(self) -> None:
        """End."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._tap is not None:
            self._tap.close()
            self._tap = None

    def _send_hellos(self, engine: Engine) -> None:
        engine.send_hellos()
        self._timer = asyncio.get_running_loop().call_later(HELLO_INTERVAL, self._send_hellos, engine)
