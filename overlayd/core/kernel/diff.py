"""From what is there to what is desired: an ordered list of operations.

A device that is desired under another name is renamed, with all that hangs on it. The order keeps traffic flowing:

    1. what cannot be changed in place, or blocks the name or number of something new, is deleted
    2. everything that is new or different, by ascending rank, so that a route appears only when the neighbour and the
       FDB entry behind it stand; after each rank those deletions that make way for the next ones
    3. everything else that must go, by descending rank
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from overlayd.core.kernel.kinds import KernelObject, KernelState, Key, Verb

_SIGNS: dict[Verb, str] = {"add": "+", "change": "~", "delete": "-"}


@dataclass(frozen=True, slots=True)
class Operation:
    """One step. `add`: it is not there. `change`: it is there and differs. `delete`: it must go.

    `old` is what stands there before a change, or stood there before a device is made anew.
    """

    verb: Verb
    object: KernelObject
    old: KernelObject | None = field(default=None, compare=False)

    @property
    def renames(self) -> bool:
        """Whether it gives a device another name. Before Linux 6.2 the device is down for a moment, and what the kernel
        forgets then (routes, neighbours) is only found by another comparison."""
        return self.verb == "change" and self.old is not None and self.old.device != self.object.device

    def __str__(self) -> str:
        was = f" (was {self.old.device})" if self.renames and self.old is not None else ""
        return f"{_SIGNS[self.verb]} {self.object}{was}"


def diff(actual: KernelState, desired: KernelState) -> list[Operation]:
    """The operations that turn `actual` into `desired`, in the order in which they are to be done.

    Both hold only objects that are overlayd's. An object of `actual` whose parent goes is not deleted on its own, as
    the kernel takes it along, unless it says otherwise. Works on whole states and, for a lease event, on the few
    objects of one lease.
    """
    actual = _renamed(actual, desired)
    new, changed = _differing(actual, desired)
    is_whole = len(desired) - len(new) == len(actual)  # hashing the keys of thousands of objects is most of the work
    gone = {} if is_whole else {key: thing for key, thing in actual.items() if key not in desired}
    rebuilt = {key for key, thing in changed.items() if thing.needs_rebuild(actual[key])} | _in_the_way(gone, new)
    lost = _lost(actual, changed, rebuilt)
    first = [Operation("delete", actual[key]) for key in rebuilt]
    steps = [Operation("add", thing) for thing in new]
    steps += [Operation("add", desired[key]) for key in lost if key in desired and key not in rebuilt]
    for key, thing in changed.items():
        old = actual[key]
        if key in rebuilt:
            steps.append(Operation("add", thing, old))
        elif thing.is_blocked_by(old) and key not in lost:
            steps += [Operation("delete", old), Operation("add", thing)]
        elif key not in lost:  # under another parent, perhaps: a route moves to another device in place
            steps.append(Operation("change", thing, old))
    left = [thing for key, thing in gone.items() if not (key in rebuilt or key in lost or _goes_along(thing, gone))]
    early = [thing for thing in left if thing.deleted_early and thing.parent in desired]
    last = [thing for thing in left if not (thing.deleted_early and thing.parent in desired)]
    steps += [Operation("delete", thing) for thing in early]
    steps.sort(key=lambda step: step.object.rank)
    last.sort(key=lambda thing: -thing.rank)
    return [*first, *steps, *(Operation("delete", thing) for thing in last)]


def _renamed(actual: KernelState, desired: KernelState) -> KernelState:
    """`actual` as it is once devices have the names under which they are desired. Such a device is found under its new
    key, and still has its old name."""
    gone = [thing for key, thing in actual.items() if key[0] == "link" and key not in desired]
    if not gone:
        return actual
    new = {thing.claim: thing for key, thing in desired.items() if key[0] == "link" and key not in actual}
    names = {
        thing.device: want.device
        for thing in gone
        if thing.claim is not None and (want := new.get(thing.claim)) is not None and not want.needs_rebuild(thing)
    }
    return rename(actual, names) if names else actual


def rename(state: KernelState, names: Mapping[Any, str | None]) -> KernelState:
    """The state after devices got other names: what hangs on them, or leads through them, is as under the new name."""
    found: KernelState = {}
    for key, thing in state.items():
        if thing.device in names:
            found[("link", names[thing.device])] = thing
        elif (link := getattr(thing, "link", None)) in names:
            changed: Any = thing
            moved: KernelObject = replace(changed, link=names[link])
            found[moved.key] = moved
        else:
            found[key] = thing
    return found


def _differing(actual: KernelState, desired: KernelState) -> tuple[list[KernelObject], KernelState]:
    """The desired objects that are not there, and those that are, but differ."""
    new: list[KernelObject] = []
    changed: KernelState = {}
    for key, thing in desired.items():
        old = actual.get(key)
        if old is None:
            new.append(thing)
        elif old != thing:
            changed[key] = thing
    return new, changed


def _in_the_way(gone: KernelState, new: list[KernelObject]) -> set[Key]:
    """What has to go before something new can be made, because both claim the same: a device that somebody renamed."""
    claims = {thing.claim for thing in new} - {None}
    return {key for key, thing in gone.items() if claims and thing.claim in claims}


def _lost(actual: KernelState, changed: KernelState, rebuilt: set[Key]) -> set[Key]:
    """What the kernel forgets when the objects under it are made anew or changed."""
    if not (changed or rebuilt):
        return set()
    return {
        key
        for key, thing in actual.items()
        if (parent := thing.parent) in rebuilt or (parent in changed and thing.is_lost(actual[parent], changed[parent]))
    }


def _goes_along(thing: KernelObject, gone: KernelState) -> bool:
    return thing.parent in gone and not thing.deleted_itself


def apply_to(state: KernelState, operations: list[Operation]) -> KernelState:
    """What `state` becomes by the operations, as the kernel would do it: the model that tests hold `diff` against.

    Raises ValueError where the kernel would refuse: adding what is there, changing or deleting what is not.
    """
    result = dict(state)
    for step in operations:
        thing = step.object
        if step.renames and step.old is not None:
            result = rename(result, {step.old.device: thing.device})
        if step.verb != "add" and thing.key not in result:
            raise ValueError(f"{step}: not there")
        if step.verb == "add" and thing.key in result:
            raise ValueError(f"{step}: already there")
        if step.verb == "delete":
            del result[thing.key]
            result = {key: child for key, child in result.items() if child.parent != thing.key}
        else:
            old = result.get(thing.key, thing)
            lost = [key for key, child in result.items() if child.parent == thing.key and child.is_lost(old, thing)]
            for key in lost:
                del result[key]
            result[thing.key] = thing
    return result
