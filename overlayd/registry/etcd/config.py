"""The network's configuration from etcd and this host's own file, as one."""

from __future__ import annotations

from typing import Any

import structlog

from overlayd.core.config import Settings
from overlayd.core.flannel import DECIDED, parse_config
from overlayd.core.validation import cross_check
from overlayd.registry.base import RegistryError

log = structlog.get_logger()


def merge(settings: Settings, text: str, key: str) -> Settings:
    """This host's settings with what `text`, the value of `key` in etcd, decides for the whole network.

    The network and its subnets are etcd's: a host that says otherwise is refused. Mode, MTU, ports and VNI are etcd's
    unless this host sets its own. Raises RegistryError with every mistake.
    """
    decided = parse_config(text)
    if not isinstance(decided, Settings):
        raise RegistryError("\n".join(f"{key}: {problem}" for problem in decided))
    wrong = [
        f"{name}: {getattr(settings, name)} is set on this host, and {key} in etcd says"
        f" {'nothing' if getattr(decided, name) is None else getattr(decided, name)}; leave it out here"
        for name in DECIDED
        if getattr(settings, name) not in (None, getattr(decided, name))
    ]
    if wrong:
        raise RegistryError("\n".join(wrong))
    update: dict[str, Any] = {name: getattr(decided, name) for name in DECIDED}
    for name in ("mode", "mtu"):
        own = getattr(settings, name) if name in settings.model_fields_set else None
        update[name] = getattr(decided, name) if own is None else own
    for section in ("udp", "vxlan"):
        own = getattr(settings, section)
        given = {name: getattr(own, name) for name in own.model_fields_set}
        update[section] = own.model_copy(update={**dict(getattr(decided, section)), **given})
    merged = settings.model_copy(update=update)
    # engine is this host's own business, whatever the network says
    merged = merged.model_copy(update={"udp": merged.udp.model_copy(update={"engine": settings.udp.engine})})
    problems = cross_check(merged)
    if problems:
        raise RegistryError("\n".join(str(problem) for problem in problems))
    return merged
