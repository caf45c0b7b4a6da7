"""Bringing a backend into force: its peers, its kernel state, subnet.env. A start does it, and so does a reload."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from overlayd.backend.base import Backend
from overlayd.core.leases.subnet_env import subnet_env
from overlayd.log import log
from overlayd.observe.overlay import Overlay
from overlayd.system.errors import HostError
from overlayd.system.files import write_atomically
from overlayd.system.kernel import Failure


def introduce_peers(overlay: Overlay) -> None:
    """Give the data path all peers, and report those that cannot be reached."""
    overlay.reconciler.report_problems()
    if (data_path := overlay.backend.data_path) is not None:
        data_path.use(overlay.node, overlay.peers)


async def install(overlay: Overlay) -> None:
    """Compare and apply the kernel state, then write subnet.env. Raises HostError when a device cannot be made."""
    failures = await overlay.reconciler.compare()
    _attach(overlay.backend, failures)
    fatal = [failure for failure in failures if failure.fatal]
    if fatal:
        raise HostError(fatal[0].reason)
    write_atomically(Path(overlay.settings.subnet_file), subnet_env(overlay.node, overlay.settings.ip_masq))


async def repair(overlay: Overlay) -> bool:
    """Compare everything with the kernel and repair it while lease events go on; whether all is as desired now."""
    try:
        backend = overlay.backend
        findings = await overlay.reconciler.check()
        async with overlay.changing:
            _attach(backend, await overlay.reconciler.repair(findings))
    except HostError as error:
        log.error("comparison failed", error=str(error))
        return False
    return not overlay.reconciler.failures


def _attach(backend: Backend, failures: Iterable[Failure]) -> None:
    """Move packets, if the devices are there. Raises HostError."""
    if backend.data_path is not None and not any(one.operation.object.device for one in failures):
        backend.data_path.attach()
