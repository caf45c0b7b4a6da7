"""A lease: which host owns which subnet, and where that host is on the underlay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, Literal

from overlayd.core.address import Address, Family, Network
from overlayd.wire.mac import derive_mac

Wire = Literal["flannel", "overlayd"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """One host's subnet, of one family or of both, and where the host is found on the underlay."""

    subnet: IPv4Network | None = None
    ipv6_subnet: IPv6Network | None = None
    public_ip: IPv4Address | None = None
    public_ipv6: IPv6Address | None = None
    written_mac: str | None = None
    """The VTEP MAC that the registry holds; None where it is derived."""
    name: str = ""
    """The host's name; for display only."""
    wire: Wire = "flannel"
    """The wire formats of the host in udp mode: flannel's only, or overlayd's extensions as well."""
    written_mac_v6: str | None = None
    """The MAC of a second VXLAN device, over IPv6, where the host has one with a MAC of its own (flannel)."""
    backend: str | None = None
    """The host's backend by flannel's name; None where the registry does not tell (the static one)."""
    vni: int | None = None
    port: int | None = None
    """UDP port that the host listens on; None where the registry does not tell."""
    port_v6: int | None = None
    """The port on its IPv6 address where that is another one (wireguard mode)."""
    public_key: str | None = None
    """The host's WireGuard key in base64."""
    probe_port: int | None = None
    """UDP port on which the host's overlayd answers probes; None where it does not, or where flannel runs."""
    data: Mapping[str, Any] | None = field(default=None, hash=False)
    """What its BackendData holds beside the fields here; the mode's own (`core.mode.ModeSpec`)."""
    reserved: bool = False
    """Whether it never expires. A reservation without any underlay address blocks the subnet."""
    # Computed once: with thousands of leases these are read all the time.
    subnets: tuple[Network, ...] = field(init=False, repr=False, compare=False)
    """The one or two subnets, IPv4 first."""
    key: str = field(init=False, repr=False, compare=False)
    """The lease's identity, as flannel's etcd keys spell it: 10.5.52.0-24, or 10.5.52.0-24&fc00::-64."""

    def __post_init__(self) -> None:
        subnets = tuple(subnet for subnet in (self.subnet, self.ipv6_subnet) if subnet is not None)
        if not subnets:
            raise ValueError("a lease needs a subnet of at least one family")
        object.__setattr__(self, "subnets", subnets)
        object.__setattr__(self, "key", "&".join(str(subnet).replace("/", "-") for subnet in subnets))

    @property
    def vtep_mac(self) -> str:
        """The MAC of the host's VXLAN device: as written, else derived from the lease, the same on every host."""
        return self.written_mac or self.written_mac_v6 or derive_mac(f"overlayd vtep {self.key}")

    def mac_over(self, underlay_family: Family) -> str:
        """The MAC of the host's VXLAN device over that underlay family."""
        return self.written_mac_v6 or self.vtep_mac if underlay_family == 6 else self.vtep_mac

    def port_over(self, underlay_family: Family) -> int | None:
        """The port on the host's address of that family."""
        return self.port_v6 or self.port if underlay_family == 6 else self.port

    def subnet_of(self, family: Family) -> Network | None:
        """The subnet of that family, if the lease has one."""
        return self.subnet if family == 4 else self.ipv6_subnet

    def public(self, family: Family) -> Address | None:
        """The underlay address of that family, if the host has one."""
        return self.public_ip if family == 4 else self.public_ipv6

    def __str__(self) -> str:
        subnets = "+".join(map(str, self.subnets))
        publics = "/".join(str(public) for public in (self.public_ip, self.public_ipv6) if public is not None)
        return f"{subnets}@{publics}" if publics else subnets
