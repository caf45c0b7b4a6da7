"""One overlayd process, from the configuration to its end.

1. start         startup.py: validate, try what can be refused, bring up; until then waiting.py answers
2. run           running.py: the parts and their tasks; supervisor.py guards them
3. follow        leases (lease_follower.py), configuration, registry and underlay (reload.py)
4. let go        sockets and devices; kernel state stays, so that containers keep their network over a restart
"""

from __future__ import annotations

import gc
import sys
from contextlib import AsyncExitStack

from overlayd.api.attach_server import AttachServer
from overlayd.api.server import ControlServer
from overlayd.backend.modes import make_backend
from overlayd.daemon.discovery import make_registry
from overlayd.daemon.running import Running
from overlayd.daemon.startup import bring_up, find_node, listen, open_monitor
from overlayd.daemon.supervisor import Supervisor
from overlayd.daemon.waiting import Waiting
from overlayd.log import log
from overlayd.observe.lifecycle import Lifecycle
from overlayd.system.config_file import Loaded, Sources
from overlayd.system.netlink import Netlink
from overlayd.system.service_manager import ServiceManager

_SWITCH_INTERVAL = 0.001  # seconds after which a thread that compares yields to the event loop; Python's default: 0.005


async def run(sources: Sources, loaded: Loaded, manager: ServiceManager | None = None) -> None:
    """Serve until SIGTERM or SIGINT. Raises HostError or RegistryError when it cannot start or go on."""
    sys.setswitchinterval(_SWITCH_INTERVAL)
    manager = manager or ServiceManager()
    lifecycle, supervisor, given = Lifecycle(), Supervisor(), loaded.settings
    async with Netlink() as netlink, AsyncExitStack() as closing:
        closing.callback(gc.enable)
        registry = make_registry(given)
        closing.push_async_callback(registry.close)
        waiting = Waiting(lifecycle, registry)
        server, attach_server = ControlServer(lifecycle, waiting), AttachServer()
        supervisor.handle_signals(lambda: server.service.reload())
        # The start may have to wait, and can be asked meanwhile what for.
        await listen(server, attach_server, given, closing)
        found = await supervisor.unless_stopped(find_node(given, registry, netlink, manager))
        if found is None:
            return
        settings, node = found
        backend = make_backend(node, manager)
        monitor = open_monitor(closing)
        running = Running(lifecycle, settings, backend, registry, sources, loaded, netlink, monitor, manager)
        lifecycle.phase, server.service = "starting", running
        attach_server.service = running.attacher
        waiting.successor.set_result(running)
        try:
            await bring_up(running, lifecycle, netlink, manager)
            await supervisor.run(running.tasks())
            log.info("stopped; kernel state stays (overlayd --cleanup removes it)")
        finally:
            lifecycle.phase = "stopping"
            manager.stopping()
            running.stop()
