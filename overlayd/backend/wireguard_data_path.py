"""wireguard mode's data path: a port for each underlay family, tunnels with this host's key, and their clock."""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import Mapping

from overlayd.backend.tun_data_path import Make, TunDataPath
from overlayd.core.address import Family
from overlayd.core.forward import ForwardingTable
from overlayd.core.node import Node
from overlayd.datapath.contract import Degraded, Engine
from overlayd.datapath.wireguard.engine import TICK, WireguardEngine
from overlayd.datapath.wireguard.noise import NO_PSK
from overlayd.datapath.wireguard.primitives import PrivateKey
from overlayd.datapath.wireguard.settings import WireguardSettings
from overlayd.datapath.wireguard.tunnel import Tunnel
from overlayd.system.private_key import read_private_key
from overlayd.system.service_manager import ServiceManager


class WireguardDataPath(TunDataPath):
    """See `backend.data_path.DataPath`."""

    def __init__(self, node: Node, settings: WireguardSettings, manager: ServiceManager) -> None:
        self._settings = settings
        self._timer: asyncio.TimerHandle | None = None
        super().__init__(node, settings.port, manager)

    def _port_over(self, underlay_family: Family) -> int:
        return self._settings.port_v6 if underlay_family == 6 else self._settings.port

    def _choose(self) -> tuple[str, Make]:
        settings = self._settings
        assert settings.key_file is not None  # a start has made the key
        own = PrivateKey(read_private_key(settings.key_file))
        psk = base64.b64decode(settings.psk.reveal()) if settings.psk is not None else NO_PSK

        def make(tun: int, sockets: Mapping[Family, socket.socket], table: ForwardingTable, _: Degraded) -> Engine:
            tunnels = {family: Tunnel(own, psk, settings.persistent_keepalive) for family in sockets}
            return WireguardEngine(tun, sockets, table, tunnels)

        return WireguardEngine.name, make

    def _begun(self, engine: Engine) -> None:
        assert isinstance(engine, WireguardEngine)  # as made here
        if self._timer is None:
            self._tick(engine)

    def _tick(self, engine: WireguardEngine) -> None:
        engine.tick()
        self._timer = asyncio.get_running_loop().call_later(TICK, self._tick, engine)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        super().stop()
