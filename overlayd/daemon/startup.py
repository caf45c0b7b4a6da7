"""The start, in the order in which it can be refused.

1. be alone      the lock, the control socket, the health port
2. validate      settings, underlay, the lease to claim
3. try           what the host can refuse (trial.py): nothing has been written to etcd or to the host so far
4. claim         the lease; then packets, kernel state, subnet.env, forwarding: ready
"""

from __future__ import annotations

import asyncio
import gc
import time
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from overlayd.api.attach_server import AttachServer
from overlayd.api.server import ControlServer
from overlayd.backend.modes import prepared
from overlayd.core.node import Node
from overlayd.core.settings.model import Settings
from overlayd.daemon.discovery import discover
from overlayd.daemon.install import install, introduce_peers
from overlayd.daemon.running import Running
from overlayd.daemon.supervisor import every
from overlayd.daemon.trial import admit
from overlayd.log import log
from overlayd.observe.lifecycle import Lifecycle
from overlayd.registry.base import NotYetError, Registry
from overlayd.system.errors import HostError
from overlayd.system.files import attach_socket
from overlayd.system.instance_lock import InstanceLock
from overlayd.system.netlink import Monitor, Netlink
from overlayd.system.processes import find
from overlayd.system.service_manager import ServiceManager

_STATUS_EVERY = 10.0  # seconds between messages to the service manager while the registry is waited for


_RETRY_EVERY = 2.0  # seconds between attempts to get a lease while none is free


async def find_node(
    given: Settings, registry: Registry, netlink: Netlink, manager: ServiceManager
) -> tuple[Settings, Node]:
    """The settings, with what the registry decides, and this host's node. Waits for the registry as long as it takes;
    the service manager is told. Raises HostError, RegistryError."""

    async def report() -> None:
        manager.starting(f"waiting for {given.registry}")

    async def try_out(settings: Settings, node: Node) -> None:
        await admit(settings, node, netlink, manager)

    if (flanneld := find("flanneld")) is not None:
        raise HostError(f"{flanneld} is running on this host; overlayctl adopt --from flannel takes its place")
    if given.registry != "static":
        await report()
    reports = asyncio.create_task(every(_STATUS_EVERY, report))
    try:
        while True:
            settings = prepared(await registry.configure(given))
            try:
                return settings, await discover(settings, registry, netlink, admit=partial(try_out, settings))
            except NotYetError:  # the registry has logged it, and its state has it
                await asyncio.sleep(_RETRY_EVERY)
    finally:
        reports.cancel()


async def listen(
    server: ControlServer, attach_server: AttachServer, settings: Settings, closing: AsyncExitStack
) -> None:
    """Be the only daemon here, and answer. Raises HostError."""
    path = Path(settings.control_socket)
    closing.enter_context(InstanceLock(path))
    closing.push_async_callback(server.close)
    await server.open(path)
    closing.push_async_callback(attach_server.close)
    attach_server.open(attach_socket(path))
    if settings.healthz_port:
        await server.open_health(settings.healthz_ip, settings.healthz_port)


def open_monitor(closing: AsyncExitStack) -> Monitor:
    """The kernel's notifications; closed with the rest. Raises HostError."""
    try:
        monitor = Monitor()
    except OSError as error:
        raise HostError(f"netlink: no notifications: {error}; see the kernel's log (dmesg)") from error
    closing.callback(monitor.close)
    return monitor


async def bring_up(running: Running, lifecycle: Lifecycle, netlink: Netlink, manager: ServiceManager) -> None:
    """From a host that is untouched to one that is ready. Raises HostError."""
    overlay = running.overlay
    devices = [interface.name for interface in await netlink.interfaces() if interface.ours]
    async with overlay.changing:  # a reload has to wait
        overlay.reconciler.table.replace(overlay.registry.leases(overlay.settings))
        introduce_peers(overlay)
        if (data_path := overlay.backend.data_path) is not None:
            data_path.open()
            data_path.resume(devices)  # all is known by now: packets need not wait for a comparison
        await install(overlay)
        running.forwarding.enable()  # nothing is refused from here on
        for name in manager.forget_unused():
            log.info("file descriptor kept by the service manager is no longer needed", name=name)
        running.health.poll(time.monotonic())
        _log_ready(running, time.time() - lifecycle.started)
        lifecycle.phase = "ready"
        manager.ready(running.status_line())
        overlay.prober.replace_peers(overlay.node, overlay.peers)  # after the rest: packets move without it
    # Thousands of leases are here to stay: the garbage collector need not look at them ever again.
    gc.freeze()
    gc.enable()


def _log_ready(running: Running, seconds: float) -> None:
    overlay, node = running.overlay, running.overlay.node
    data_path = overlay.backend.data_path
    log.info(
        "ready",
        mode=node.mode,
        lease=str(node.lease),
        underlay=node.underlay.name,
        mtu=node.overlay_mtu,
        peers=len(overlay.peers),
        engine=data_path.engine if data_path is not None else None,
        took=f"{seconds:.3f}s",
    )
