"""The modes that there are. A new one is a module beside this, and a line here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from overlayd.backend.base import Backend, Mode
from overlayd.backend.host_gw import HOST_GW
from overlayd.backend.udp import UDP
from overlayd.backend.vxlan import VXLAN
from overlayd.backend.wireguard import WIREGUARD
from overlayd.core.node import Node
from overlayd.core.settings.model import Settings, settings_model
from overlayd.system.service_manager import ServiceManager

MODES: tuple[Mode[Any], ...] = (UDP, VXLAN, HOST_GW, WIREGUARD)

SETTINGS = settings_model(MODES, default=VXLAN.name)
"""The configuration with all of them."""


def prepared(settings: Settings, *, read_only: bool = False) -> Settings:
    """The settings with what this host keeps for their mode; made where there is nothing yet, unless `read_only`.
    Raises HostError."""
    mode = settings.spec
    assert isinstance(mode, Mode)  # settings are validated against modes that have a backend
    section = mode.prepare(settings.section, Path(settings.state_dir), read_only=read_only)
    return settings if section is settings.section else settings.changed(**{mode.key: section})


def make_backend(node: Node, manager: ServiceManager | None = None) -> Backend:
    """The backend of the node's mode; the service manager keeps what it has open."""
    mode = node.spec
    assert isinstance(mode, Mode)  # settings are validated against modes that have a backend
    return mode.backend(node, node.section, manager or ServiceManager())
