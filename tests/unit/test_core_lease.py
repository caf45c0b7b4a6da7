from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlayd.core.leases.lease import Lease
from overlayd.core.leases.table import LeaseEvent, LeaseTable
from overlayd.wire.mac import derive_mac

V4, V6 = IPv4Network("10.5.52.0/24"), IPv6Network("fc00:0:0:34::/64")
ONE, OTHER = IPv4Address("192.168.77.1"), IPv4Address("192.168.77.2")


def leases() -> st.SearchStrategy[Lease]:
    """Leases of few subnets and few hosts, so that two tables share some, differ in some and lack some."""
    subnets_v4 = st.sampled_from([IPv4Network(f"10.5.{number}.0/24") for number in range(4)])
    subnets_v6 = st.sampled_from([IPv6Network(f"fc00:0:0:{number}::/64") for number in range(2)])
    common = {
        "public_ip": st.sampled_from((None, ONE, OTHER)),
        "public_ipv6": st.sampled_from((None, IPv6Address("fd00::1"))),
        "written_mac": st.sampled_from((None, "06:47:0f:9c:01:2a")),
        "name": st.sampled_from(("", "alpha")),
    }
    return st.one_of(
        st.builds(Lease, subnet=subnets_v4, ipv6_subnet=st.one_of(st.none(), subnets_v6), **common),
        st.builds(Lease, ipv6_subnet=subnets_v6, **common),
    )


def snapshots() -> st.SearchStrategy[list[Lease]]:
    return st.lists(leases(), max_size=8, unique_by=lambda lease: lease.key)


# --- one lease --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lease", "key"),
    [
        (Lease(subnet=V4), "10.5.52.0-24"),
        (Lease(subnet=V4, ipv6_subnet=V6), "10.5.52.0-24&fc00:0:0:34::-64"),
        (Lease(ipv6_subnet=V6), "fc00:0:0:34::-64"),
    ],
)
def test_key_as_flannel_spells_it(lease: Lease, key: str) -> None:
    assert lease.key == key


def test_a_lease_needs_a_subnet() -> None:
    with pytest.raises(ValueError, match=r"^a lease needs a subnet of at least one family$"):
        Lease(public_ip=ONE)


def test_families() -> None:
    lease = Lease(subnet=V4, ipv6_subnet=V6, public_ip=ONE)
    assert (lease.subnets, lease.subnet_of(4), lease.subnet_of(6)) == ((V4, V6), V4, V6)
    assert (lease.public(4), lease.public(6)) == (ONE, None)
    assert Lease(ipv6_subnet=V6).subnets == (V6,)


def test_text() -> None:
    lease = Lease(subnet=V4, ipv6_subnet=V6, public_ip=ONE, public_ipv6=IPv6Address("fd00::1"))
    assert str(lease) == "10.5.52.0/24+fc00:0:0:34::/64@192.168.77.1/fd00::1"
    assert str(Lease(subnet=V4, public_ip=ONE)) == "10.5.52.0/24@192.168.77.1"


def test_vtep_mac_is_the_written_one() -> None:
    assert Lease(subnet=V4, written_mac="06:47:0f:9c:01:2a").vtep_mac == "06:47:0f:9c:01:2a"


def test_derived_vtep_mac_follows_the_subnets_and_nothing_else() -> None:
    """A host whose address or name changed keeps its MAC; a host with another subnet has another."""
    derived = Lease(subnet=V4, public_ip=ONE).vtep_mac
    assert derived == derive_mac("overlayd vtep 10.5.52.0-24")
    assert Lease(subnet=V4, public_ip=OTHER, name="alpha").vtep_mac == derived
    assert Lease(subnet=V4, ipv6_subnet=V6).vtep_mac != derived


def test_ten_thousand_leases_have_ten_thousand_macs() -> None:
    subnets = list(IPv4Network("10.0.0.0/8").subnets(new_prefix=24))[:10_000]
    assert len({Lease(subnet=subnet).vtep_mac for subnet in subnets}) == 10_000


# --- the table --------------------------------------------------------------------------------------------------------


def test_events() -> None:
    table = LeaseTable()
    old = Lease(subnet=V4, public_ip=ONE)
    [came] = table.replace([old])
    assert (came, came.kind, came.lease) == (LeaseEvent(None, old), "added", old)
    new = Lease(subnet=V4, public_ip=OTHER)
    [changed] = table.replace([new])
    assert (changed, changed.kind, changed.lease) == (LeaseEvent(old, new), "changed", new)
    assert table.replace([new]) == []
    [went] = table.replace([])
    assert (went, went.kind, went.lease) == (LeaseEvent(new, None), "removed", new)


def test_a_subnet_is_freed_before_it_is_taken_again() -> None:
    """A host that gains IPv6 has a new key: were its old lease removed last, its subnet would go with it."""
    table = LeaseTable()
    table.replace([Lease(subnet=V4)])
    events = table.replace([Lease(subnet=V4, ipv6_subnet=V6)])
    assert [event.kind for event in events] == ["removed", "added"]


@given(snapshots(), snapshots())
def test_events_lead_from_the_old_table_to_the_new(old: list[Lease], new: list[Lease]) -> None:
    table = LeaseTable()
    assert table.replace(old) == [LeaseEvent(None, lease) for lease in old]
    followed = {lease.key: lease for lease in old}
    events = table.replace(new)
    for event in events:
        assert event.old != event.new
        assert followed.pop(event.lease.key, None) == event.old
        if event.new is not None:
            followed[event.new.key] = event.new
    assert followed == {lease.key: lease for lease in new}
    assert {lease.key: lease for lease in table} == followed
    assert len(table) == len(new)
    assert all(table.get(lease.key) == lease for lease in new)
    kinds = [event.kind == "removed" for event in events]
    assert kinds == sorted(kinds, reverse=True), "removals first"


@given(snapshots(), leases())
def test_one_event_changes_one_lease(held: list[Lease], lease: Lease) -> None:
    table = LeaseTable()
    table.replace(held)
    expected = {one.key: one for one in held}
    old = expected.get(lease.key)
    assert table.apply({lease.key: lease}) == ([LeaseEvent(old, lease)] if old != lease else [])
    assert {one.key: one for one in table} == expected | {lease.key: lease}
    assert table.apply({lease.key: lease}) == [], "known already"
    assert table.apply({lease.key: None}) == [LeaseEvent(lease, None)]
    assert table.apply({lease.key: None}) == [], "gone already"
    expected.pop(lease.key, None)
    assert {one.key: one for one in table} == expected


@given(snapshots(), st.lists(snapshots(), max_size=3))
def test_public_addresses_are_known_as_long_as_a_lease_names_them(
    first: list[Lease], further: list[list[Lease]]
) -> None:
    """Whichever way a change comes."""
    by_snapshot, by_events = LeaseTable(), LeaseTable()
    for snapshot in (first, *further):
        by_events.apply({event.lease.key: event.new for event in by_snapshot.replace(snapshot)})
        assert set(by_events) == set(by_snapshot)
        named = {public for lease in by_snapshot for public in (lease.public_ip, lease.public_ipv6)}
        for lease in (*first, *(lease for other in further for lease in other)):
            for public in (lease.public_ip, lease.public_ipv6):
                if public is not None:
                    assert by_snapshot.is_public(public) == by_events.is_public(public) == (public in named)
