"""The daemon: builds the parts, joins them, guards their tasks.

1. validate      settings, underlay, own lease: all of it before the host is touched
2. take          the lock, the control socket, the backend's ports: what can be refused
3. bring up      forwarding, kernel state, packets, subnet.env: ready
4. follow        leases, reloads, the clock, until a signal or a task that ends
5. let go        sockets and devices; kernel state stays, so that containers keep their network over a restart
"""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, TypeVar

import structlog

from overlayd import __version__
from overlayd.api.feed import Feed
from overlayd.api.server import ControlServer
from overlayd.backend.base import Backend
from overlayd.core.leases.lease import Lease, LeaseEvent
from overlayd.core.leases.subnet_env import subnet_env
from overlayd.core.node import Node
from overlayd.core.settings.model import Settings
from overlayd.daemon.discovery import discover, make_backend, make_registry
from overlayd.observe.health import Health
from overlayd.observe.metrics import exposition
from overlayd.observe.prober import Prober
from overlayd.observe.status import describe, describe_counters, describe_peer, describe_waiting
from overlayd.observe.watchdog import Watchdog
from overlayd.reconcile.paths import PathFollower
from overlayd.reconcile.reconciler import Reconciler
from overlayd.reconcile.underlay import UnderlayFollower
from overlayd.reconcile.watcher import Watcher
from overlayd.registry.base import Moved, RegistryError, Snapshot
from overlayd.system.config_file import ConfigError, Loaded, Sources, load
from overlayd.system.errors import HostError
from overlayd.system.files import read_sysctl, write_atomically, write_sysctl
from overlayd.system.instance_lock import InstanceLock
from overlayd.system.kernel import Kernel
from overlayd.system.netlink import Monitor, Netlink
from overlayd.system.service_manager import ServiceManager
from overlayd.wire.probe import Sender

log = structlog.get_logger()

T = TypeVar("T")

_LOOK_EVERY = (
    1.0  # seconds between looks at the configuration files; stat() finds a replaced file and a moved link alike
)

_SWITCH = (
    0.001  # seconds after which a thread that compares lets the event loop have its turn; Python's default is 0.005
)
_PULSE_EVERY = 1.0  # seconds between looks at whether packets move
_SAY_EVERY = 10.0  # seconds between signs of life while the registry is waited for
_BREATH = 0.01  # seconds at most between lease updates, of which a storm is taken in batches

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


