"""Which lease a node gets, and when it gets none."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlayd.core.leases.allocation import AllocationError, Choice, Held, choose
from overlayd.core.leases.host_record import HostRecord
from overlayd.core.leases.lease import Lease
from overlayd.core.leases.subnets import SubnetRange

RANGE = SubnetRange.of(IPv4Network("10.5.0.0/24"), 26)  # 10.5.0.64, .128 and .192
DUAL = (SubnetRange.of(IPv4Network("10.5.0.0/16")), SubnetRange.of(ip_network("fc00::/48")))


def held(subnet: str, public: str | None = None, node: str | None = None, etcd_lease: int = 9) -> Held:
    key = subnet.replace("/", "-")
    lease = Lease(subnet=IPv4Network(subnet), public_ip=IPv4Address(public) if public else None)
    return Held(lease, etcd_lease, 5, HostRecord(node, "s", key, f"name-{node}") if node else None)


def ask(
    *there: Held, node: str = "me", public: str = "192.0.2.1", former: str | None = None, taken: tuple[str, ...] = ()
) -> Choice:
    return choose(
        {one.lease.key: one for one in there},
        [IPv4Network(one) for one in taken],
        (RANGE,),
        node,
        [ip_address(public)],
        [IPv4Network(former)] if former else (),
    )


def test_the_lease_that_the_node_held_before_whatever_its_address_is_now() -> None:
    mine = held("10.5.0.128/26", "192.0.2.77", "me")
    assert ask(held("10.5.0.64/26", "192.0.2.2", "other"), mine).held is mine


def test_the_lease_that_names_its_public_ip() -> None:
    flannels = held("10.5.0.128/26", "192.0.2.1")
    assert ask(flannels).held is flannels


def test_a_reservation_for_it_is_taken() -> None:
    reservation = held("10.5.0.192/26", "192.0.2.1", etcd_lease=0)
    assert ask(reservation, former="10.5.0.64/26").held is reservation


def test_its_own_lease_goes_before_a_reservation() -> None:
    mine = held("10.5.0.128/26", "192.0.2.77", "me")
    assert ask(held("10.5.0.64/26", "192.0.2.1", etcd_lease=0), mine).held is mine


def test_two_nodes_with_one_public_ip_are_told_apart() -> None:
    with pytest.raises(AllocationError) as error:
        ask(held("10.5.0.64/26", "192.0.2.1", "other"), held("10.5.0.128/26", "192.0.2.77", "me"))
    assert str(error.value) == (
        "public IP 192.0.2.1 belongs to another node: name-other (identity other) holds 10.5.0.64/26 with it;"
        " give each node its own public_ip. If that node no longer exists: overlayctl lease release 10.5.0.64/26"
    )


@pytest.mark.parametrize("subnet", ["10.6.0.0/26", "10.5.0.0/26", "10.5.0.128/25"])
def test_a_lease_that_does_not_fit_the_network_any_more_is_not_kept(subnet: str) -> None:
    assert ask(held(subnet, "192.0.2.1", "me")).held is None


def test_the_subnet_of_an_old_subnet_env() -> None:
    choice = ask(held("10.5.0.64/26", "192.0.2.2"), former="10.5.0.192/26")
    assert (choice.subnets, choice.held) == ((IPv4Network("10.5.0.192/26"),), None)


@pytest.mark.parametrize("former", ["10.5.0.0/26", "10.5.0.128/27", "10.6.0.0/26"])
def test_an_old_subnet_env_that_does_not_fit_is_passed_over(former: str) -> None:
    assert ask(former=former).subnets[0] in (RANGE[0], RANGE[1], RANGE[2])


@pytest.mark.parametrize("other", ["10.5.0.192/26", "10.5.0.192/27", "10.5.0.128/25"])
def test_an_old_subnet_env_whose_subnet_is_taken_is_passed_over(other: str) -> None:
    choice = ask(held(other, "192.0.2.2"), former="10.5.0.192/26")
    assert not choice.subnets[0].overlaps(IPv4Network(other))


def test_what_overlaps_or_is_held_by_a_value_without_sense_is_not_free() -> None:
    assert ask(held("10.5.0.64/27", "192.0.2.2"), taken=("10.5.0.128/26",)).subnets == (IPv4Network("10.5.0.192/26"),)


def test_an_exhausted_network_says_so_with_numbers() -> None:
    with pytest.raises(AllocationError) as error:
        ask(held("10.5.0.64/26"), held("10.5.0.128/26"), held("10.5.0.192/26", etcd_lease=0))
    assert str(error.value) == (
        "the network 10.5.0.0/24 is exhausted: all 3 subnets (/26) from 10.5.0.64 to 10.5.0.192 are taken, 2 by leases"
        " and 1 by reservations; release one (overlayctl lease release SUBNET), or widen the network"
    )


def test_both_families() -> None:
    choice = choose({}, (), DUAL, "me", [ip_address("192.0.2.1")])
    assert [one.check(subnet) for one, subnet in zip(DUAL, choice.subnets, strict=True)] == [None, None]
    alone = held("10.5.7.0/24", "192.0.2.1", "me")
    assert choose({"x": alone}, (), DUAL, "me", [ip_address("192.0.2.1")]).held is None, "it has no IPv6 subnet"


def test_the_search_begins_elsewhere_for_each_node_and_at_the_same_place_for_one() -> None:
    ranges = (SubnetRange.of(IPv4Network("10.5.0.0/16")),)
    chosen = [choose({}, (), ranges, f"node-{number}", [ip_address("192.0.2.1")]).subnets for number in range(20)]
    assert len(set(chosen)) > 15
    assert choose({}, (), ranges, "node-3", [ip_address("192.0.2.1")]).subnets == chosen[3]


@given(
    st.dictionaries(
        st.integers(0, 5),
        st.tuples(st.integers(1, 9), st.none() | st.integers(1, 9), st.sampled_from([0, 9])),
        max_size=5,
    ),
    st.integers(1, 9),
    st.integers(1, 9),
)
def test_whatever_is_there_a_choice_is_the_nodes_own_or_free(
    there: dict[int, tuple[int, int | None, int]], node: int, public: int
) -> None:
    one = SubnetRange.of(IPv4Network("10.5.0.0/25"), 28)  # seven subnets
    entries = {
        str(index): held(str(one[index]), f"192.0.2.{address}", str(owner) if owner else None, lease)
        for index, (address, owner, lease) in there.items()
    }
    try:
        choice = choose(entries, (), (one,), str(node), [ip_address(f"192.0.2.{public}")])
    except AllocationError:
        assert any(
            entry.host is not None and entry.host.id != str(node) and str(entry.lease.public_ip) == f"192.0.2.{public}"
            for entry in entries.values()
        )
        return
    if choice.held is None:
        assert choice.subnets[0] not in {entry.lease.subnet for entry in entries.values()}
        assert not [entry for entry in entries.values() if entry.host is not None and entry.host.id == str(node)]
    else:
        holder = choice.held.host
        assert holder is None or holder.id == str(node)
        assert holder is not None or str(choice.held.lease.public_ip) == f"192.0.2.{public}"
    assert one.check(choice.subnets[0]) is None


def test_the_former_subnet_of_the_node_itself_is_free_for_it() -> None:
    mine = replace(held("10.5.0.64/27", "192.0.2.1", "me"))  # of a length that the network does not have any more
    assert ask(mine, former="10.5.0.64/26").subnets == (IPv4Network("10.5.0.64/26"),)
