"""What is desired only for as long as it is there: see `KernelObject.transient`."""

from __future__ import annotations

from collections.abc import Collection

from overlayd.core.kernel.kinds import KernelState, Key


def without_lost(desired: KernelState, actual: KernelState) -> tuple[KernelState, set[Key]]:
    """What of `desired` can still be desired, given what is there; and which transient objects are lost."""
    lost = {
        key
        for key, thing in desired.items()
        if thing.transient and type(actual.get(key)) is not type(thing)  # a device of another driver took the name
    }
    return without(desired, lost), lost


def without(desired: KernelState, gone: Collection[Key]) -> KernelState:
    """The state without these objects and without what hangs on them."""
    if not gone:
        return desired
    return {key: thing for key, thing in desired.items() if not (key in gone or thing.parent in gone)}
