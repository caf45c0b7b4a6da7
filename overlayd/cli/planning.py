"""This host as overlayd would run on it, found without changing anything: for --check and `overlayctl adopt`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

from overlayd.backend.base import Backend
from overlayd.backend.modes import make_backend, prepared
from overlayd.core.kernel.diff import Operation
from overlayd.core.kernel.flannel_rules import names
from overlayd.core.kernel.kinds import Link, Route
from overlayd.core.node import Node
from overlayd.core.settings.model import Settings
from overlayd.daemon.discovery import discover, make_registry
from overlayd.reconcile.providers import providers
from overlayd.reconcile.reconciler import Reconciler
from overlayd.reconcile.results import Plan
from overlayd.system.attachment_file import AttachmentFile
from overlayd.system.kernel import Kernel
from overlayd.system.netlink import Netlink


class Preview(NamedTuple):
    """A start, as far as it goes without writing to etcd or to the kernel."""

    settings: Settings
    """This host's own, with what the registry decides for the whole network."""
    backend: Backend
    reconciler: Reconciler
    netlink: Netlink

    @property
    def node(self) -> Node:
        """This host."""
        return self.backend.node


async def preview(given: Settings, closing: AsyncExitStack) -> Preview:
    """The node, and the reconciler that would apply its state; what the host may refuse is not tried. Raises HostError
    or RegistryError."""
    netlink = await closing.enter_async_context(Netlink())
    registry = make_registry(given, read_only=True)
    closing.push_async_callback(registry.close)
    settings = prepared(await registry.configure(given), read_only=True)
    node = await discover(settings, registry, netlink)
    backend = make_backend(node)
    reconciler = Reconciler(Kernel(netlink))
    reconciler.table.replace(registry.leases(settings))
    attachments = AttachmentFile(Path(settings.state_dir), read_only=True).load()
    reconciler.use(node, providers(backend, settings, reconciler.table, attachments))
    return Preview(settings, backend, reconciler, netlink)


def takeover(plan: Plan) -> list[str]:
    """What a start would take over from flannel, a line for each; empty where flannel has left nothing."""
    lines = []
    for step in plan.operations:
        if isinstance(step.old, Link) and not step.old.ours:
            lines.append(f"device {step.old.name}, as {step.object.device}")
        elif isinstance(step.old, Route) and not step.old.ours:
            lines.append(f"route {step.old.destination}")
    return [*lines, *names(plan.flannel_rules)]


def print_operations(operations: Sequence[Operation | str], title: str, nothing: str) -> None:
    """The operations under a title, or that there is nothing to do."""
    print(title if operations else nothing)
    for step in operations:
        print(f"  {step}")
