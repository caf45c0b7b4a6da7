"""The network's configuration in etcd: which one this node uses, and that with this host's own file as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import structlog

from overlayd.core.address import Network
from overlayd.core.flannel.config import DECIDED, parse_config
from overlayd.core.leases.allocation import fits
from overlayd.core.settings.model import Settings
from overlayd.core.settings.validation import cross_check
from overlayd.registry.base import RegistryError

log = structlog.get_logger()


def merge(settings: Settings, text: str, key: str) -> Settings:
    """This host's settings with what `text`, the value of `key` in etcd, decides for the whole network.

    The network and its subnets are etcd's: a host that says otherwise is refused. Mode, MTU, ports and VNI are etcd's
    unless this host sets its own. Raises RegistryError with every mistake.
    """
    decided = parse_config(text, type(settings))
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
    for mode in settings.modes.values():
        own, network = settings.section_of(mode), decided.section_of(mode)
        if own is not None and network is not None:
            given = {name: getattr(own, name) for name in own.model_fields_set}
            update[mode.key] = own.model_copy(update={**dict(network), **given})
    merged = settings.model_copy(update=update)
    problems = cross_check(merged)
    if problems:
        raise RegistryError("\n".join(str(problem) for problem in problems))
    return merged


class NetworkConfig:
    """PREFIX/config as this node uses it: it goes over to another one where that can be done while containers run."""

    def __init__(self, key: str, model: type[Settings]) -> None:
        self._key, self._model = key, model
        self._used: str | None = None
        """As it was used last."""
        self._seen: str | None = None
        """As it was looked at last."""
        self.bad: dict[str, str] = {}
        """What speaks against the one that is there, by its key, while another is used."""

    @property
    def missing(self) -> str:
        """What is to be done where there is none."""
        return f"{self._key} is not there; write it: overlayctl etcd init --network ... --backend ..."

    def begin(self, text: str | None) -> None:
        """Use this one: nothing runs yet."""
        self._used = self._seen = text
        self.bad = {}

    def go_over(self, text: str | None, subnets: Sequence[Network]) -> None:
        """Use this one if a host that has these subnets can, else stay with the old one."""
        if not self._refusals(text, subnets):
            self._used = text

    def look(self, text: str | None, subnets: Sequence[Network] | None) -> bool:
        """Whether this is one to go over to that has not been looked at before; what speaks against it is logged."""
        new = text not in (self._used, self._seen)
        self._seen = text
        if text == self._used:
            self.bad = {}
        if not new:
            return False
        reasons = self._refusals(text, subnets)
        for reason in reasons:
            log.error(
                "the network's new configuration is not followed, the old one stays", key=self._key, reason=reason
            )
        self.bad = {self._key: "not followed, the old one stays: " + "; ".join(reasons)} if reasons else {}
        return not reasons

    def merge(self, settings: Settings) -> Settings:
        """This host's settings with those of the network. Raises RegistryError."""
        if self._used is None:
            raise RegistryError(self.missing)
        return merge(settings, self._used, self._key)

    def _refusals(self, text: str | None, subnets: Sequence[Network] | None) -> list[str]:
        """What speaks against going over to a configuration while containers run: it has to be valid, and this host's
        subnets (None: it has none yet) part of it."""
        found = parse_config(text, self._model) if text is not None else None
        if found is None:
            return ["it was deleted; write it again"]
        if not isinstance(found, Settings):
            return [str(problem) for problem in found]
        if subnets is not None and not fits(subnets, found.ranges()):
            return [f"this host's subnet {subnets[0]} is no part of it; takes effect at the next start"]
        return []
