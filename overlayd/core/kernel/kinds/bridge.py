"""What joins containers to this host: bridges, the host's ends of veth pairs, and which of them are a bridge's ports.

container [eth0 ======== ovl5e0c...] -- port of -- ovlbr0 10.1.1.1/24
           peer          VethLink      BridgePort  BridgeLink
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from overlayd.core.kernel.kinds.base import Interfaces, Key, RtnetlinkObject, Verb
from overlayd.core.kernel.kinds.link import Link
from overlayd.wire.netlink import link as wire
from overlayd.wire.netlink.message import attribute, family_header, octets
from overlayd.wire.netlink.uapi import AF_UNSPEC, IFINFOMSG, IFLA_ADDRESS, RTM_GETLINK


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeLink(Link):
    """An Ethernet bridge. Its MAC is set: it would change with its ports, and containers know it as the gateway's."""

    driver = "bridge"

    mac: str

    @property
    def essential(self) -> bool:
        """Without it containers of this host are cut off; the overlay is not."""
        return False

    @classmethod
    def of(cls, entry: wire.LinkEntry) -> Link:
        return BridgeLink(entry.name, entry.mtu, entry.up, entry.ours, mac=entry.mac or "")

    def creation(self) -> bytes:
        return b""

    def attributes(self, old: Link | None = None) -> bytes:
        found = Link.attributes(self, old)
        if not isinstance(old, BridgeLink) or self.mac != old.mac:
            found += attribute(IFLA_ADDRESS, octets(self.mac))
        return found

    def __str__(self) -> str:
        return f"{Link.__str__(self)} address {self.mac} type bridge"


@dataclass(frozen=True, slots=True)
class VethPeer:
    """The container's end of a veth pair, where it is made."""

    name: str
    netns: int
    """Open file descriptor of the container's network namespace."""
    mtu: int
    mac: str
    rps: str = ""
    """The mask of the CPUs that the host's end steers received packets to; empty: none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VethLink(Link):
    """The host's end of a veth pair. It goes with its container, and nobody but who has that container's namespace open
    can make it again."""

    driver = "veth"
    transient = True

    peer: VethPeer | None = field(default=None, compare=False)
    """What to make it with; the kernel does not tell what it was made with."""

    @property
    def essential(self) -> bool:
        return False

    @property
    def rps(self) -> str:
        return self.peer.rps if self.peer is not None else ""

    @classmethod
    def of(cls, entry: wire.LinkEntry) -> Link:
        return VethLink(entry.name, entry.mtu, entry.up, entry.ours)

    def creation(self) -> bytes | None:
        assert self.peer is not None, f"{self} is desired only where it is there"
        return wire.veth_peer(self.peer.name, self.peer.netns, self.peer.mtu, octets(self.peer.mac))

    def __str__(self) -> str:
        return f"{Link.__str__(self)} type veth"


@dataclass(frozen=True, slots=True)
class BridgePort(RtnetlinkObject):
    """One of our devices as a port of a bridge."""

    rank = 15
    dump = (RTM_GETLINK, (family_header(AF_UNSPEC, IFINFOMSG),))

    link: str
    bridge: str
    hairpin: bool = False
    """Whether a frame may leave by the port by which it came: a container that goes to a port that it published."""

    @property
    def key(self) -> Key:
        return ("port", self.link)

    @property
    def parent(self) -> Key:
        return ("link", self.link)

    @property
    def needed(self) -> tuple[Key | None, ...]:
        return (self.parent, ("link", self.bridge))

    def encode(self, verb: Verb, indexes: Mapping[str, int], sequence: int) -> bytes:
        if verb == "delete":
            return wire.set_port(indexes[self.link], 0, sequence)
        return wire.set_port(indexes[self.link], indexes[self.bridge], sequence, hairpin=self.hairpin)

    @classmethod
    def decode(cls, data: bytes, begin: int, end: int, interfaces: Interfaces) -> BridgePort | None:
        entry = wire.read_link(data, begin, end)
        return cls.of(entry, interfaces) if entry is not None else None

    @classmethod
    def of(cls, entry: wire.LinkEntry, interfaces: Interfaces) -> BridgePort | None:
        """What a dump or a notification of the device says; None where it is nobody's port, or not overlayd's."""
        if entry.link not in interfaces.ours or not entry.master:
            return None
        return BridgePort(entry.name, interfaces.names.get(entry.master, f"#{entry.master}"), entry.hairpin)

    def __str__(self) -> str:
        return f"port {self.link} master {self.bridge}{' hairpin on' if self.hairpin else ''}"
