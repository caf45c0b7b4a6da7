"""Changing what runs: another configuration, another lease, another underlay.

1. read       the configuration (a reload), or take the last one again (the registry or the underlay has changed)
2. discover   the node as it is to be, and try what the host may refuse of it; a configuration that is wrong, or not
              possible here, is refused now, and nothing has changed
3. change     in place where the backend serves the new node as well, else with a new backend
4. or back    a host that refuses gets the former settings, backend and leases again
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from overlayd.backend.base import Backend
from overlayd.backend.modes import SETTINGS, make_backend, prepared
from overlayd.core.leases.lease import Lease
from overlayd.core.leases.table import LeaseEvent
from overlayd.core.node import Node
from overlayd.core.settings.model import Settings
from overlayd.daemon.discovery import discover
from overlayd.daemon.install import install, introduce_peers
from overlayd.daemon.trial import admit
from overlayd.log import log
from overlayd.observe.lifecycle import Lifecycle
from overlayd.observe.overlay import Overlay
from overlayd.observe.status import status_line
from overlayd.registry.base import RegistryError
from overlayd.system.config_file import ConfigError, Loaded, Sources, load
from overlayd.system.errors import HostError
from overlayd.system.netlink import Netlink
from overlayd.system.service_manager import ServiceManager

RESTART_ONLY = (
    "control_socket",
    "etcd",
    "healthz_ip",
    "healthz_port",
    "log_format",
    "log_level",
    "probe",
    "registry",
    "state_dir",
)


class Reloader:
    """Replaces the overlay's settings and backend, as a whole or not at all."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        overlay: Overlay,
        sources: Sources,
        loaded: Loaded,
        netlink: Netlink,
        manager: ServiceManager,
        publish: Callable[[Iterable[LeaseEvent]], None],
        enable_forwarding: Callable[[], None],
    ) -> None:
        """`loaded`: the configuration that `overlay` was made from, without what the registry decides. `publish` gets
        each change of the lease table."""
        self._lifecycle, self._overlay, self._sources = lifecycle, overlay, sources
        self._netlink, self._manager, self._publish = netlink, manager, publish
        self._enable_forwarding = enable_forwarding
        self._given = loaded.settings
        self._files = loaded.files

    def files(self) -> Iterable[Path]:
        """The files that the configuration in force was read from."""
        return self._files

    async def reload(self) -> str | None:
        """Read the configuration again. A bad one changes nothing; the error is returned, and kept for status."""
        async with self._overlay.changing:
            ready = self._lifecycle.phase == "ready"
            if ready:
                self._manager.reloading()
            self._lifecycle.reload_error = error = await self._reload()
            if error is None:
                self._lifecycle.reloads += 1
                log.info("reloaded", leases=len(self._overlay.reconciler.table))
            else:
                for line in error.splitlines():
                    log.error("reload refused, the old configuration stays", error=line)
            if ready:
                self._manager.ready(status_line(self._overlay, error))
        return error

    async def _reload(self) -> str | None:
        try:
            loaded = load(self._sources, SETTINGS)
            await self._change(loaded.settings)
        except (ConfigError, HostError, RegistryError) as error:
            return str(error)
        self._files = loaded.files
        self._lifecycle.overridden = loaded.overridden
        for line in loaded.overridden:
            log.warning("overridden", setting=line)
        return None

    async def follow_registry(self, reason: str) -> None:
        """Apply what the registry has now: another configuration of the network, or another lease."""
        overlay = self._overlay
        async with overlay.changing:
            old = overlay.node.lease
            try:
                await self._change(self._given, interface=overlay.node.underlay.name)
                log.info("applied the registry's change", reason=reason, lease=str(overlay.node.lease))
                if overlay.node.lease.subnets != old.subnets:
                    await self._report_orphaned(old)
            except (HostError, RegistryError) as error:
                log.error("registry's change refused, the old configuration stays", reason=reason, error=str(error))

    async def follow_underlay(self) -> None:
        """Apply the underlay interface as it is now. Raises HostError, RegistryError."""
        async with self._overlay.changing:
            await self._overlay.registry.reconnect()
            await self._change(self._given, interface=self._overlay.node.underlay.name)

    async def _change(self, given: Settings, interface: str | None = None) -> None:
        """Apply a configuration as a whole, or return to the old one. Raises HostError, RegistryError.

        `interface`: the underlay interface, where the configuration has not changed; see `discover`.
        """
        overlay = self._overlay
        given = self._without_restart_only(given)
        settings = prepared(await overlay.registry.configure(given))

        async def try_out(node: Node) -> None:
            if not overlay.node.serves(node):
                await admit(settings, node, self._netlink, self._manager, os.getpid())

        node = await discover(settings, overlay.registry, self._netlink, interface, try_out)
        leases = overlay.registry.leases(settings)
        if overlay.node.serves(node):
            await self._change_in_place(settings, node, leases)
        else:
            await self._replace_backend(settings, node, leases)
        self._given = given
        self._enable_forwarding()

    def _without_restart_only(self, given: Settings) -> Settings:
        """Warn of settings that are only read at a start, and keep those that would be read again."""
        for key in RESTART_ONLY:
            if getattr(given, key) != getattr(self._given, key):
                log.warning("takes effect at the next start", setting=key, value=str(getattr(given, key)))
        return given.changed(registry=self._given.registry, probe=self._given.probe)

    async def _change_in_place(self, settings: Settings, node: Node, leases: Iterable[Lease]) -> None:
        overlay = self._overlay
        old_settings, old_node, old_leases = overlay.settings, overlay.node, list(overlay.reconciler.table)
        try:
            overlay.use(settings, overlay.backend, node)
            await overlay.reconciler.apply_events(self._replace_leases(leases))
            await self._bring_into_force()
        except HostError:
            overlay.use(old_settings, overlay.backend, old_node)
            self._replace_leases(old_leases)
            await self._bring_into_force()
            raise

    async def _replace_backend(self, settings: Settings, node: Node, leases: Iterable[Lease]) -> None:
        overlay = self._overlay
        old_settings, old_backend, old_leases = overlay.settings, overlay.backend, list(overlay.reconciler.table)
        try:
            self._stop_data_path()
            overlay.use(settings, make_backend(node, self._manager), node)
            _open(overlay.backend)
            self._replace_leases(leases)
            log.info("data path rebuilt for the new configuration", mode=node.mode, lease=str(node.lease))
            await self._bring_into_force()
        except HostError:
            self._stop_data_path()
            overlay.use(old_settings, old_backend, old_backend.node)
            self._replace_leases(old_leases)
            _open(old_backend)
            await self._bring_into_force()
            raise

    def _replace_leases(self, leases: Iterable[Lease]) -> list[LeaseEvent]:
        events = self._overlay.reconciler.table.replace(leases)
        self._publish(events)
        return events

    def _stop_data_path(self) -> None:
        if (data_path := self._overlay.backend.data_path) is not None:
            data_path.stop()
        self._manager.forget()

    async def _bring_into_force(self) -> None:
        introduce_peers(self._overlay)
        await install(self._overlay)
        self._overlay.prober.replace_peers(self._overlay.node, self._overlay.peers)

    async def _report_orphaned(self, old: Lease) -> None:
        """Log the bridges whose containers still have addresses of a subnet that this host has lost, and the attached
        containers, which are to be refreshed."""
        bridges = [
            f"{one.name} {own}"
            for one in await self._netlink.interfaces()
            for own in one.addresses
            if not one.ours and any(own.version == lost.version and own.ip in lost for lost in old.subnets)
        ]
        log.error(
            "this host's subnet has changed: restart the containers that have addresses of the old one",
            old=str(old),
            new=str(self._overlay.node.lease),
            bridges=", ".join(bridges) or "none",
            attached=", ".join(str(one) for one in self._overlay.attachments) or None,
        )


def _open(backend: Backend) -> None:
    if backend.data_path is not None:
        backend.data_path.open()
