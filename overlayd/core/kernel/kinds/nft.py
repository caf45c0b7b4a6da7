"""nftables: our tables and rules, and the elements of our sets and maps."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self

from overlayd.core.kernel.kinds.base import Channel, KernelObject, Key, Verb
from overlayd.core.kernel.nft_json import Json
from overlayd.wire.address import Address
from overlayd.wire.netlink.nft import concatenated

Command = Json | str
"""One of nft's JSON form (libnftables-json(5)), or a line of its own language, for what the JSON of nft 1.0.6 cannot
say: a map to addresses with ports."""


class NftObject(KernelObject):
    """A kind that `nft` makes, by commands."""

    __slots__ = ()

    channel = Channel.NFTABLES
    table: str
    is_element: ClassVar[bool] = False
    """Whether it is an NftElement, of which few can be changed without nft."""

    @property
    def edited_chain(self) -> Json | None:
        """The foreign chain that it changes, whose rules of ours have to be listed before they can be replaced."""
        return None

    @abstractmethod
    def commands(self, verb: Verb, handles: Iterable[int] = ()) -> Sequence[Command]:
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
    """A list of the commands that make it, in JSON."""
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

    def commands(self, verb: Verb, handles: Iterable[int] = ()) -> list[Command]:
        found: list[Command] = []
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


class NftElement(NftObject):
    """An element of a set or map of a table of ours: written by nft with its table, else by netlink."""

    __slots__ = ()

    rank = 40
    lost_when = frozenset({"comments"})  # a changed table is written as a whole
    is_element = True

    table: str
    set: str
    """The name of its set or map."""

    @property
    def parent(self) -> Key:
        return ("ruleset", "inet", self.table, None)

    @property
    @abstractmethod
    def encoded_key(self) -> bytes:
        """Its key as netlink has it."""

    @property
    def encoded_value(self) -> bytes | None:
        """What a map's element leads to, as netlink has it."""
        return None


@dataclass(frozen=True, slots=True)
class SetElement(NftElement):
    """An address in a set of our nftables table."""

    table: str
    set: str
    address: Address

    @property
    def key(self) -> Key:
        return ("element", self.table, self.set, self.address)

    @property
    def encoded_key(self) -> bytes:
        return self.address.packed

    def commands(self, verb: Verb, handles: Iterable[int] = ()) -> list[Json]:
        element = {"family": "inet", "table": self.table, "name": self.set, "elem": [str(self.address)]}
        return [{"delete" if verb == "delete" else "add": {"element": element}}]

    def __str__(self) -> str:
        return f"nft element inet {self.table} {self.set} {{ {self.address} }}"


PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
"""The IANA numbers of the protocols that have ports, by the names that nft has for them."""


@dataclass(frozen=True, slots=True)
class PortElement(NftElement):
    """A port of this host that leads to a container: an element of a map of our nftables table."""

    deleted_itself = True  # connections that it has led there are to be forgotten

    table: str
    set: str
    protocol: str
    """tcp, udp or sctp."""
    address: Address | None
    """The one address of the host that it holds for; None: every one, in a map whose keys have no address."""
    port: int
    target: Address
    target_port: int

    @property
    def key(self) -> Key:
        return ("published", self.table, self.set, self.protocol, self.address, self.port)

    def is_blocked_by(self, actual: Self) -> bool:
        return True  # an element's value cannot be changed

    @property
    def encoded_key(self) -> bytes:
        address = b"" if self.address is None else self.address.packed
        return concatenated(bytes([PROTOCOLS[self.protocol]]), address, _encoded(self.port))

    @property
    def encoded_value(self) -> bytes:
        return concatenated(self.target.packed, _encoded(self.target_port))

    def commands(self, verb: Verb, handles: Iterable[int] = ()) -> list[str]:
        value = "" if verb == "delete" else f" : {self.target} . {self.target_port}"
        action = "delete" if verb == "delete" else "add"
        return [f"{action} element inet {self.table} {self.set} {{ {self._written_key}{value} }}"]

    @property
    def _written_key(self) -> str:
        return " . ".join(map(str, filter(None, (self.protocol, self.address, self.port))))

    def __str__(self) -> str:
        place = f"nft element inet {self.table} {self.set}"
        return f"{place} {{ {self._written_key} : {self.target} . {self.target_port} }}"


def _encoded(port: int) -> bytes:
    return port.to_bytes(2)
