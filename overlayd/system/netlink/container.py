"""The container's end of an attachment, through an rtnetlink socket that root opened in the container's namespace.

The daemon may not enter the namespace: it has CAP_NET_ADMIN alone. But what it sends on that socket happens there, and
the socket tells which namespace it belongs to. Neither is kept: either would keep a namespace, and with it the devices
of a container that has ended.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from overlayd.core.address import Address, Interface, Network
from overlayd.core.attach.errors import AttachError
from overlayd.system.netlink.request_socket import RequestSocket
from overlayd.wire.netlink.link import delete_address, put_address, set_link
from overlayd.wire.netlink.message import u32
from overlayd.wire.netlink.route import put_route
from overlayd.wire.netlink.uapi import IFLA_MTU

_SIOCGSKNS = 0x894C  # linux/sockios.h: the network namespace of a socket; needs CAP_NET_ADMIN
_SIOCGIFINDEX = 0x8933
_IFREQ = struct.Struct("16si20x")
_ABSENT = (errno.ENODEV, errno.EADDRNOTAVAIL)

Encode = Callable[[int], bytes]
"""Makes the message with this sequence number."""


class ContainerNamespace:
    """Close it as soon as the container's end is set up."""

    def __init__(self, descriptor: int) -> None:
        """Takes over the descriptor, and closes it where it is not such a socket. Raises AttachError."""
        try:
            given = socket.socket(fileno=descriptor)
        except OSError:
            os.close(descriptor)
            raise AttachError("the descriptor passed is not a socket") from None
        if (given.family, given.proto) != (socket.AF_NETLINK, socket.NETLINK_ROUTE):
            given.close()
            raise AttachError("the socket passed is not an rtnetlink socket")
        self._given = given
        try:
            self.netns: int = fcntl.ioctl(given, _SIOCGSKNS)
        except OSError as error:
            given.close()
            raise AttachError(f"the socket's network namespace: {os.strerror(error.errno or 0)}", "refused") from None
        self.identity = os.fstat(self.netns).st_ino
        """The namespace's inode."""
        self._requests = RequestSocket(existing=given)

    def __enter__(self) -> ContainerNamespace:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.netns)
        self._requests.close()

    @property
    def is_hosts(self) -> bool:
        """Whether it is the namespace that the daemon itself is in."""
        return Path("/proc/self/ns/net").stat().st_ino == self.identity

    def has(self, interface: str) -> bool:
        """Whether there is an interface of that name."""
        return self._index(interface) is not None

    def set_up(
        self, interface: str, addresses: Sequence[Interface], networks: Sequence[Network], *, lone: bool
    ) -> None:
        """Give the interface, which is there and has its MTU and MAC, its addresses and routes, and bring it up, and
        `lo` too. Raises AttachError.

        `networks` lead to the gateways, and so does everything else, unless the container has a default route by then.
        `lone`: whether neighbours are reached by the gateway, too.
        """
        index = self._required(interface)
        steps: list[Encode] = [lambda sequence: set_link(1, b"", sequence, up=True)]  # lo is the first device
        steps += [_address(index, _own(one, lone=lone)) for one in addresses]
        steps.append(lambda sequence: set_link(index, b"", sequence, up=True))
        self._send(interface, steps)
        self._route(index, interface, addresses, networks, lone=lone)

    def refresh(
        self,
        interface: str,
        mtu: int,
        old: Sequence[Interface],
        new: Sequence[Interface],
        networks: Sequence[Network],
        *,
        lone: bool,
    ) -> None:
        """Exchange the interface's addresses, and set its MTU and routes. Raises AttachError."""
        index = self._required(interface)
        steps: list[Encode] = [lambda sequence: set_link(index, u32(IFLA_MTU, mtu), sequence)]
        steps += [_address(index, _own(one, lone=lone)) for one in new]
        self._send(interface, steps)
        gone = [_own(one, lone=lone) for one in old if one not in new]
        self._send(interface, [_no_address(index, one) for one in gone], tolerated=_ABSENT)
        self._route(index, interface, new, networks, lone=lone)

    def _route(
        self,
        index: int,
        interface: str,
        addresses: Sequence[Interface],
        networks: Sequence[Network],
        *,
        lone: bool,
    ) -> None:
        steps: list[Encode] = []
        defaults: list[Encode] = []
        for one in addresses:
            gateway = one.network[1]
            everything = IPv4Network("0.0.0.0/0") if one.version == 4 else IPv6Network("::/0")
            steps += [
                _route(index, network, gateway, onlink=lone) for network in networks if network.version == one.version
            ]
            defaults.append(_route(index, everything, gateway, onlink=lone, replace=False))
        self._send(interface, steps)
        self._send(interface, defaults, tolerated=(errno.EEXIST,))

    def _index(self, interface: str) -> int | None:
        with suppress(OSError):
            request = _IFREQ.pack(interface.encode(), 0)
            return int(_IFREQ.unpack(fcntl.ioctl(self._given, _SIOCGIFINDEX, request))[1])
        return None

    def _required(self, interface: str) -> int:
        index = self._index(interface)
        if index is None:
            raise AttachError(f"interface {interface} is gone from the container", "refused")
        return index

    def _send(self, interface: str, steps: Sequence[Encode], tolerated: Sequence[int] = ()) -> None:
        """Send messages in one go; one that is refused for another reason than these raises AttachError."""
        if not steps:
            return
        numbered = [(self._requests.next_sequence(), step) for step in steps]
        try:
            refused = self._requests.exchange(
                b"".join(step(sequence) for sequence, step in numbered), [sequence for sequence, _ in numbered]
            )
        except OSError as error:
            raise AttachError(f"interface {interface} in the container: {error}", "refused") from None
        for number in refused.values():
            if number not in tolerated:
                raise AttachError(
                    f"interface {interface} in the container: {os.strerror(number)}{_hint(number)}", "refused"
                )


def _hint(number: int) -> str:
    if number == errno.EACCES:
        return "; IPv6 is switched off there (net.ipv6.conf.default.disable_ipv6)"
    return ""


def _own(address: Interface, *, lone: bool) -> Interface:
    """The address as the interface has it: without its subnet's route where neighbours are behind the gateway."""
    return type(address)((address.ip, address.max_prefixlen)) if lone else address


def _address(index: int, address: Interface) -> Encode:
    return lambda sequence: put_address(index, address, sequence)


def _no_address(index: int, address: Interface) -> Encode:
    return lambda sequence: delete_address(index, address, sequence)


def _route(index: int, network: Network, gateway: Address, *, onlink: bool, replace: bool = True) -> Encode:
    return lambda sequence: put_route(network, index, gateway, onlink, sequence, replace=replace, ours=False)
