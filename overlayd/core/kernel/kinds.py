"""Objects of the kernel that overlayd makes: what is desired and what is there are both sets of these.

    Link <- Address, Neighbour, FdbEntry, Route        Ruleset <- SetElement

Each object has a `key`, its identity in the kernel (there can be only one with that key), and a `parent`, the key of
the object it hangs on: when a link or a table is made anew, the kernel forgets all that hung on it.
The text of an object is the `ip`, `bridge` or `nft` line that shows or makes it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Literal

from overlayd.core import address

Key = tuple[Any, ...]
KernelState = dict[Key, "KernelObject"]


@dataclass(frozen=True, slots=True)
class Vxlan:
    """What makes a VXLAN device the one it is. A kernel can change `learning` in place; the rest needs a new device."""

    vni: int
    port: int
    local: address.Address
    underlay: int
    """Interface index of the underlay."""
    learning: bool = False
    gbp: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    """A device. `vxlan` is None for a TUN (persistent, so that it outlives the daemon)."""

    name: str
    mtu: int
    up: bool = True
    mac: str | None = None
    txqueuelen: int | None = None
    vxlan: Vxlan | None = None

    @property
    def key(self) -> Key:
        return ("link", self.name)

    @property
    def parent(self) -> Key | None:
        return None

    @property
    def kind(self) -> Literal["tun", "vxlan"]:
        """The kernel's name of the driver."""
        return "tun" if self.vxlan is None else "vxlan"

    def __str__(self) -> str:
        words = f"link {self.name} mtu {self.mtu} {'up' if self.up else 'down'}"
        if self.mac is not None:
            words += f" address {self.mac}"
        if self.txqueuelen is not None:
            words += f" txqueuelen {self.txqueuelen}"
        if self.vxlan is None:
            return f"{words} type tun"
        v = self.vxlan
        return (
            f"{words} type vxlan id {v.vni} dstport {v.port} local {v.local} dev #{v.underlay}"
            f" {'' if v.learning else 'no'}learning{' gbp' if v.gbp else ''}"
        )


@dataclass(frozen=True, slots=True)
class Address:
    """An address on one of our links."""

    link: str
    address: address.Interface

    @property
    def key(self) -> Key:
        return ("address", self.link, self.address)

    @property
    def parent(self) -> Key | None:
        return ("link", self.link)

    def __str__(self) -> str:
        return f"address {self.address} dev {self.link}"


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A permanent neighbour entry: IP to MAC."""

    link: str
    ip: address.Address
    mac: str

    @property
    def key(self) -> Key:
        return ("neighbour", self.link, self.ip)

    @property
    def parent(self) -> Key | None:
        return ("link", self.link)

    def __str__(self) -> str:
        return f"neigh {self.ip} dev {self.link} lladdr {self.mac} nud permanent"


@dataclass(frozen=True, slots=True)
class FdbEntry:
    """A permanent forwarding entry of a VXLAN device: MAC to VTEP."""

    link: str
    mac: str
    vtep: address.Address

    @property
    def key(self) -> Key:
        return ("fdb", self.link, self.mac)

    @property
    def parent(self) -> Key | None:
        return ("link", self.link)

    def __str__(self) -> str:
        return f"fdb {self.mac} dev {self.link} dst {self.vtep} self permanent"


@dataclass(frozen=True, slots=True)
class Route:
    """A route of the main table, marked as ours by its protocol. Without `link` it is an unreachable route."""

    destination: address.Network
    link: str | None = None
    gateway: address.Address | None = None
    onlink: bool = False
    own_link: bool = False
    """Whether `link` is a device of ours (else it is the underlay's)."""
    mtu: int | None = None
    """Bytes, where the path takes less than the device: what the kernel forwards has to fit, or its sender is told."""

    @property
    def key(self) -> Key:
        return ("route", self.destination)

    @property
    def parent(self) -> Key | None:
        return ("link", self.link) if self.own_link else None

    def __str__(self) -> str:
        if self.link is None:
            return f"route unreachable {self.destination}"
        words = f"route {self.destination}"
        if self.gateway is not None:
            foreign = "inet6 " if self.gateway.version != self.destination.version else ""
            words += f" via {foreign}{self.gateway}"
        mtu = f" mtu {self.mtu}" if self.mtu is not None else ""
        return f"{words} dev {self.link}{mtu}{' onlink' if self.onlink else ''}"


@dataclass(frozen=True, slots=True)
class Ruleset:
    """A table of nftables rules that is ours alone, or our rules in somebody else's chain.

    Rules are compared by their comments, each of which ends in a digest of the rule: the kernel gives rules back in
    another form than they were written in, but comments verbatim.
    """

    family: str
    table: str
    chain: str | None
    """None: the whole table is ours. A name: a foreign chain, at whose head our rules stand."""
    comments: tuple[str, ...]
    """The comment of every rule (`chain: comment` in a table of ours), in order."""
    definition: str = ""
    """nft's JSON commands that make it; not part of the comparison."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ruleset) and (self.key, self.comments) == (other.key, other.comments)

    def __hash__(self) -> int:
        return hash((self.key, self.comments))

    @property
    def key(self) -> Key:
        return ("ruleset", self.family, self.table, self.chain)

    @property
    def parent(self) -> Key | None:
        return None

    def __str__(self) -> str:
        where = f"table {self.family} {self.table}" + (f" chain {self.chain}" if self.chain else "")
        return f"nft {where}, {len(self.comments)} rules"


@dataclass(frozen=True, slots=True)
class SetElement:
    """An address in a set of our nftables table."""

    table: str
    set: str
    address: address.Address

    @property
    def key(self) -> Key:
        return ("element", self.table, self.set, self.address)

    @property
    def parent(self) -> Key | None:
        return ("ruleset", "inet", self.table, None)

    def __str__(self) -> str:
        return f"nft element inet {self.table} {self.set} {{ {self.address} }}"


KernelObject = Link | Address | Neighbour | FdbEntry | Route | Ruleset | SetElement


def state_of(objects: Iterable[KernelObject]) -> KernelState:
    """The objects by key. Raises ValueError when two different ones claim one key."""
    state: KernelState = {}
    for thing in objects:
        other = state.setdefault(thing.key, thing)
        if other != thing:
            raise ValueError(f"two claims on one kernel object: {other} and {thing}")
    return state


def differences(actual: KernelObject, wanted: KernelObject) -> list[str]:
    """Field by field how two objects of one key differ: `mtu is 1400, want 1450`."""
    found = []
    for field in fields(wanted):
        one, other = getattr(actual, field.name), getattr(wanted, field.name)
        if isinstance(one, Vxlan) and isinstance(other, Vxlan):
            found += [
                f"{sub.name} is {getattr(one, sub.name)}, want {getattr(other, sub.name)}"
                for sub in fields(other)
                if getattr(one, sub.name) != getattr(other, sub.name)
            ]
        elif field.name != "definition" and one != other:
            found.append(f"{field.name} is {one}, want {other}")
    return found
