"""The daemon once its node is known: its parts, each given what it needs, and its answers to the control API."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

from overlayd import __version__
from overlayd.backend.base import Backend
from overlayd.core.settings.model import Settings
from overlayd.daemon.attacher import Attacher
from overlayd.daemon.config_watcher import ConfigWatcher
from overlayd.daemon.forwarding import Forwarding
from overlayd.daemon.install import repair
from overlayd.daemon.lease_follower import LeaseFeed, LeaseFollower
from overlayd.daemon.reload import Reloader
from overlayd.observe.attached import describe_attachments
from overlayd.observe.health import Health
from overlayd.observe.lifecycle import Lifecycle
from overlayd.observe.metrics import exposition
from overlayd.observe.overlay import Overlay
from overlayd.observe.prober import Prober
from overlayd.observe.status import describe, describe_counters, status_line
from overlayd.observe.watchdog import Watchdog
from overlayd.reconcile.paths import PathFollower
from overlayd.reconcile.reconciler import Reconciler
from overlayd.reconcile.underlay import UnderlayFollower
from overlayd.reconcile.watcher import Watcher
from overlayd.registry.base import Registry
from overlayd.system.attachment_file import AttachmentFile
from overlayd.system.config_file import Loaded, Sources
from overlayd.system.kernel import Kernel
from overlayd.system.netlink import Monitor, Netlink
from overlayd.system.service_manager import ServiceManager
from overlayd.wire.probe import Sender


class Running:
    """Answers the control API, and names the tasks that have to run."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        settings: Settings,
        backend: Backend,
        registry: Registry,
        sources: Sources,
        loaded: Loaded,
        netlink: Netlink,
        monitor: Monitor,
        manager: ServiceManager,
    ) -> None:
        """`settings`: those of `loaded`, with what the registry decides for the whole network."""
        self._lifecycle = lifecycle
        prober = Prober(loaded.settings.probe, self._sender, {mode.code: mode.name for mode in settings.modes.values()})
        reconciler = Reconciler(Kernel(netlink), monitor)
        attachments = AttachmentFile(Path(settings.state_dir))
        self.overlay = overlay = Overlay(settings, backend, registry, reconciler, prober, attachments.load())
        self.attacher = Attacher(overlay, netlink, attachments, lambda: lifecycle.phase == "ready")
        self._feed = LeaseFeed(overlay)
        self.forwarding = Forwarding(overlay)
        self._reloader = Reloader(
            lifecycle, overlay, sources, loaded, netlink, manager, self._feed.publish, self.forwarding.enable
        )
        self._underlay = UnderlayFollower(
            netlink, lambda: overlay.node, self._reloader.follow_underlay, lambda: repair(overlay), prober.retry
        )
        self.health = Health(
            lifecycle, overlay, lambda: self._underlay.trouble, self.forwarding.faults, netlink.sightings
        )
        self._watcher = Watcher(monitor, reconciler.repair_changes, lambda: repair(overlay), self._underlay.follow)
        reconciler.on_changes(self._watcher.wake)
        self._paths = PathFollower(netlink, lambda: overlay.backend, reconciler, prober.narrow_paths)
        self._lease_follower = LeaseFollower(overlay, self._feed, self._reloader.follow_registry, self._watcher.compare)
        self._watchdog = Watchdog(manager, lambda: overlay.backend, self.status_line)
        self._config_watcher = ConfigWatcher(self._reloader.files, self.reload)

    def tasks(self) -> dict[str, Coroutine[Any, Any, None]]:
        """What runs without end while the data path is up, by name."""
        return {
            **self.overlay.registry.tasks(),
            "lease follower": self._lease_follower.run(),
            "path follower": self._paths.run(),
            "forwarding": self.forwarding.run(),
            "kernel watcher": self._watcher.run(),
            "watchdog": self._watchdog.run(),
            "config watcher": self._config_watcher.run(),
            "health": self.health.run(),
            "prober": self.overlay.prober.run(),
        }

    def stop(self) -> None:
        """Let go of sockets and devices. Kernel state stays."""
        self.overlay.prober.close()
        if (data_path := self.overlay.backend.data_path) is not None:
            data_path.stop()

    def status_line(self) -> str:
        """One line, for `systemctl status`."""
        return status_line(self.overlay, self._lifecycle.reload_error)

    def _sender(self) -> Sender:
        """What this host tells peers that probe it."""
        node = self.overlay.node
        return Sender(node.spec.code, __version__, node.overlay_mtu, not self.health.broken)

    # --- answers -----------------------------------------------------------------------------------------------------

    def health_report(self) -> dict[str, Any]:
        return self.health.report()

    async def status(self) -> dict[str, Any]:
        return await describe(self._lifecycle, self.overlay, self.health)

    async def counters(self) -> dict[str, Any]:
        return await describe_counters(self._lifecycle, self.overlay, self.health)

    async def metrics(self) -> str:
        return await exposition(self._lifecycle, self.overlay, self.health)

    async def reload(self) -> str | None:
        error = await self._reloader.reload()
        if self._underlay.trouble is not None:
            await self._underlay.follow()  # a new configuration may be the remedy
        return error

    def attachments(self) -> list[dict[str, Any]]:
        return describe_attachments(self.overlay)

    def leases(self) -> AsyncIterator[dict[str, Any]]:
        return self._feed.watch()
