"""Builds the namespaces, cables and bridges of a plan, with the `ip` commands that a person would type.

 1. all namespaces, in one batch
 2. kernel settings, before any interface exists that would inherit the old ones
 3. the switch, if there is one; its cables reach into the hosts
 4. host by host: underlay, bridge, one veth for each container
 5. container by container: address and default route
 6. the members of the lab's etcd, if it has one: underlay
Nothing is created in the machine's own namespace.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from overlayd.lab.namespace import Echo, Namespace, ip_batch
from overlayd.lab.spec import ContainerPlan, EtcdPlan, HostPlan, LabSpec, Offloads
from overlayd.wire.mac import derive_mac

_SYSCTLS = {
    # A namespace inherits the machine's IPv4 settings; a lab must not depend on them.
    "net/ipv4/ip_forward": 0,  # for the daemon to turn on
    "net/ipv4/conf/all/rp_filter": 0,
    "net/ipv4/conf/default/rp_filter": 2,  # loose, as systemd sets it on a usual Debian host
    "net/ipv6/conf/all/disable_ipv6": 0,
    "net/ipv6/conf/default/disable_ipv6": 0,
    # No duplicate address detection: link-local addresses work at once, as `nodad` does for ours.
    "net/ipv6/conf/all/accept_dad": 0,
    "net/ipv6/conf/default/accept_dad": 0,
}
_Place = Literal["card", "port", "veth"]
"""What a device stands for: a network card, a port of the switch, or a container's veth, either end."""
_NO_SEGMENTATION = (
    *("tso", "off", "tx-udp-segmentation", "off", "tx-sctp-segmentation", "off", "tx-gso-list", "off"),
    *("tx-udp_tnl-segmentation", "off", "tx-udp_tnl-csum-segmentation", "off"),
    *("tx-gre-segmentation", "off", "tx-gre-csum-segmentation", "off"),
    *("tx-ipxip4-segmentation", "off", "tx-ipxip6-segmentation", "off"),
)
"""GSO itself stays on: the kernel segments superpackets just before this device, and leaves the checksums to it."""
_NO_OFFLOADS = (*_NO_SEGMENTATION, "gso", "off", "gro", "off")
_ETHTOOL: Mapping[Offloads, Mapping[_Place, Sequence[str]]] = {
    "on": {},
    "off": {"card": _NO_OFFLOADS, "port": _NO_OFFLOADS, "veth": _NO_OFFLOADS},
    # GRO gives a veth a NAPI context, which coalesces what a sender without any TSO feature sends (drivers/net/veth.c).
    "wire": {"card": (*_NO_SEGMENTATION, "gro", "on"), "port": _NO_SEGMENTATION},
}


def build(spec: LabSpec, hosts: Sequence[HostPlan], etcd: Sequence[EtcdPlan], echo: Echo) -> None:
    """Create it all. Raises LabError at the first command that fails, and leaves to the caller what exists by then."""
    nodes: list[HostPlan | EtcdPlan] = [*hosts, *etcd]
    switch = Namespace("switch", spec.namespace("switch"), echo)
    parts = [Namespace(host.name, host.namespace, echo) for host in hosts]
    inner = [Namespace(one.name, one.namespace, echo) for host in hosts for one in host.containers]
    members = [Namespace(one.name, one.namespace, echo) for one in etcd]
    everything: list[Namespace] = [*parts, *inner, *members, *([] if has_cable(spec) else [switch])]
    ip_batch([f"netns add {one.namespace}" for one in everything], echo=echo)
    for one in everything:
        one.sysctl(_SYSCTLS)
    if has_cable(spec):
        parts[0].ip(f"link add eth0 type veth peer name eth0 netns {hosts[1].namespace}")
    else:
        switch.ip(*_switch(spec, nodes))
        _offloads(spec, "port", switch, *(one.name for one in nodes))
    containers = iter(inner)
    for part, host in zip(parts, hosts, strict=True):
        part.ip(*_host(spec, host))
        _offloads(spec, "card", part, "eth0")
        _offloads(spec, "veth", part, *(f"c{index}" for index, _ in enumerate(host.containers, 1)))
        for planned in host.containers:
            container = next(containers)
            container.ip(*_container(host, planned))
            _offloads(spec, "veth", container, "eth0")
    for member, reached in zip(members, etcd, strict=True):
        member.ip(*_node(spec, reached))
        _offloads(spec, "card", member, "eth0")


def has_cable(spec: LabSpec) -> bool:
    """Whether two hosts, alone, are joined by one veth; otherwise a namespace with a bridge is the switch."""
    return spec.hosts == 2 and spec.registry == "static"


def _switch(spec: LabSpec, nodes: Sequence[HostPlan | EtcdPlan]) -> Iterator[str]:
    yield "link set lo up"
    yield f"link add br0 mtu {spec.underlay_mtu} type bridge stp_state 0 forward_delay 0"
    yield "link set br0 up"
    for one in nodes:
        yield f"link add {one.name} type veth peer name eth0 netns {one.namespace}"
        yield f"link set {one.name} mtu {spec.underlay_mtu} master br0 up"


def _node(spec: LabSpec, node: HostPlan | EtcdPlan) -> Iterator[str]:
    yield "link set lo up"
    yield f"link set eth0 mtu {spec.underlay_mtu} up"
    for address in node.underlay:
        yield _address(f"{address}", "eth0")


def _host(spec: LabSpec, host: HostPlan) -> Iterator[str]:
    yield from _node(spec, host)
    # A bridge with no MAC of its own takes the lowest of its ports', and changes it when one comes or goes.
    mac = derive_mac(f"{host.namespace} br0")
    yield f"link add br0 address {mac} type bridge stp_state 0 forward_delay 0"
    for index, container in enumerate(host.containers, 1):
        yield f"link add c{index} type veth peer name eth0 netns {container.namespace}"
        yield f"link set c{index} mtu {host.overlay_mtu} master br0 up"
    yield f"link set br0 mtu {host.overlay_mtu} up"
    for address in host.bridge:
        yield _address(f"{address}", "br0")


def _container(host: HostPlan, container: ContainerPlan) -> Iterator[str]:
    yield "link set lo up"
    yield f"link set eth0 mtu {host.overlay_mtu} up"
    for address in container.addresses:
        yield _address(f"{address}", "eth0")
    for gateway in container.gateways:
        yield f"route add default via {gateway}"


def _address(interface: str, device: str) -> str:
    return f"addr add {interface} dev {device}{' nodad' if ':' in interface else ''}"


def _offloads(spec: LabSpec, place: _Place, part: Namespace, *devices: str) -> None:
    if words := _ETHTOOL[spec.offloads].get(place):
        for device in devices:
            part.run("ethtool", "-K", device, *words)
