"""udp mode's data path: one port for all, the native or the python engine, and extensions of flannel's wire format."""

from __future__ import annotations

from collections.abc import Iterator

from overlayd.backend.tun_data_path import Make, TunDataPath
from overlayd.backend.udp_extensions import Extensions
from overlayd.core.address import Family
from overlayd.core.node import Node
from overlayd.datapath.contract import Engine, MakeEngine, choose
from overlayd.datapath.python import PythonEngine
from overlayd.datapath.settings import UdpSettings
from overlayd.log import log
from overlayd.system.errors import HostError
from overlayd.system.service_manager import ServiceManager

ENGINES: tuple[tuple[str, MakeEngine], ...] = (("python", PythonEngine),)
"""Fastest first."""
NO_NATIVE = ""
"""Why the native engine is not among them."""
try:
    from overlayd.datapath.native.engine import NativeEngine
except ImportError as error:  # built without a C compiler
    NO_NATIVE = str(error)
else:
    ENGINES = (("native", NativeEngine), *ENGINES)


class UdpDataPath(TunDataPath):
    """See `backend.data_path.DataPath`."""

    def __init__(self, node: Node, settings: UdpSettings, manager: ServiceManager) -> None:
        self._settings = settings
        self._extensions = Extensions(settings)
        super().__init__(node, settings.port, manager)

    def _port_over(self, underlay_family: Family) -> int:
        return self._settings.port

    def refusals(self, readers: bool) -> Iterator[HostError]:
        if (missing := self._missing_engine()) is not None:
            yield missing
        yield from super().refusals(readers)

    def _missing_engine(self) -> HostError | None:
        if not NO_NATIVE or self._settings.engine != "native":
            return None
        return HostError(
            f"udp.engine: native is not installed ({NO_NATIVE}); install a C compiler, then reinstall overlayd"
        )

    def _choose(self) -> tuple[str, Make]:
        if (missing := self._missing_engine()) is not None:
            raise missing
        wanted = self._settings.engine
        if NO_NATIVE and wanted == "auto" and self._engine is None:
            log.warning("native engine not installed: the slower python engine is used", reason=NO_NATIVE)
        name, make = choose(wanted, ENGINES)
        settings = self._settings
        return name, lambda tun, sockets, table, refused: make(tun, sockets, table, settings, refused)

    def _begun(self, engine: Engine) -> None:
        if self._settings.busy_poll_us and engine.name != "native":
            log.warning("only the native engine polls; the setting has no effect", setting="udp.busy_poll_us")
        self._extensions.open(engine, self._node)

    def stop(self) -> None:
        self._extensions.close()
        super().stop()
