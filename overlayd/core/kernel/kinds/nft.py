"""nftables: our tables and rules, and the elements of our sets."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

from overlayd.core.kernel.kinds.base import Channel, KernelObject, Key, Verb
from overlayd.core.kernel.nft_json import Json
from overlayd.wire.address import Address


class NftObject(KernelObject):
    """A kind that `nft` makes, by commands in its JSON form (libnftables-json(5))."""

    __slots__ = ()

    channel = Channel.NFTABLES
    is_element: ClassVar[bool] = False
    """Whether it is a SetElement, of which few can be changed without nft."""

    @property
    def edited_chain(self) -> Json | None:
        """The foreign chain that it changes, whose rules of ours have to be listed before they can be replaced."""
        return None

    @abstractmethod
    def commands(self, verb: Verb, handles: Iterable[int] = ()) -> list[Json]:
        """What nft is to do; `handles` are those of our rules in `edited_chain`."""


@dataclass(frozen=True, slots=True)
class Ruleset(NftObject):
    """A table of nftables rules that is ours alone, or our rules in somebody else's chain.

    Rules are compared by their comments, each of which ends in a digest of the rule: the kernel gives rules back in
    another form than they were written in, but comments verbatim.
    """

    rank = 30

    family: str
    table: str
    chain: str | None
    """None: the whole table is ours. A name: a foreign chain, at whose head our rules stand."""
    comments: tuple[str, ...]
    """The comment of every rule (`chain: comment` in a table of ours), in order."""
    definition: str = field(default="", compare=False)
    """nft's JSON commands that make it."""
    required: bool = field(default=True, compare=False)
    """Whether the overlay may not run without it."""

    @property
    def key(self) -> Key:
        return ("ruleset", self.family, self.table, self.chain)

    @property
    def essential(self) -> bool:
        return self.chain is None and self.required

    @property
    def edited_chain(self) -> Json | None:
        if self.chain is None:
            return None
        return {"family": self.family, "table": self.table, "chain": self.chain}

    def commands(self, verb: Verb, handles: Iterable[int] = ()) -> list[Json]:
        found: list[Json] = []
        if self.edited_chain is not None:
            found += [{"delete": {"rule": {**self.edited_chain, "handle": handle}}} for handle in handles]
        elif verb == "delete":
            found.append({"delete": {"table": {"family": self.family, "name": self.table}}})
        if verb != "delete":
            found += json.loads(self.definition)
        return found

    def __str__(self) -> str:
        where = f"table {self.family} {self.table}" + (f" chain {self.chain}" if self.chain else "")
        return f"nft {where}, {len(self.comments)} rules"


@dataclass(frozen=True, slots=True)
class SetElement(NftObject):
    """An address in a set of our nftables table."""

    rank = 40
    lost_when = frozenset({"comments"})  # a changed table is written as a whole
    is_element = True

    table: str
    set: str
    address: Address

    @property
    def key(self) -> Key:
        return ("element", self.table, self.set, self.address)

    @property
    def parent(self) -> Key:
        return ("ruleset", "inet", self.table, None)

    def commands(self, verb: Verb, handles: Iterable[int] = ()) -> list[Json]:
        element = {"family": "inet", "table": self.table, "name": self.set, "elem": [str(self.address)]}
        return [{"delete" if verb == "delete" else "add": {"element": element}}]

    def __str__(self) -> str:
        return f"nft element inet {self.table} {self.set} {{ {self.address} }}"
