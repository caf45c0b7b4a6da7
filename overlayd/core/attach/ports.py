"""Published ports: who has which, and which elements of the kernel's maps they come to.

    port     as it was asked for: tcp 8080 -> 80, on all addresses of the host or on one
    claim    what it takes of one address family: a container has one address of each

Two claims to one port are at odds if either is to every address of the host, or both are to the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from overlayd.core.address import Address, Family, Interface
from overlayd.core.attach.errors import AttachError
from overlayd.core.attach.model import Attachment, AttachmentKey, Protocol, PublishedPort
from overlayd.core.kernel.firewall import port_element
from overlayd.core.kernel.kinds import PortElement
from overlayd.wire.netlink.sock_diag import SocketEntry

_LOOPBACK_6 = IPv6Address("::1")
_BROADCAST = IPv4Address("255.255.255.255")

CHOSEN = range(49152, 65536)
"""What port 0 is replaced with: the dynamic ports of RFC 6335."""

_Place = tuple[Protocol, Family, int]

Listening = Callable[["Claim"], str | None]
"""Which program of the host takes what comes to these addresses and this port, in words, if any does."""


class Claim(NamedTuple):
    """What a published port takes of one address family."""

    protocol: Protocol
    family: Family
    address: Address | None
    """None: every address of the host."""
    port: int

    @property
    def place(self) -> _Place:
        """What claims have in common that can be at odds."""
        return self.protocol, self.family, self.port

    def __str__(self) -> str:
        where = "" if self.address is None else f"[{self.address}]:" if self.family == 6 else f"{self.address}:"
        return f"port {where}{self.port}/{self.protocol}"

    def meets(self, address: Address | None) -> bool:
        """Whether a claim to the same port of this address, or of every one, would be at odds with this one."""
        return self.address is None or address is None or self.address == address

    def meets_socket(self, socket: SocketEntry) -> bool:
        """Whether the port would be taken away from this socket of the same protocol."""
        own = socket.address
        if self.port != socket.port or own.is_multicast or own == _LOOPBACK_6:
            return False
        if own.is_unspecified:
            return own.version == self.family or (own.version == 6 and not socket.v6_only)
        return own.version == self.family and self.meets(own)


def claims(port: PublishedPort, addresses: Iterable[Interface]) -> list[Claim]:
    """What a port takes, for a container with these addresses. 0.0.0.0 and :: are every address of their family."""
    wanted = port.host_address
    address = None if wanted is None or wanted.is_unspecified else wanted
    families = [one.version for one in addresses if wanted is None or wanted.version == one.version]
    return [Claim(port.protocol, family, address, port.host_port) for family in families]


def elements(attachment: Attachment) -> Iterator[PortElement]:
    """The elements of the kernel's maps that publish an attachment's ports."""
    for port in attachment.ports:
        for claim in claims(port, attachment.addresses):
            target = attachment.address(claim.family)
            assert target is not None  # it is a claim for the sake of that address
            yield port_element(claim.protocol, claim.address, claim.port, target, port.container_port)


class PortTable:
    """Who holds which port."""

    def __init__(self) -> None:
        self._holders: dict[_Place, dict[Address | None, AttachmentKey]] = {}
        self._last = CHOSEN[-1]
        """The port that was chosen last."""

    def __bool__(self) -> bool:
        """Whether any port is published."""
        return bool(self._holders)

    def put(self, attachment: Attachment, former: Attachment | None = None) -> None:
        """Note the ports of an attachment, instead of those that it had. Raises AttachError where one is taken."""
        if self.assign(attachment.key, attachment.ports, attachment.addresses, _nobody) != attachment.ports:
            raise AttachError(f"container {attachment}: a published port is 0")
        if former is not None:
            self.remove(former)
        for claim in _claims_of(attachment):
            self._holders.setdefault(claim.place, {})[claim.address] = attachment.key

    def remove(self, attachment: Attachment) -> None:
        """Forget the ports of an attachment that was put."""
        for claim in _claims_of(attachment):
            holders = self._holders[claim.place]
            del holders[claim.address]
            if not holders:
                del self._holders[claim.place]

    def assign(
        self, key: AttachmentKey, ports: Sequence[PublishedPort], addresses: Sequence[Interface], listening: Listening
    ) -> tuple[PublishedPort, ...]:
        """The ports of an attachment with these addresses, all of them free, port 0 replaced with one that is.

        What the attachment itself holds is free to it. Raises AttachError.
        """
        mine: dict[_Place, list[Address | None]] = {}
        found: dict[int, PublishedPort] = {}
        # Those that are wanted come first: none of them is then chosen for another.
        for index, port in sorted(enumerate(ports), key=lambda item: item[1].host_port == 0):
            _check(port, addresses)
            given = port if port.host_port else self._choose(key, port, addresses, mine, listening)
            for claim in claims(given, addresses):
                if any(map(claim.meets, mine.get(claim.place, ()))):
                    raise AttachError(f"{claim} is published twice; leave out one of the two")
                if holder := self._holder(key, claim) or listening(claim):
                    raise AttachError(f"{claim} is taken by {holder}; publish another one", "taken")
            for claim in claims(given, addresses):
                mine.setdefault(claim.place, []).append(claim.address)
            found[index] = given
        return tuple(found[index] for index in sorted(found))

    def _choose(
        self,
        key: AttachmentKey,
        port: PublishedPort,
        addresses: Sequence[Interface],
        mine: Container[_Place],
        listening: Listening,
    ) -> PublishedPort:
        """With the next port after the last one that was chosen that is free in every family: one that was given back
        is chosen late, when its former clients have gone."""
        for step in range(1, len(CHOSEN) + 1):
            number = CHOSEN[(self._last - CHOSEN[0] + step) % len(CHOSEN)]
            given = replace(port, host_port=number)
            if not any(
                claim.place in mine or self._holder(key, claim) or listening(claim)
                for claim in claims(given, addresses)
            ):
                self._last = number
                return given
        raise AttachError(f"no {port.protocol} port from {CHOSEN[0]} to {CHOSEN[-1]} is free; name another", "taken")

    def _holder(self, key: AttachmentKey, claim: Claim) -> str | None:
        """Another attachment that has the port, in words."""
        holders = self._holders.get(claim.place, {})
        others = (holder for address, holder in holders.items() if holder != key and claim.meets(address))
        return next((f"container {container} {interface}" for container, interface in others), None)


def _claims_of(attachment: Attachment) -> list[Claim]:
    return [claim for port in attachment.ports for claim in claims(port, attachment.addresses)]


def _nobody(claim: Claim) -> str | None:
    return None


def _check(port: PublishedPort, addresses: Sequence[Interface]) -> None:
    """Refuse a host address that cannot be one. Raises AttachError."""
    wanted = port.host_address
    if wanted is None:
        return
    if wanted == _LOOPBACK_6:
        raise AttachError(f"port {port}: Linux sends nothing from ::1 to a container; publish on 127.0.0.1")
    if wanted.is_multicast or wanted == _BROADCAST:
        raise AttachError(f"port {port}: {wanted} is not an address of a host; leave it out, or name one of this host")
    if all(one.version != wanted.version for one in addresses):
        raise AttachError(f"port {port}: the container has no IPv{wanted.version} address; leave {wanted} out")
