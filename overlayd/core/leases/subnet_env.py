"""subnet.env, as flannel writes it: this host's lease, for container engines."""

from __future__ import annotations

from ipaddress import ip_interface

from overlayd.core.address import Network
from overlayd.core.node import Node


def gateway(subnet: Network) -> str:
    """The bridge's address: the subnet's base + 1, with the prefix length."""
    return str(ip_interface((subnet[1], subnet.prefixlen)))


def subnet_env(node: Node, ip_masq: bool) -> str:
    """The file's text: FLANNEL_NETWORK, FLANNEL_SUBNET, their IPv6 counterparts, FLANNEL_MTU and FLANNEL_IPMASQ."""
    lines = []
    for one in node.ranges:
        subnet = node.lease.subnet_of(one.network.version)
        if subnet is not None:
            prefix = "FLANNEL_" if one.network.version == 4 else "FLANNEL_IPV6_"
            lines += [f"{prefix}NETWORK={one.network}", f"{prefix}SUBNET={gateway(subnet)}"]
    lines += [f"FLANNEL_MTU={node.overlay_mtu}", f"FLANNEL_IPMASQ={'true' if ip_masq else 'false'}"]
    return "\n".join(lines) + "\n"


def masquerades(text: str) -> bool:
    """Whether a subnet.env says that who wrote it masquerades."""
    return "FLANNEL_IPMASQ=true" in text.splitlines()


def leased_subnets(text: str) -> tuple[Network, ...]:
    """The subnets in a subnet.env, IPv4 first. Raises ValueError when it is invalid."""
    values = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    keys = ("FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET")
    return tuple(ip_interface(values[key]).network for key in keys if key in values)


def docker_options(text: str) -> list[str]:
    """The options for dockerd that match a subnet.env.

    Raises ValueError for an invalid subnet.env. Docker masquerades where overlayd does not, and the reverse.
    """
    values = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    try:
        options = []
        if "FLANNEL_SUBNET" in values:
            options.append(f"--bip={ip_interface(values['FLANNEL_SUBNET'])}")
        if "FLANNEL_IPV6_SUBNET" in values:
            options += ["--ipv6", f"--fixed-cidr-v6={ip_interface(values['FLANNEL_IPV6_SUBNET']).network}"]
        masquerade = {"true": "false", "false": "true"}[values["FLANNEL_IPMASQ"]]
        options += [f"--ip-masq={masquerade}", f"--mtu={int(values['FLANNEL_MTU'])}"]
    except (KeyError, ValueError) as error:
        raise ValueError(f"is not a valid subnet.env: {error}") from None
    return options
