"""What has changed in the kernel, whoever changed it, and whether it is enough to look at that alone."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass, field

from overlayd.core.kernel.kinds import Address, FdbEntry, KernelState, Key, Link, Neighbour, Route


@dataclass(slots=True)
class Changes:
    """Everything since it was made, each object as it was left."""

    objects: dict[Key, Route | Neighbour | FdbEntry | None] = field(default_factory=dict)
    """What hangs on a device of ours, and our routes; None for what is gone."""
    foundations: list[tuple[Key, Link | Address | None]] = field(default_factory=list)
    """Our devices and their addresses, each state that they went through: what hung on them may be gone silently."""
    others: set[Key] = field(default_factory=set)
    """Where routes of others came in the place of something, or went."""
    underlay: bool = False
    """The underlay interface is not as it was."""
    rules: set[int] = field(default_factory=set)
    """The netlink ports of those who changed rules of ours, or what they depend on."""
    lost: bool = False
    """There was more than the kernel could keep for us."""

    def settle(self, desired: KernelState, done: Set[Key], is_own: Callable[[int], bool]) -> None:
        """Forget what overlayd itself, which has just worked on the objects `done`, led there: what is as desired, what
        foundations went through, and who changed rules if it `is_own`.

        A foundation that the kernel did not make quite as desired is left for another time, or there were no end of it.
        """
        self.disown(is_own)
        self.foundations = [
            (key, thing)
            for key, thing in dict(self.foundations).items()
            if desired.get(key) != thing and (thing is None or key not in done)
        ]
        self.objects = {key: thing for key, thing in self.objects.items() if desired.get(key) != thing}
        self.others &= desired.keys()

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return bool(self.objects or self.foundations or self.others or self.underlay or self.rules or self.lost)

    def disown(self, is_own: Callable[[int], bool]) -> None:
        """Forget that overlayd itself changed rules."""
        self.rules = {port for port in self.rules if not is_own(port)}

    def wants_comparison(self, desired: KernelState) -> bool:
        """Whether a full comparison must say what follows from it."""
        return (
            self.lost
            or bool(self.rules)
            or any(desired.get(key) != thing for key, thing in self.foundations)
            or any(key in desired for key in self.others)  # isdisjoint would go through all that is desired
        )

    def differing(self, desired: KernelState) -> tuple[KernelState, KernelState]:
        """What is there and what is desired, of the objects that are not as they are desired."""
        keys = [key for key, thing in self.objects.items() if desired.get(key) != thing]
        actual: KernelState = {key: thing for key in keys if (thing := self.objects[key]) is not None}
        return actual, {key: desired[key] for key in keys if key in desired}
