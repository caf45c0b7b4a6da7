"""What overlayd takes over from flannel on a host, and what it gives back: the kernel keeps forwarding meanwhile.

    flannel.1      <->  ovl.1      the same device under another name, with its MAC, neighbours and FDB entries
    flannel-v6.1   <->  ovl6.1
    route ... via  <->  route ... via ... proto 178

Both are states for `diff`, which renames devices and replaces routes in place.
"""

from __future__ import annotations

import re
from dataclasses import replace

from overlayd.core.kernel.kinds import KernelState, Route, VxlanLink, state_of
from overlayd.core.kernel.kinds.base import KernelObject

_FLANNEL_DEVICE = re.compile(r"flannel(-v6)?\.\d+")


def adoptable(foreign: KernelState, desired: KernelState) -> KernelState:
    """What of others' objects flannel left, and overlayd takes over: a device that claims the same as a desired one,
    with all that hangs on it, and routes to a desired destination by the same next hop (those of host-gw)."""
    claims = {thing.claim for key, thing in desired.items() if key[0] == "link"} - {None}
    devices = {
        key
        for key, thing in foreign.items()
        if thing.device is not None and thing.claim in claims and _FLANNEL_DEVICE.fullmatch(thing.device)
    }
    return {
        key: thing
        for key, thing in foreign.items()
        if key in devices or thing.parent in devices or _has_next_hop_of(thing, desired.get(key))
    }


def _has_next_hop_of(thing: KernelObject, desired: KernelObject | None) -> bool:
    if not (isinstance(thing, Route) and isinstance(desired, Route)):
        return False
    return thing.gateway is not None and (thing.gateway, thing.link) == (desired.gateway, desired.link)


def given_back(state: KernelState) -> KernelState:
    """Of overlayd's objects, those that flannel has as well, as flannel has them; the others go."""
    names: dict[str | None, str] = {
        thing.name: _flannel_name(thing) for thing in state.values() if isinstance(thing, VxlanLink)
    }
    found: list[KernelObject] = []
    for thing in state.values():
        if isinstance(thing, VxlanLink):
            found.append(replace(thing, name=names[thing.name], ours=False))
        elif isinstance(thing, Route) and thing.gateway is not None:
            link = names.get(thing.link, thing.link)
            found.append(replace(thing, link=link, mtu=None, ours=False))
        elif (link := getattr(thing, "link", None)) in names and not isinstance(thing, Route):
            found.append(replace(thing, link=names[link]))  # type: ignore[type-var]  # every kind is a dataclass
    return state_of(found)


def _flannel_name(device: VxlanLink) -> str:
    return f"flannel{'' if device.local.version == 4 else '-v6'}.{device.vni}"
