from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlayd.core.leases.subnets import SubnetRange, SubnetRuleError


def range_of(network: str, length: int | None = None, low: str | None = None, high: str | None = None) -> SubnetRange:
    return SubnetRange.of(
        ip_network(network),
        length,
        None if low is None else ip_address(low),
        None if high is None else ip_address(high),
    )


@st.composite
def ranges(draw: st.DrawFn) -> SubnetRange:
    """Any range that flannel's rules allow, its bounds given or left to the defaults."""
    if draw(st.booleans()):
        network = IPv4Network((draw(st.integers(0, 2**32 - 1)), draw(st.integers(0, 28))), strict=False)
        longest = 30
    else:
        network = IPv6Network((draw(st.integers(0, 2**128 - 1)), draw(st.integers(0, 124))), strict=False)
        longest = 126
    if draw(st.booleans()):
        return SubnetRange.of(network)
    length = draw(st.integers(network.prefixlen + 2, longest))
    step = 2 ** (network.max_prefixlen - length)
    low, high = sorted(draw(st.integers(0, network.num_addresses // step - 1)) for _ in range(2))
    base = network.network_address
    return SubnetRange.of(network, length, base + low * step, base + high * step)


@pytest.mark.parametrize(
    ("network", "first", "last", "count"),
    [
        ("10.0.0.0/8", "10.0.1.0/24", "10.255.255.0/24", 65535),
        ("10.5.0.0/16", "10.5.1.0/24", "10.5.255.0/24", 255),
        ("10.5.4.0/22", "10.5.5.0/24", "10.5.7.0/24", 3),  # the smallest network with /24 by default
        ("10.5.4.0/23", "10.5.4.128/25", "10.5.5.128/25", 3),  # else the prefix length + 2
        ("10.5.4.0/28", "10.5.4.4/30", "10.5.4.12/30", 3),
        ("fd00:10::/48", "fd00:10:0:1::/64", "fd00:10:0:ffff::/64", 65535),
        ("fd00:10::/62", "fd00:10:0:1::/64", "fd00:10:0:3::/64", 3),
        ("fd00:10::/63", "fd00:10:0:0:8000::/65", "fd00:10:0:1:8000::/65", 3),
        ("fd00:10::/124", "fd00:10::4/126", "fd00:10::c/126", 3),
    ],
)
def test_flannels_defaults(network: str, first: str, last: str, count: int) -> None:
    found = range_of(network)
    assert (str(found.first), str(found.last), found.count) == (first, last, count)
    assert found.subnet_len == found.first.prefixlen


def test_given_bounds() -> None:
    found = range_of("10.5.0.0/16", 26, "10.5.0.0", "10.5.0.192")
    assert [str(subnet) for subnet in found.free(())] == [
        "10.5.0.0/26",
        "10.5.0.64/26",
        "10.5.0.128/26",
        "10.5.0.192/26",
    ]


def test_bounds_may_be_one_subnet() -> None:
    assert range_of("10.5.0.0/16", low="10.5.9.0", high="10.5.9.0").count == 1


@pytest.mark.parametrize(
    ("rules", "field", "text"),
    [
        (("10.5.0.0/29",), "network", "is too small to be divided; use /28 or a shorter prefix"),
        (("fd00::/125",), "network", "is too small to be divided; use /124 or a shorter prefix"),
        (("10.5.0.0/16", 17), "subnet_len", "does not divide 10.5.0.0/16; use 18 to 30"),
        (("10.5.0.0/16", 31), "subnet_len", "does not divide 10.5.0.0/16; use 18 to 30"),
        (("fd00::/48", 49), "subnet_len", "does not divide fd00::/48; use 50 to 126"),
        (("fd00::/48", 127), "subnet_len", "does not divide fd00::/48; use 50 to 126"),
        (
            ("10.5.0.0/16", 24, "10.6.0.0"),
            "subnet_min",
            "lies outside 10.5.0.0/16; choose a subnet inside it",
        ),
        (
            ("10.5.0.0/16", 24, None, "10.4.255.0"),
            "subnet_max",
            "lies outside 10.5.0.0/16; choose a subnet inside it",
        ),
        (("10.5.0.0/16", 24, "fd00::"), "subnet_min", "lies outside 10.5.0.0/16; choose a subnet inside it"),
        (
            ("10.5.0.0/16", 24, "10.5.7.9"),
            "subnet_min",
            "is not the base of a /24; did you mean 10.5.7.0?",
        ),
        (
            ("10.5.0.0/16", 24, None, "10.5.7.128"),
            "subnet_max",
            "is not the base of a /24; did you mean 10.5.7.0?",
        ),
        (
            ("fd00::/48", 64, "fd00:0:0:7::1"),
            "subnet_min",
            "is not the base of a /64; did you mean fd00:0:0:7::?",
        ),
        # A base below 2**32 is still an IPv6 address.
        (("::/8", 16, "::1"), "subnet_min", "is not the base of a /16; did you mean ::?"),
        (
            ("10.5.0.0/16", 24, "10.5.8.0", "10.5.7.0"),
            "subnet_max",
            "lies below subnet_min 10.5.8.0; swap them",
        ),
    ],
)
def test_broken_rules(rules: tuple[str, int, str, str], field: str, text: str) -> None:
    with pytest.raises(SubnetRuleError) as caught:
        range_of(*rules)
    assert (caught.value.field, str(caught.value)) == (field, text)


@pytest.mark.parametrize(
    ("subnet", "text"),
    [
        ("10.5.16.0/24", None),
        ("10.5.31.0/24", None),
        ("10.6.16.0/24", "lies outside the network 10.5.0.0/16; choose a /24 inside it"),
        ("10.0.0.0/8", "lies outside the network 10.5.0.0/16; choose a /24 inside it"),
        ("fd00::/64", "lies outside the network 10.5.0.0/16; choose a /24 inside it"),
        ("10.5.16.0/25", "has prefix length 25; the network's subnet_len is 24"),
        ("10.5.16.0/23", "has prefix length 23; the network's subnet_len is 24"),
        ("10.5.0.0/16", "has prefix length 16; the network's subnet_len is 24"),
        ("10.5.15.0/24", "lies outside subnet_min 10.5.16.0 to subnet_max 10.5.31.0"),
        ("10.5.32.0/24", "lies outside subnet_min 10.5.16.0 to subnet_max 10.5.31.0"),
    ],
)
def test_check(subnet: str, text: str | None) -> None:
    assert range_of("10.5.0.0/16", 24, "10.5.16.0", "10.5.31.0").check(ip_network(subnet)) == text


@given(ranges(), st.data())
def test_every_numbered_subnet_may_be_leased(found: SubnetRange, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, found.count - 1))
    subnet = found[index]
    assert found.check(subnet) is None
    assert subnet.version == found.network.version
    assert int(found.network[0]) <= int(subnet[0])
    assert int(subnet[-1]) <= int(found.network[-1])
    assert subnet.prefixlen == found.subnet_len
    assert int(subnet[0]) - int(found.first[0]) == index * subnet.num_addresses


@given(ranges())
def test_numbers_lead_from_the_first_to_the_last(found: SubnetRange) -> None:
    assert (found[0], found[found.count - 1]) == (found.first, found.last)
    for beyond in (-1, found.count):
        with pytest.raises(IndexError, match=f"^subnet {beyond} of {found.count} in {found.network}$"):
            found[beyond]


@given(ranges(), st.sets(st.integers(0, 9)))
def test_free_subnets_come_lowest_first_without_the_taken(found: SubnetRange, taken: set[int]) -> None:
    numbers = [number for number in range(min(10, found.count)) if number not in taken]
    leased = {found[number] for number in taken if number < found.count}
    assert list(islice(found.free(leased), len(numbers))) == [found[number] for number in numbers]
