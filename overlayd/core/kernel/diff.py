"""From what is there to what is desired: an ordered list of operations.

The order keeps traffic flowing. First everything that is new or different, foundations first, so that a route appears
only when the neighbour and the FDB entry behind it stand; then everything that must go, routes first. A device is made
anew only for a difference that the kernel cannot change in place, or because somebody renamed it. A table of rules is
replaced in one transaction, its set elements with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from overlayd.core.kernel.kinds import (
    Address,
    FdbEntry,
    KernelObject,
    KernelState,
    Link,
    Neighbour,
    Route,
    Ruleset,
    SetElement,
)

_FOUNDATIONS_FIRST = (Link, Address, Ruleset, SetElement, Neighbour, FdbEntry, Route)
_RANK = {kind: rank for rank, kind in enumerate(_FOUNDATIONS_FIRST)}


@dataclass(frozen=True, slots=True)
class Operation:
    """One step. `add`: it is not there. `change`: it is there and differs. `delete`: it must go.

    `old` is what stands there before a change, or stood there before a device is made anew.
    """

    verb: Literal["add", "change", "delete"]
    object: KernelObject
    old: KernelObject | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{ {'add': '+', 'change': '~', 'delete': '-'}[self.verb] } {self.object}"


def diff(actual: KernelState, desired: KernelState) -> list[Operation]:
    """The operations that turn `actual` into `desired`, in the order in which they are to be done.

    Both hold only objects that are overlayd's. An object of `actual` whose parent goes is not deleted on its own: the
    kernel takes it along. Works on whole states and, for a lease event, on the few objects of one lease.
    """
    rebuilt = {key for key, thing in desired.items() if key in actual and _needs_rebuild(actual[key], thing)}
    gone = {key: thing for key, thing in actual.items() if key not in desired}
    links = [thing for key, thing in desired.items() if isinstance(thing, Link) and key not in actual]
    for key, thing in gone.items():  # a device that somebody renamed is in the way of the one that has to be made
        if isinstance(thing, Link) and any(_clash(thing, one) for one in links):
            rebuilt.add(key)
    losing = {
        key: (actual[key], thing)
        for key, thing in desired.items()
        if isinstance(thing, Link | Ruleset) and key in actual and actual[key] != thing
    }
    lost = {
        key
        for key, thing in actual.items()
        if thing.parent in rebuilt or (thing.parent in losing and _loses(*losing[thing.parent], thing))
    }
    first: list[Operation] = [Operation("delete", actual[key]) for key in rebuilt]
    steps: list[Operation] = []
    for key, wanted in desired.items():
        there = None if key in rebuilt else actual.get(key)
        # What stands under another parent than the wanted one (a route on another device) is changed in place,
        # unless its present parent takes it away.
        if there is None or there.key in lost:
            steps.append(Operation("add", wanted, actual[key] if key in rebuilt else None))
        elif there != wanted and _in_the_way(there, wanted):
            steps += [Operation("delete", there), Operation("add", wanted)]
        elif there != wanted:
            steps.append(Operation("change", wanted, there))
    gone = {key: thing for key, thing in gone.items() if key not in rebuilt}
    last = [Operation("delete", thing) for key, thing in gone.items() if key not in lost and thing.parent not in gone]
    # An address that goes makes way before routes come: the kernel takes no gateway that is an address of its own; a
    # host that gives its subnet to a peer would have one. The address that replaces it is there by then, so that the
    # device is never without any, which would cost it all its routes.
    early = [step for step in last if isinstance(step.object, Address) and step.object.parent in desired]
    last = [step for step in last if step not in early]
    steps.sort(key=lambda step: _RANK[type(step.object)])
    last.sort(key=lambda step: -_RANK[type(step.object)])
    count = sum(_RANK[type(step.object)] <= _RANK[Address] for step in steps)
    return [*first, *steps[:count], *early, *steps[count:], *last]


def apply_to(state: KernelState, operations: list[Operation]) -> KernelState:
    """What `state` becomes by the operations, as the kernel would do it: the model that tests hold `diff` against.

    Raises ValueError where the kernel would refuse: adding what is there, changing or deleting what is not.
    """
    result = dict(state)
    for step in operations:
        thing = step.object
        if step.verb != "add" and thing.key not in result:
            raise ValueError(f"{step}: not there")
        if step.verb == "add" and thing.key in result:
            raise ValueError(f"{step}: already there")
        if step.verb == "delete":
            del result[thing.key]
            result = {key: child for key, child in result.items() if child.parent != thing.key}
        else:
            old = result.get(thing.key, thing)
            lost = [key for key, child in result.items() if child.parent == thing.key and _loses(old, thing, child)]
            for key in lost:
                del result[key]
            result[thing.key] = thing
    return result


def _needs_rebuild(actual: KernelObject, wanted: KernelObject) -> bool:
    if isinstance(actual, Link) and isinstance(wanted, Link):
        if actual.vxlan is None or wanted.vxlan is None:
            return actual.vxlan is not wanted.vxlan
        return replace(actual.vxlan, learning=wanted.vxlan.learning) != wanted.vxlan
    return False


def _clash(one: Link, other: Link) -> bool:
    """Whether the kernel takes but one of the two: there is one VXLAN device for a VNI, port and underlay family."""
    if one.vxlan is None or other.vxlan is None:
        return False
    v, w = one.vxlan, other.vxlan
    return (v.vni, v.port, v.local.version) == (w.vni, w.port, w.local.version)


def _in_the_way(actual: KernelObject, wanted: KernelObject) -> bool:
    """Whether the kernel refuses the change because of what it would replace: it takes no IPv6 gateway as on-link that
    another device has a route to (ip6_route_check_nh_onlink), and the peer's subnet holds its VTEP's address."""
    return (
        isinstance(actual, Route)
        and isinstance(wanted, Route)
        and wanted.onlink
        and wanted.destination.version == 6
        and actual.link not in (None, wanted.link)
    )


def _loses(old: KernelObject, new: KernelObject, child: KernelObject) -> bool:
    """Whether the kernel forgets `child` when the object that it hangs on is changed in place from `old` to `new`."""
    if isinstance(old, Link) and isinstance(new, Link):
        return old.mac != new.mac and isinstance(child, Neighbour)  # permanent ones too (neigh_changeaddr)
    return isinstance(new, Ruleset) and new.chain is None and old != new  # a table of rules is written as a whole
