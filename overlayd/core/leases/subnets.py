"""The subnets that a network leases: flannel's SubnetLen, SubnetMin and SubnetMax, with its defaults.

A network (10.1.0.0/16) is divided into subnets of one length (/24), one for each host. The first is left out by
default: its base address is the network's own. Each family has its own network and rules.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass
from ipaddress import ip_network

from overlayd.core.address import Address, Network, within

# Largest prefix lengths of a network and of a subnet: a subnet holds at least two hosts, a network four subnets.
_NETWORK_LEN_MAX = {4: 28, 6: 124}
_SUBNET_LEN_MAX = {4: 30, 6: 126}
_SUBNET_LEN_DEFAULT = {4: 24, 6: 64}


class SubnetRuleError(ValueError):
    """A rule of the network is broken; `field` is flannel's name in snake case, the text has the remedy."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(text)
        self.field = field


@dataclass(frozen=True, slots=True)
class SubnetRange:
    """The subnets of one network, from `first` to `last`, both included."""

    network: Network
    subnet_len: int
    """Prefix length of every subnet."""
    first: Network
    last: Network

    @classmethod
    def of(
        cls,
        network: Network,
        subnet_len: int | None = None,
        subnet_min: Address | None = None,
        subnet_max: Address | None = None,
    ) -> SubnetRange:
        """Apply flannel's defaults and check its rules; raises SubnetRuleError for the first one broken."""
        version, prefix = network.version, network.prefixlen
        if prefix > _NETWORK_LEN_MAX[version]:
            raise SubnetRuleError(
                "network", f"is too small to be divided; use /{_NETWORK_LEN_MAX[version]} or a shorter prefix"
            )
        if subnet_len is None:
            default = _SUBNET_LEN_DEFAULT[version]
            subnet_len = default if prefix <= default - 2 else prefix + 2
        if not prefix + 2 <= subnet_len <= _SUBNET_LEN_MAX[version]:
            raise SubnetRuleError(
                "subnet_len", f"does not divide {network}; use {prefix + 2} to {_SUBNET_LEN_MAX[version]}"
            )
        step = 1 << (network.max_prefixlen - subnet_len)
        base, end = int(network.network_address), int(network.broadcast_address) + 1
        bounds = []
        for field, given, default_base in (
            ("subnet_min", subnet_min, base + step),
            ("subnet_max", subnet_max, end - step),
        ):
            if given is not None and (given.version != version or given not in network):
                raise SubnetRuleError(field, f"lies outside {network}; choose a subnet inside it")
            start = default_base if given is None else int(given)
            if start % step:
                aligned = type(network.network_address)(start - start % step)
                raise SubnetRuleError(field, f"is not the base of a /{subnet_len}; did you mean {aligned}?")
            bounds.append(ip_network((type(network.network_address)(start), subnet_len)))
        first, last = bounds
        if first.network_address > last.network_address:  # type: ignore[operator]  # one family, checked above
            raise SubnetRuleError("subnet_max", f"lies below subnet_min {first[0]}; swap them")
        return cls(network, subnet_len, first, last)

    def check(self, subnet: Network) -> str | None:
        """None when `subnet` may be leased, else the fault and the remedy."""
        if subnet.version != self.network.version or not within(subnet, self.network):
            return f"lies outside the network {self.network}; choose a /{self.subnet_len} inside it"
        if subnet.prefixlen != self.subnet_len:
            return f"has prefix length {subnet.prefixlen}; the network's subnet_len is {self.subnet_len}"
        if not int(self.first[0]) <= int(subnet[0]) <= int(self.last[0]):
            return f"lies outside subnet_min {self.first[0]} to subnet_max {self.last[0]}"
        return None

    @property
    def count(self) -> int:
        """The number of subnets to lease (not `len`, whose limit a wide IPv6 network exceeds)."""
        return ((int(self.last[0]) - int(self.first[0])) >> (self.network.max_prefixlen - self.subnet_len)) + 1

    def __getitem__(self, index: int) -> Network:
        """The subnet with this index from 0; raises IndexError beyond the last."""
        if not 0 <= index < self.count:
            raise IndexError(f"subnet {index} of {self.count} in {self.network}")
        base = int(self.first[0]) + (index << (self.network.max_prefixlen - self.subnet_len))
        return ip_network((type(self.network.network_address)(base), self.subnet_len))

    def free(self, taken: Container[Network]) -> Iterator[Network]:
        """The subnets that are not in `taken`, lowest first."""
        return (subnet for subnet in (self[index] for index in range(self.count)) if subnet not in taken)
