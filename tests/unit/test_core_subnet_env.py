from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_interface, ip_network

import pytest

from overlayd.backend.vxlan import VXLAN, VxlanSettings
from overlayd.core.leases.lease import Lease
from overlayd.core.leases.subnet_env import docker_options, gateway, subnet_env
from overlayd.core.leases.subnets import SubnetRange
from overlayd.core.node import Node, Underlay

UNDERLAY = Underlay("eth0", 2, 1500, (ip_interface("192.168.77.1/24"),), IPv4Address("192.168.77.1"), None)
RANGES = (SubnetRange.of(IPv4Network("10.5.0.0/16")), SubnetRange.of(IPv6Network("fd05::/48")))
V4, V6 = IPv4Network("10.5.72.0/24"), IPv6Network("fd05:0:0:72::/64")

IPV4_FILE = """\
FLANNEL_NETWORK=10.5.0.0/16
FLANNEL_SUBNET=10.5.72.1/24
FLANNEL_MTU=1450
FLANNEL_IPMASQ=false
"""
DUAL_FILE = """\
FLANNEL_NETWORK=10.5.0.0/16
FLANNEL_SUBNET=10.5.72.1/24
FLANNEL_IPV6_NETWORK=fd05::/48
FLANNEL_IPV6_SUBNET=fd05:0:0:72::1/64
FLANNEL_MTU=1450
FLANNEL_IPMASQ=true
"""
IPV6_FILE = """\
FLANNEL_IPV6_NETWORK=fd05::/48
FLANNEL_IPV6_SUBNET=fd05:0:0:72::1/64
FLANNEL_MTU=1450
FLANNEL_IPMASQ=false
"""


@pytest.mark.parametrize(
    ("lease", "ip_masq", "text"),
    [
        (Lease(subnet=V4), False, IPV4_FILE),
        (Lease(subnet=V4, ipv6_subnet=V6), True, DUAL_FILE),
        (Lease(ipv6_subnet=V6), False, IPV6_FILE),
    ],
)
def test_the_file_is_flannels(lease: Lease, ip_masq: bool, text: str) -> None:
    assert subnet_env(Node(VXLAN, VxlanSettings(), lease, UNDERLAY, RANGES), ip_masq) == text


def test_gateway_is_the_base_plus_one() -> None:
    assert gateway(ip_network("10.5.72.0/24")) == "10.5.72.1/24"
    assert gateway(ip_network("10.5.72.252/30")) == "10.5.72.253/30"
    assert gateway(ip_network("fd05:0:0:72::/64")) == "fd05:0:0:72::1/64"


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (IPV4_FILE, ["--bip=10.5.72.1/24", "--ip-masq=true", "--mtu=1450"]),
        (
            DUAL_FILE,
            ["--bip=10.5.72.1/24", "--ipv6", "--fixed-cidr-v6=fd05:0:0:72::/64", "--ip-masq=false", "--mtu=1450"],
        ),
        (IPV6_FILE, ["--ipv6", "--fixed-cidr-v6=fd05:0:0:72::/64", "--ip-masq=true", "--mtu=1450"]),
    ],
)
def test_docker_masquerades_where_overlayd_does_not(text: str, options: list[str]) -> None:
    assert docker_options(text) == options


@pytest.mark.parametrize(
    "text",
    [
        "",
        "FLANNEL_MTU=1450\n",
        IPV4_FILE.replace("1450", "big"),
        IPV4_FILE.replace("IPMASQ=false", "IPMASQ=maybe"),
        IPV4_FILE.replace("10.5.72.1/24", "10.5.72.300/24"),
        IPV4_FILE.replace("FLANNEL_MTU", "MTU"),
    ],
)
def test_what_is_no_subnet_env(text: str) -> None:
    with pytest.raises(ValueError, match=r"^is not a valid subnet\.env: "):
        docker_options(text)
