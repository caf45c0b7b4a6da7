"""What `diff`, the writers and the reconciler know of every kind of kernel object."""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import fields
from enum import Enum
from typing import Any, ClassVar, Literal, NamedTuple, Self

_LISTED = 2  # items of a list that the text of a difference names

Key = tuple[Any, ...]
KernelState = dict[Key, "KernelObject"]
Verb = Literal["add", "change", "delete"]


class Channel(Enum):
    """How objects are written to the kernel; each channel has a writer in `system.kernel`."""

    LINK = "devices, one at a time"
    RTNETLINK = "rtnetlink messages, many to a send"
    NFTABLES = "one nftables transaction"


class KernelObject(ABC):
    """An object of the kernel, as frozen data. Its text is the `ip`, `bridge` or `nft` line that shows or makes it."""

    __slots__ = ()

    channel: ClassVar[Channel]
    rank: ClassVar[int]
    """What is created comes in ascending order of rank, what is deleted in descending order."""
    deleted_early: ClassVar[bool] = False
    """Whether one that goes is deleted before objects of higher rank are created, rather than at the end."""
    deleted_itself: ClassVar[bool] = False
    """Whether its own deletion is an operation even where its parent goes: something else follows from it."""
    transient: ClassVar[bool] = False
    """Whether it goes with something that overlayd does not make, such as a container: it is not desired any more then,
    and neither is what hangs on it."""
    lost_when: ClassVar[frozenset[str]] = frozenset()
    """Fields of the parent whose change in place makes the kernel forget this object."""

    @property
    @abstractmethod
    def key(self) -> Key:
        """Its identity in the kernel, which has at most one object with this key. Begins with the kind."""

    @property
    def parent(self) -> Key | None:
        """The key of the object that takes it along when it goes."""
        return None

    @property
    def needed(self) -> tuple[Key | None, ...]:
        """The keys of objects without which it cannot be made."""
        return (self.parent,)

    @property
    def claim(self) -> Key | None:
        """What, beside the key, the kernel lets only one object have."""
        return None

    @property
    def device(self) -> str | None:
        """The device's name, of a device; else None."""
        return None

    @property
    def essential(self) -> bool:
        """Whether nothing can work without it."""
        return False

    def needs_rebuild(self, actual: Self) -> bool:
        """Whether the kernel cannot change `actual`, of the same key, into this: it is deleted before anything else is
        done, its children with it, and made anew."""
        return False

    def is_blocked_by(self, actual: Self) -> bool:
        """Whether the kernel takes this only after `actual`, of the same key, is deleted."""
        return False

    def is_lost(self, old: KernelObject, new: KernelObject) -> bool:
        """Whether the kernel forgets this object when its parent is changed in place."""
        return any(getattr(old, field, None) != getattr(new, field, None) for field in self.lost_when)


class Interfaces(NamedTuple):
    """The host's interfaces: names by index."""

    names: Mapping[int, str]
    """All of them."""
    ours: Mapping[int, str]
    """Those whose objects are read: the ones that overlayd made."""
    foreign: bool = False
    """Whether routes of others are read instead of overlayd's."""


class RtnetlinkObject(KernelObject):
    """A kind of which there can be thousands: written and dumped as netlink messages that it encodes and decodes."""

    __slots__ = ()

    channel = Channel.RTNETLINK
    dump: ClassVar[tuple[int, tuple[bytes, ...]]]
    """How to ask for all of them: the type of message, and a fixed header for each address family."""

    @abstractmethod
    def encode(self, verb: Verb, indexes: Mapping[str, int], sequence: int) -> bytes:
        """The message that does this. Raises KeyError where `indexes` does not have its device."""

    @classmethod
    @abstractmethod
    def decode(cls, data: bytes, begin: int, end: int, interfaces: Interfaces) -> Self | None:
        """The object in a message of the dump; None where it is not overlayd's."""

    def explain(self, number: int, text: str) -> str:
        """Why the kernel refused it, from the errno and its text, and what to do."""
        return f"{text}: overlayd needs CAP_NET_ADMIN" if number == errno.EPERM else text


def state_of(objects: Iterable[KernelObject]) -> KernelState:
    """The objects by key. Raises ValueError when two different ones claim one key."""
    state: KernelState = {}
    for thing in objects:
        other = state.setdefault(thing.key, thing)
        if other is not thing and other != thing:
            raise ValueError(f"two claims on one kernel object: {other} and {thing}")
    return state


def differences(actual: KernelObject, desired: KernelObject) -> list[str]:
    """Field by field how two objects of one key differ: `mtu is 1400, want 1450`."""
    if type(actual) is not type(desired):
        return [f"it is {actual}, want {desired}"]
    return [
        _difference(field.name, one, other)
        for field in fields(desired)  # type: ignore[arg-type]  # every kind is a dataclass
        if field.compare and (one := getattr(actual, field.name)) != (other := getattr(desired, field.name))
    ]


def _difference(name: str, actual: object, desired: object) -> str:
    """Of lists, which may be long, no more than the first items that differ."""
    if not (isinstance(actual, tuple) and isinstance(desired, tuple)):
        return f"{name} is {actual}, want {desired}"
    sides = {
        "missing": [str(one) for one in desired if one not in actual],
        "unexpected": [str(one) for one in actual if one not in desired],
    }
    texts = [
        f"{len(items)} {what} ({', '.join(items[:_LISTED])}{', ...' if len(items) > _LISTED else ''})"
        for what, items in sides.items()
        if items
    ]
    return f"{name}: {', '.join(texts) or 'in another order'}"
