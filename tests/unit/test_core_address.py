from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import pytest

from overlayd.core.address import host_network, overlap, within


@pytest.mark.parametrize(
    ("one", "other", "overlaps", "inside"),
    [
        ("10.1.2.0/24", "10.1.2.0/24", True, True),
        ("10.1.2.0/24", "10.1.0.0/16", True, True),
        ("10.1.0.0/16", "10.1.2.0/24", True, False),
        ("10.1.2.0/24", "10.1.3.0/24", False, False),
        ("fd00:1::/64", "fd00::/16", True, True),
        ("fd00::/16", "fd00:1::/64", True, False),
        ("fd00:1::/64", "fd00:2::/64", False, False),
        ("10.1.0.0/16", "::/0", False, False),
        ("::/0", "0.0.0.0/0", False, False),
    ],
)
def test_overlap_and_within(one: str, other: str, overlaps: bool, inside: bool) -> None:
    assert overlap(ip_network(one), ip_network(other)) is overlaps
    assert overlap(ip_network(other), ip_network(one)) is overlaps
    assert within(ip_network(one), ip_network(other)) is inside


def test_host_network() -> None:
    assert host_network(ip_address("10.1.2.3")) == IPv4Network("10.1.2.3/32")
    assert host_network(ip_address("::1")) == IPv6Network("::1/128")
