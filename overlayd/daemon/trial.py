"""What the host may refuse of a start, tried before anything is claimed: nothing is written to etcd or to the host.

A start tries it when its lease has been chosen and before it is written; a reload, before the old data path makes way;
`--check` reports all of it. What is tried is let go again: the start itself takes it a moment later.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from overlayd.backend.base import Backend
from overlayd.backend.modes import make_backend
from overlayd.core.node import Node
from overlayd.core.settings.model import Settings
from overlayd.daemon import forwarding
from overlayd.system.errors import HostError, InUseError
from overlayd.system.files import check_writable
from overlayd.system.instance_lock import InstanceLock
from overlayd.system.netlink import Netlink
from overlayd.system.processes import has_port
from overlayd.system.service_manager import ServiceManager
from overlayd.system.tcp_socket import try_health_port
from overlayd.system.udp_socket import open_probe_socket


async def admit(
    settings: Settings, node: Node, netlink: Netlink, manager: ServiceManager, daemon: int | None = None
) -> None:
    """Raises HostError with the first reason why this host could not run the node. `daemon`: see `refusals`; what the
    manager keeps of a former run is no reason, either."""
    refused = await refusals(settings, make_backend(node, manager), netlink, daemon)
    if refused:
        raise refused[0]


async def refusals(
    settings: Settings, backend: Backend, netlink: Netlink, daemon: int | None = None
) -> list[HostError]:
    """Why this host could not run the backend's node, each reason with its remedy. `daemon`: the process that may hold
    what is needed, since it makes way or goes on with it."""
    if not await netlink.privileged():
        remedy = "overlayd needs CAP_NET_ADMIN (run it as root or from its unit)"
        return [HostError(f"netlink: {os.strerror(errno.EPERM)}; {remedy}")]
    found = [*forwarding.refusals(settings, backend.node), *_unwritable(settings)]
    return [*found, *_not_of(daemon, backend.refusals(await netlink.links()))]


def busy(settings: Settings, daemon: int | None) -> list[HostError]:
    """Of what a start takes before it looks at the network, what somebody else has: control socket and health port."""
    found = _refusal_of(InstanceLock(Path(settings.control_socket)).check)
    if settings.healthz_port:
        found += _refusal_of(partial(try_health_port, settings.healthz_ip, settings.healthz_port))
    return list(_not_of(daemon, found))


def unprobed(settings: Settings, node: Node, daemon: int | None) -> list[HostError]:
    """Why peers would not be probed; that ends no start."""
    found = []
    for underlay_family in node.underlay_families if settings.probe.port else ():
        address = str(node.underlay.local(underlay_family))
        found += _refusal_of(partial(_try_probe_port, address, settings.probe.port))
    return list(_not_of(daemon, found))


def _try_probe_port(address: str, port: int) -> None:
    open_probe_socket(address, port).close()


def _unwritable(settings: Settings) -> list[HostError]:
    """The files that a start could not write."""
    paths = [Path(settings.subnet_file)]
    if settings.registry != "static":
        paths.append(Path(settings.state_dir, "node-id"))
    return [refused for path in paths for refused in _refusal_of(partial(check_writable, path))]


def _refusal_of(attempt: Callable[[], object]) -> list[HostError]:
    try:
        attempt()
    except HostError as error:
        return [error]
    return []


def _not_of(daemon: int | None, found: Iterable[HostError]) -> Iterator[HostError]:
    """Without what is refused only because this process has it."""
    return (refused for refused in found if daemon is None or not _has(daemon, refused))


def _has(daemon: int, refused: HostError) -> bool:
    return isinstance(refused, InUseError) and (refused.port is None or has_port(daemon, refused.port))