class Daemon:
    """One overlayd process. `run` returns when it was asked to stop."""

    def __init__(self, sources: Sources, loaded: Loaded, manager: ServiceManager | None = None) -> None:
        self._sources = sources
        self._manager = manager or ServiceManager()
        self._files = loaded.files
        self._given = loaded.settings
        """As this host's own sources have them."""
        self.settings: Settings = loaded.settings
        """With what the registry decides for the whole network."""
        self.registry = make_registry(loaded.settings)
        self.started = time.time()
        self.state = "waiting"
        self.feed = Feed()
        self.prober = Prober(loaded.settings.probe, self._sender)
        self.health = Health(self)
        self.reloads = 0
        self.reload_error: str | None = None
        self.backend: Backend
        self.reconciler: Reconciler
        self.underlay: UnderlayFollower
        self.paths: PathFollower
        self.watcher: Watcher
        self.netlink: Netlink
        self._stop = asyncio.Event()
        self._changing = asyncio.Lock()
        """Held while settings, backend or leases change, so that a reload and a lease event do not interleave."""

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises HostError or RegistryError when it cannot begin or go on."""
        sys.setswitchinterval(_SWITCH)
        gc.disable()  # a start makes objects by the hundred thousand, and hardly any garbage
        async with Netlink() as self.netlink, AsyncExitStack() as closing:
            closing.callback(gc.enable)
            closing.push_async_callback(self.registry.close)
            self._on_signals()
            if self._given.registry != "static":  # it may have to wait, and can be asked meanwhile what for
                await self._listen(closing)
            node = await self._unless_stopped(self._alive_until(self._find_out()))
            if node is None:
                return
            self.backend = make_backend(node, self.settings, self._manager)
            if self._given.registry == "static":
                await self._listen(closing)
            monitor = _monitor(closing)
            self.reconciler = Reconciler(Kernel(self.netlink), monitor)
            self.underlay = UnderlayFollower(
                self.netlink, lambda: self.backend.node, self._follow_underlay, self._compare
            )
            self.watcher = Watcher(monitor, self.reconciler.notice, self._compare, self.underlay.follow)
            self.reconciler.wake = self.watcher.look
            self.paths = PathFollower(
                self.netlink, lambda: self.backend, self.reconciler, lambda: self.prober.narrow_paths()
            )
            self.state = "starting"
            try:
                await self._serve()
            finally:
                self.state = "stopping"
                self._manager.stopping()
                self.prober.close()
                self.backend.stop()

    async def _find_out(self) -> Node:
        self.settings = await self.registry.configure(self._given)
        return await discover(self.settings, self.registry, self.netlink)

    async def _alive_until(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which may wait for the registry for as long as it takes, but not in silence."""

        async def say() -> None:
            self._manager.starting(f"waiting for {self._given.registry}")

        if self._given.registry != "static":
            await say()
        saying = asyncio.create_task(self._every(_SAY_EVERY, say))
        try:
            return await work
        finally:
            saying.cancel()

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T | None:
        """The result of `work`; None when the daemon was asked to stop before there was one."""
        task, stop = asyncio.create_task(work), asyncio.create_task(self._stop.wait())
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if task.done():
            return task.result()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return None

    async def _listen(self, closing: AsyncExitStack) -> None:
        """Be the only daemon here, and answer. Raises HostError."""
        closing.enter_context(InstanceLock(Path(self._given.control_socket)))
        server = ControlServer(self)
        closing.push_async_callback(server.close)
        await server.open(Path(self._given.control_socket))
        if self._given.healthz_port:
            await server.open_health(self._given.healthz_ip, self._given.healthz_port)

    async def _serve(self) -> None:
        self.reconciler.table.replace(self.registry.leases(self.settings))
        self._show_peers(self.backend)
        self.backend.open()  # all is known by now: what was kept open goes on at once
        self.backend.resume()
        self._forwarding()
        await self._install(self.backend)
        for name in self._manager.forget_untaken():
            log.info("what the service manager kept is not needed any more", name=name)
        await self._pulse()
        self._tell()
        self.state = "ready"
        self._manager.ready(self._status_line())
        self.prober.follow(self.backend.node, self.reconciler.peers(self.backend.node))
        # Thousands of leases are here to stay: the garbage collector need not look at them ever again.
        gc.freeze()
        gc.enable()
        await self._guard(
            *self.registry.tasks(),
            self._follow_leases(),
            self.paths.run(),
            self.watcher.run(),
            Watchdog(self._manager, lambda: self.backend, self._status_line).run(),
            self._every(_LOOK_EVERY, self._look()),
            self._every(_PULSE_EVERY, self._pulse),
            self.prober.run(),
        )

    # --- 3. bring up -----------------------------------------------------------------------------------------------

    def _show_peers(self, backend: Backend) -> None:
        self.reconciler.report_problems(backend.node)
        backend.peers_changed(self.reconciler.peers(backend.node))

    async def _install(self, backend: Backend) -> None:
        """The backend's kernel state and packets. Raises HostError when a device cannot be made."""
        failures = await self.reconciler.compare(backend, self.settings)
        fatal = [failure for failure in failures if failure.fatal]
        if fatal:
            raise HostError(fatal[0].reason)
        write_atomically(Path(self.settings.subnet_file), subnet_env(backend.node, self.settings.ip_masq))
        if self.state == "ready":  # a start does without, until packets move
            self.prober.follow(backend.node, self.reconciler.peers(backend.node))

    def _forwarding(self) -> None:
        names = {4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding"}
        for family in self.backend.node.families:
            name = names[family]
            if read_sysctl(name) == "1":
                continue
            if self.settings.ip_forward == "set":
                if family == 6:
                    self._keep_router_advertisements()
                write_sysctl(name, "1")
                log.info("forwarding turned on", sysctl=name.replace("/", "."))
            else:
                log.error(
                    "forwarding is off: containers reach nobody",
                    sysctl=name.replace("/", "."),
                    remedy=f"sysctl -w {name.replace('/', '.')}=1, or ip_forward: set",
                )

    def _keep_router_advertisements(self) -> None:
        """A host that forwards IPv6 ignores router advertisements, and loses the default route that came by them,
        unless accept_ra is 2 (ip-sysctl.rst)."""
        name = f"net/ipv6/conf/{self.backend.node.underlay.name}/accept_ra"
        if read_sysctl(name) == "1":
            write_sysctl(name, "2")
            log.info("router advertisements stay accepted", sysctl=name.replace("/", "."))

    def _status_line(self) -> str:
        node, registry = self.backend.node, self.registry.state()
        leases = len(self.reconciler.table)
        line = f"{node.mode}: {node.lease} over {node.underlay.name}, MTU {node.overlay_mtu}, {leases} leases"
        if not registry.connected:
            line += f"; {registry.name} is out of reach"
        return f"{line}; reload refused, see the log" if self.reload_error else line

    def _tell(self) -> None:
        node = self.backend.node
        log.info(
            "ready",
            mode=node.mode,
            lease=str(node.lease),
            underlay=node.underlay.name,
            mtu=node.overlay_mtu,
            peers=len(self.reconciler.peers(node)),
            engine=self.backend.engine,
            took=f"{time.time() - self.started:.3f}s",
        )

    # --- 4. follow -------------------------------------------------------------------------------------------------

    async def _guard(self, *endless: Coroutine[Any, Any, None]) -> None:
        """Run until asked to stop; an endless task that ends is an error."""
        tasks = [asyncio.create_task(one) for one in endless]
        stop = asyncio.create_task(self._stop.wait())
        done, _ = await asyncio.wait([*tasks, stop], return_when=asyncio.FIRST_COMPLETED)
        for task in [*tasks, stop]:
            task.cancel()
        await asyncio.gather(*tasks, stop, return_exceptions=True)
        for task in done - {stop}:
            raise task.exception() or HostError("a task of the daemon ended; this is a defect: please report it")
        log.info("stopped; kernel state stays (overlayd --cleanup removes it)")

    def _on_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        tasks: set[asyncio.Task[str | None]] = set()

        def hangup() -> None:
            task = loop.create_task(self.reload())
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        loop.add_signal_handler(signal.SIGHUP, hangup)

    async def _follow_leases(self) -> None:
        async for update in self.registry.updates():
            if isinstance(update, Moved):
                await self._move(update.reason)
                continue
            async with self._changing:
                table = self.reconciler.table
                events = table.replace(update.leases) if isinstance(update, Snapshot) else table.apply(*update.events)
                if not events:
                    continue
                self._publish(events)
                self.prober.move(events)
                began = time.monotonic()
                try:
                    await self.reconciler.take(self.backend, events)
                except HostError as error:  # the table is right; a comparison brings the kernel after it
                    log.error("lease events not applied", error=str(error))
                    self.watcher.compare()
            # What comes meanwhile is taken together; packets and everything else have their turn.
            await asyncio.sleep(min(time.monotonic() - began, _BREATH))

    async def _say_stranded(self, old: Lease) -> None:
        """Report the bridges whose containers still have addresses of a subnet that this host has lost."""
        bridges = [
            f"{one.name} {own}"
            for one in await self.netlink.interfaces()
            for own in one.addresses
            if not one.ours and any(own.version == lost.version and own.ip in lost for lost in old.subnets)
        ]
        log.error(
            "this host's subnet is another now: containers with addresses of the old one have to be started again",
            old=str(old),
            new=str(self.backend.node.lease),
            bridges=", ".join(bridges) or "none",
        )

    def _publish(self, events: Iterable[LeaseEvent]) -> None:
        if self.feed.wanted:
            self.feed.publish({"event": event.kind, **self._describe(event.lease)} for event in events)

    def _describe(self, lease: Lease) -> dict[str, Any]:
        return describe_peer(self.backend.node, lease)

    async def watch(self) -> AsyncIterator[dict[str, Any]]:
        """Every lease, then every change of one: what `overlayctl leases --watch` prints."""
        known = self.reconciler.table if self.state != "waiting" else ()
        async for event in self.feed.read({"event": "present", **self._describe(lease)} for lease in known):
            yield event

    async def _move(self, reason: str) -> None:
        """Go over to what the registry has now: another configuration of the network, or another lease."""
        async with self._changing:
            try:
                old = self.backend.node.lease
                await self._change(self._given)
                log.info("follows the registry", reason=reason, lease=str(self.backend.node.lease))
                if self.backend.node.lease.subnets != old.subnets:
                    await self._say_stranded(old)
            except (HostError, RegistryError) as error:
                log.error("cannot follow the registry, the old state stays", reason=reason, error=str(error))

    async def _compare(self) -> bool:
        """Compare and repair; whether all is well now."""
        try:
            backend = self.backend
            findings = await self.reconciler.check(backend, self.settings)
            async with self._changing:
                await self.reconciler.repair(backend, findings)
        except HostError as error:
            log.error("comparison failed", error=str(error))
            return False
        return not self.reconciler.failures

    async def _follow_underlay(self) -> None:
        """Go over to what the underlay interface is now. Raises HostError, RegistryError."""
        async with self._changing:
            await self._change(self._given, stay=self.backend.node.underlay.name)

    async def _every(self, seconds: float, action: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            await asyncio.sleep(seconds)
            await action()

    def _look(self) -> Callable[[], Coroutine[Any, Any, None]]:
        """Reload when a configuration file is not the one that was read."""
        seen = self._stamp()

        async def look() -> None:
            nonlocal seen
            now = self._stamp()
            if now != seen:
                seen = now  # before the reload: a change that comes while it reads is seen at the next look
                await self.reload()

        return look

    def _stamp(self) -> tuple[Any, ...]:
        stamps = []
        for file in self._files:
            with suppress(OSError):
                found = file.stat()
                stamps.append((str(file), found.st_ino, found.st_mtime_ns, found.st_size))
        return tuple(stamps)

    # --- reload ----------------------------------------------------------------------------------------------------

    async def reload(self) -> str | None:
        """Read the configuration again. A bad one changes nothing; the error is given back, and kept for status."""
        if self.state == "waiting":
            return "overlayd has not begun yet: it waits for its registry"
        async with self._changing:
            self.reload_error = None
            told = self.state == "ready"
            if told:
                self._manager.reloading()
            try:
                loaded = load(self._sources)
                await self._change(loaded.settings)
                self._files = loaded.files
            except (ConfigError, HostError, RegistryError) as error:
                self.reload_error = str(error)
            if self.reload_error is None:
                self.reloads += 1
                log.info("reloaded", leases=len(self.reconciler.table))
            else:
                for line in self.reload_error.splitlines():
                    log.error("reload refused, the old configuration stays", error=line)
            if told:
                self._manager.ready(self._status_line())
        if self.underlay.trouble is not None:
            await self.underlay.follow()  # a new table may be the remedy
        return self.reload_error

    async def _change(self, given: Settings, stay: str | None = None) -> None:
        """Go over to a new configuration as a whole, or come back to the old one. Raises HostError, RegistryError.

        `stay`: the underlay interface to stay with, unless the configuration names one.
        """
        for key in RESTART_ONLY:
            if getattr(given, key) != getattr(self._given, key):
                log.warning("takes effect at the next start", setting=key, value=str(getattr(given, key)))
        given = given.model_copy(update={"registry": self._given.registry, "probe": self._given.probe})
        old, new = self.settings, await self.registry.configure(given)
        node = await discover(new, self.registry, self.netlink, stay)
        leases = self.registry.leases(new)
        former, was, known = self.backend, self.backend.node, list(self.reconciler.table)
        stays = was.serves(node) and (new.udp, new.vxlan) == (old.udp, old.vxlan)
        try:
            self.settings = new
            if stays:
                former.node = node
                await self.reconciler.take(former, self.reconciler.table.replace(leases))
            else:
                former.stop()
                self._manager.forget()
                self.backend = make_backend(node, new, self._manager)
                self.backend.open()
                self.reconciler.table.replace(leases)
                log.info("backend exchanged", mode=node.mode, lease=str(node.lease))
            self._show_peers(self.backend)
            await self._install(self.backend)
        except HostError:
            if not stays:
                self.backend.stop()
                self._manager.forget()
            self.backend, self.settings = former, old
            former.node = was
            self.reconciler.table.replace(known)
            if not stays:
                former.open()
            self._show_peers(former)
            await self._install(former)
            raise
        self._given = given
        self._forwarding()

    # --- answers ---------------------------------------------------------------------------------------------------

    async def status(self) -> dict[str, Any]:
        """What `overlayctl status --json` prints."""
        return describe_waiting(self) if self.state == "waiting" else await describe(self)

    async def counters(self) -> dict[str, Any]:
        """What `overlayctl counters --json` prints."""
        return await describe_counters(self)

    async def metrics(self) -> str:
        """What Prometheus scrapes."""
        return await exposition(self)

    def _sender(self) -> Sender:
        """What this host says of itself to peers that probe it."""
        node = self.backend.node
        return Sender(node.mode, __version__, node.overlay_mtu, not self.health.broken)

    async def _pulse(self) -> None:
        broken = set(self.health.broken)
        self.health.look(time.monotonic())
        for text in [text for text in self.health.broken if not broken]:
            log.error("the data path does not work", reason=text)
        if broken and not self.health.broken:
            log.info("the data path works again")


def _monitor(closing: AsyncExitStack) -> Monitor:
    """Closed with the rest. Raises HostError."""
    try:
        monitor = Monitor()
    except OSError as error:
        raise HostError(f"netlink: no notifications: {error}; see the kernel's log (dmesg)") from error
    closing.callback(monitor.close)
    return monitor
