"""The network's configuration in etcd: which version this node uses, merged with this host's own settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from overlayd.core.address import Network
from overlayd.core.flannel.config import DECIDED, ignored_keys, parse_config
from overlayd.core.leases.allocation import fits
from overlayd.core.settings.model import Settings
from overlayd.core.settings.validation import cross_check
from overlayd.log import log
from overlayd.registry.base import RegistryError


def merge(settings: Settings, text: str, key: str) -> Settings:
    """This host's settings with those that `text`, the value of `key` in etcd, decides for the whole network.

    The network and its subnets are etcd's: a host that sets others is refused. Mode, MTU, ports and VNI are etcd's
    unless this host sets its own. Raises RegistryError with every mistake.
    """
    decided = parse_config(text, type(settings))
    if not isinstance(decided, Settings):
        raise RegistryError("\n".join(f"{key}: {problem}" for problem in decided))
    wrong = [
        f"{name}: {getattr(settings, name)} is set on this host, but"
        f" {key} in etcd {'does not set it' if getattr(decided, name) is None else f'has {getattr(decided, name)}'};"
        " leave it out here"
        for name in DECIDED
        if getattr(settings, name) not in (None, getattr(decided, name))
    ]
    if wrong:
        raise RegistryError("\n".join(wrong))
    update: dict[str, Any] = {name: getattr(decided, name) for name in DECIDED}
    for name in ("mode", "mtu"):
        own = getattr(settings, name) if name in settings.given else None
        update[name] = getattr(decided, name) if own is None else own
    for mode in settings.modes.values():
        own, network = settings.section_of(mode), decided.section_of(mode)
        if own is not None and network is not None:
            update[mode.key] = network.changed(**own.given)
    merged = settings.changed(**update)
    problems = cross_check(merged)
    if problems:
        raise RegistryError("\n".join(str(problem) for problem in problems))
    return merged


class NetworkConfig:
    """PREFIX/config as this node uses it: it changes to a new one if that is possible while containers run."""

    def __init__(self, key: str, model: type[Settings]) -> None:
        self._key, self._model = key, model
        self._used: str | None = None
        """The text in use."""
        self._seen: str | None = None
        """The text that `follow` saw last."""
        self.invalid: dict[str, str] = {}
        """Why the one in etcd is not used, by its key."""

    def fault(self, text: str | None) -> str | None:
        """Why no node can start with this one, and the remedy."""
        if text is None:
            return f"{self._key} does not exist; write it: overlayctl etcd init --network ... --backend ..."
        found = parse_config(text, self._model)
        return None if isinstance(found, Settings) else "; ".join(f"{self._key}: {problem}" for problem in found)

    def begin(self, text: str | None) -> None:
        """Use this one: no containers run yet."""
        self._seen = text
        self.invalid = {}
        self._use(text)

    def change_to(self, text: str | None, subnets: Sequence[Network]) -> None:
        """Use this one if a host with these subnets can, else keep the old one."""
        if not self._refusals(text, subnets):
            self._use(text)

    def _use(self, text: str | None) -> None:
        if text is not None and text != self._used and isinstance(parse_config(text, self._model), Settings):
            for name in ignored_keys(text, self._model.modes):
                log.warning("unknown key in the network configuration ignored", key=self._key, name=name)
        self._used = text

    def is_usable_change(self, text: str | None, subnets: Sequence[Network] | None) -> bool:
        """Whether this is a new one to change to; reasons not to are logged once."""
        new = text not in (self._used, self._seen)
        self._seen = text
        if text == self._used:
            self.invalid = {}
        if not new:
            return False
        reasons = self._refusals(text, subnets)
        for reason in reasons:
            log.error("new network configuration refused, keeping the old one", key=self._key, reason=reason)
        self.invalid = {self._key: "refused, keeping the old one: " + "; ".join(reasons)} if reasons else {}
        return not reasons

    def merge(self, settings: Settings) -> Settings:
        """This host's settings with those of the network. Raises RegistryError."""
        if self._used is None:
            raise RegistryError(self.fault(None))
        return merge(settings, self._used, self._key)

    def _refusals(self, text: str | None, subnets: Sequence[Network] | None) -> list[str]:
        """Why not to change to a configuration while containers run: it has to be valid and to contain this host's
        subnets (None: it has none yet)."""
        found = parse_config(text, self._model) if text is not None else None
        if found is None:
            return ["it was deleted; write it again"]
        if not isinstance(found, Settings):
            return [str(problem) for problem in found]
        if subnets is not None and not fits(subnets, found.ranges()):
            return [f"this host's subnet {subnets[0]} is not part of it; it takes effect at the next start"]
        return []
