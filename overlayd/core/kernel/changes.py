"""What has changed in the kernel, whoever changed it, and whether it is enough to compare those objects alone."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass, field

from overlayd.core.kernel.kinds import KernelObject, KernelState, Key


@dataclass(slots=True)
class KernelChanges:
    """Everything since it was made, each object as it was left."""

    objects: dict[Key, KernelObject | None] = field(default_factory=dict)
    """Our routes, and what hangs on our devices, but for addresses; None for what is gone."""
    interfaces: list[tuple[Key, KernelObject | None]] = field(default_factory=list)
    """Our devices and their addresses, each state that they went through: what hung on them may be gone silently."""
    foreign_routes: set[Key] = field(default_factory=set)
    """Where a route that is not ours replaced another, or went."""
    underlay: bool = False
    """The underlay interface has changed."""
    rules: set[int] = field(default_factory=set)
    """The netlink ports of those who changed rules of ours, or what they depend on."""
    overrun: bool = False
    """Notifications were lost: there were more than the socket's buffer holds."""

    def __bool__(self) -> bool:
        """Whether anything has changed."""
        return bool(
            self.objects or self.interfaces or self.foreign_routes or self.underlay or self.rules or self.overrun
        )

    def discard_own(self, desired: KernelState, applied: Set[Key], is_own: Callable[[int], bool]) -> None:
        """Forget what overlayd itself, which has just worked on the objects `applied`, has caused: what is as desired,
        states that interfaces went through, and rules whose port `is_own`.

        An interface that the kernel made differently from what is desired is left to the next comparison: reported
        here, it would be repaired without end.
        """
        self.discard_own_rules(is_own)
        self.interfaces = [
            (key, thing)
            for key, thing in dict(self.interfaces).items()
            if desired.get(key) != thing and (thing is None or key not in applied)
        ]
        self.objects = {key: thing for key, thing in self.objects.items() if desired.get(key) != thing}
        self.foreign_routes &= desired.keys()

    def discard_own_rules(self, is_own: Callable[[int], bool]) -> None:
        """Forget that overlayd itself changed rules."""
        self.rules = {port for port in self.rules if not is_own(port)}

    def take_lost(self, desired: KernelState) -> set[Key]:
        """What is desired, transient, and gone; forget the states that it went through."""
        lost = {
            key
            for key, thing in dict(self.interfaces).items()
            if thing is None and (wanted := desired.get(key)) is not None and wanted.transient
        }
        self.interfaces = [(key, thing) for key, thing in self.interfaces if key not in lost]
        return lost

    def needs_comparison(self, desired: KernelState) -> bool:
        """Whether only a full comparison can tell what follows from it."""
        return (
            self.overrun
            or bool(self.rules)
            or any(desired.get(key) != thing for key, thing in self.interfaces)
            or any(key in desired for key in self.foreign_routes)  # isdisjoint would iterate over all that is desired
        )

    def differing(self, desired: KernelState) -> tuple[KernelState, KernelState]:
        """What is there and what is desired, of the objects that are not as they are desired."""
        keys = [key for key, thing in self.objects.items() if desired.get(key) != thing]
        actual: KernelState = {key: thing for key in keys if (thing := self.objects[key]) is not None}
        return actual, {key: desired[key] for key in keys if key in desired}
