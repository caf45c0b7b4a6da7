"""Which address a container gets: those of this host's subnets that are not in use, one after another.

    10.1.1.0      the subnet's base: this host's VTEP or TUN
    10.1.1.1      the gateway: the bridge
    10.1.1.2      the first container
    10.1.1.255    the broadcast address, of IPv4 alone

An address that was given back is given out again only when the search comes round to it: what remembers its former
holder has forgotten it by then. The MAC follows from the address, so that no neighbour entry is ever stale.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from ipaddress import IPv4Address, ip_interface

from overlayd.core.address import Address, Family, Interface, Network
from overlayd.core.attach.errors import AttachError
from overlayd.wire.mac import derive_mac

_FIRST = 2
"""Offset of the first container's address."""
_MAC_PREFIX = "02:6f"
"""Locally administered, unicast; the four octets of an IPv4 address follow."""


def gateway(subnet: Network) -> Address:
    """The address that containers of this subnet send to."""
    return subnet[1]


def container_mac(addresses: Sequence[Address]) -> str:
    """The MAC of a container with these addresses: unique on the host, as they are."""
    first = addresses[0]
    if isinstance(first, IPv4Address):
        return f"{_MAC_PREFIX}:{first.packed.hex(':')}"
    return derive_mac(f"overlayd container {first}")


def choose(
    subnets: Sequence[Network],
    taken: Mapping[Address, str],
    wanted: Sequence[Address],
    last: Mapping[Family, Address],
) -> tuple[Interface, ...]:
    """An address of each of these subnets: the wanted one, or else the next free one after the last that was given.

    `taken`: addresses in use, each with its holder in words. Raises AttachError.
    """
    for address in wanted:
        if not any(address in subnet for subnet in subnets):
            listed = " and ".join(map(str, subnets))
            raise AttachError(f"address {address} is not in this host's subnet {listed}; choose one from there")
    return tuple(_choose(subnet, taken, wanted, last.get(subnet.version)) for subnet in subnets)


def _choose(
    subnet: Network, taken: Mapping[Address, str], wanted: Sequence[Address], last: Address | None
) -> Interface:
    mine = next((one for one in wanted if one.version == subnet.version), None)
    found = _checked(mine, subnet, taken) if mine is not None else _next_free(subnet, taken, last)
    return ip_interface((found, subnet.prefixlen))


def _checked(address: Address, subnet: Network, taken: Mapping[Address, str]) -> Address:
    if address == gateway(subnet):
        raise AttachError(f"address {address} is the gateway of {subnet}; choose another one", "taken")
    if address not in _Usable(subnet):
        raise AttachError(f"address {address} is reserved in {subnet}; choose another one", "taken")
    if address in taken:
        raise AttachError(f"address {address} is taken by {taken[address]}; choose another one", "taken")
    return address


def _next_free(subnet: Network, taken: Collection[Address], last: Address | None) -> Address:
    usable = _Usable(subnet)
    start = usable.position(last) + 1 if last is not None and last in usable else 0
    for step in range(min(len(usable), len(taken) + 1)):  # among so many there is a free one, if there is any at all
        address = usable.at((start + step) % len(usable))
        if address not in taken:
            return address
    raise AttachError(
        f"the subnet {subnet} is exhausted: all {len(usable)} addresses are in use; detach a container, or give hosts"
        " larger subnets",
        "exhausted",
    )


class _Usable:
    """The addresses of a subnet that containers can have."""

    def __init__(self, subnet: Network) -> None:
        reserved = _FIRST + (subnet.version == 4)
        self._subnet, self._length = subnet, max(0, subnet.num_addresses - reserved)

    def __len__(self) -> int:
        return min(self._length, 1 << 62)  # len() takes no more; the search goes no further than what is taken

    def at(self, index: int) -> Address:
        return self._subnet[_FIRST + index]

    def position(self, address: Address) -> int:
        return int(address) - int(self._subnet[0]) - _FIRST

    def __contains__(self, address: Address) -> bool:
        return address.version == self._subnet.version and 0 <= self.position(address) < self._length
