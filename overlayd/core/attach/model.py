"""An attachment: one interface of one container on this host.

    container   whatever runs it calls it: an id of 64 hexadecimal digits, the name of a namespace, pid-1234
    interface   its name in the container; a container may have several attachments
    host end    the other end of its veth, in this host's namespace: named after both, so that any run of the daemon
                knows it again

Its JSON is the same in the state file, on the attach socket and in `overlayctl attachment show`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from overlayd.core.address import Address, Family, Interface
from overlayd.core.attach import values
from overlayd.core.attach.errors import AttachError

Json = dict[str, Any]
AttachmentKey = tuple[str, str]
"""Container and interface."""

Mode = Literal["bridge", "routed"]
"""bridge   a port of the network's bridge: containers of one host are on one link
routed   a link of its own: what it sends, to its neighbours too, is routed by the host"""
MODES: tuple[Mode, ...] = get_args(Mode)

Protocol = Literal["tcp", "udp", "sctp"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)

DEFAULT_NETWORK = "overlay"
"""The network of containers that name none."""
PORTS_MAX = 1024
"""Published ports of one attachment."""


@dataclass(frozen=True, slots=True)
class PublishedPort:
    """A port of this host that leads to a container."""

    protocol: Protocol
    host_address: Address | None
    """The one address that it is published on; None: all of them."""
    host_port: int
    """0: the daemon chooses one."""
    container_port: int

    def json(self) -> Json:
        """As in an attachment's JSON."""
        return {
            "protocol": self.protocol,
            "host_address": str(self.host_address) if self.host_address is not None else None,
            "host_port": self.host_port,
            "container_port": self.container_port,
        }

    @classmethod
    def of(cls, given: object) -> PublishedPort:
        """The port in JSON. Raises AttachError."""
        found = values.mapping(given, "port", ("protocol", "host_address", "host_port", "container_port"))
        return PublishedPort(
            values.choice(found.get("protocol", "tcp"), "protocol", PROTOCOLS),  # type: ignore[arg-type]
            values.optional(found.get("host_address"), lambda one: values.address(one, "host_address")),
            values.number(found.get("host_port"), "host_port", 0, 65535),
            values.number(found.get("container_port"), "container_port", 1, 65535),
        )

    def __str__(self) -> str:
        where = ""
        if self.host_address is not None:
            where = f"{self.host_address}:" if self.host_address.version == 4 else f"[{self.host_address}]:"
        return f"{where}{self.host_port}->{self.container_port}/{self.protocol}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """One interface of one container."""

    container: str
    interface: str
    mode: Mode = "bridge"
    network: str = DEFAULT_NETWORK
    addresses: tuple[Interface, ...]
    """One of each of the lease's families, IPv4 first, each with the prefix length of its subnet."""
    mac: str
    mtu: int
    """Bytes; the overlay MTU when it was attached or refreshed."""
    netns: str
    """The path by which the container's network namespace was opened; for showing, and for `attachment refresh`."""
    netns_id: int
    """The namespace's inode: tells whether the path still leads to it."""
    ports: tuple[PublishedPort, ...] = ()
    sysctls: tuple[tuple[str, str], ...] = ()
    rps: str = ""
    """The CPUs that both its ends steer received packets to (0,1,2); empty: those that they come by."""
    ready: bool = False
    """Whether the container's end was set up as well; until then the daemon's next run would undo it."""

    @property
    def key(self) -> AttachmentKey:
        """Its identity."""
        return self.container, self.interface

    @property
    def device(self) -> str:
        """The host end's name, at most 15 characters."""
        return "ovl" + hashlib.sha256("\0".join(self.key).encode()).hexdigest()[:12]

    def address(self, family: Family) -> Address | None:
        """Its address of that family, if it has one."""
        return next((one.ip for one in self.addresses if one.version == family), None)

    def json(self) -> Json:
        """All of it."""
        return {
            "container": self.container,
            "interface": self.interface,
            "mode": self.mode,
            "network": self.network,
            "addresses": [str(one) for one in self.addresses],
            "mac": self.mac,
            "mtu": self.mtu,
            "netns": self.netns,
            "netns_id": self.netns_id,
            "ports": [one.json() for one in self.ports],
            "sysctls": dict(self.sysctls),
            "rps": self.rps,
            "ready": self.ready,
        }

    @classmethod
    def of(cls, given: object) -> Attachment:
        """The attachment in JSON. Raises AttachError."""
        found = values.mapping(given, "attachment", _FIELDS)
        return Attachment(
            container=values.name(found.get("container"), "container"),
            interface=values.interface(found.get("interface")),
            mode=values.choice(found.get("mode"), "mode", MODES),  # type: ignore[arg-type]
            network=values.name(found.get("network"), "network"),
            addresses=_addresses(found.get("addresses")),
            mac=values.mac(found.get("mac")),
            mtu=values.number(found.get("mtu"), "mtu", 68, 65535),
            netns=values.path(found.get("netns"), "netns"),
            netns_id=values.number(found.get("netns_id"), "netns_id", 0, 2**64 - 1),
            ports=tuple(map(PublishedPort.of, values.items(found.get("ports"), "ports", PORTS_MAX))),
            sysctls=values.sysctls(found.get("sysctls")),
            rps=values.cpus(found.get("rps", "")),
            ready=values.boolean(found.get("ready"), "ready"),
        )

    def __str__(self) -> str:
        return f"{self.container} {self.interface}"


_FIELDS = (
    *("container", "interface", "mode", "network", "addresses", "mac", "mtu", "netns", "netns_id"),
    *("ports", "sysctls", "rps", "ready"),
)


def _addresses(given: object) -> tuple[Interface, ...]:
    found = tuple(map(values.prefixed, values.items(given, "addresses", 2)))
    if [one.version for one in found] not in ([4], [6], [4, 6]):
        raise AttachError(f"addresses: {', '.join(map(str, found))} are not one of each family, IPv4 first")
    return found


def by_key(attachments: object) -> Mapping[AttachmentKey, Attachment]:
    """The attachments in a JSON list. Raises AttachError."""
    found: dict[AttachmentKey, Attachment] = {}
    for one in map(Attachment.of, values.items(attachments, "attachments", 1 << 16)):
        if one.key in found:
            raise AttachError(f"attachment {one}: is there twice")
        found[one.key] = one
    return found
