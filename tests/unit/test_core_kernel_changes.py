from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlayd.core.kernel.changes import Changes
from overlayd.core.kernel.diff import apply_to, diff
from overlayd.core.kernel.kinds import Address, FdbEntry, Key, Link, Neighbour, Route, state_of

LINK = Link("ovl.1", 1450, mac="06:00:00:00:00:01")
ADDRESS = Address("ovl.1", ip_interface("10.5.1.0/32"))
NEIGHBOUR = Neighbour("ovl.1", ip_address("10.5.2.0"), "06:00:00:00:00:02")
FDB = FdbEntry("ovl.1", "06:00:00:00:00:02", ip_address("192.168.77.2"))
ROUTE = Route(ip_network("10.5.2.0/24"), "ovl.1", ip_address("10.5.2.0"), onlink=True, own_link=True)
DESIRED = state_of([LINK, ADDRESS, NEIGHBOUR, FDB, ROUTE])


def test_nothing_has_changed() -> None:
    assert not Changes().wants_comparison(DESIRED)
    assert Changes().differing(DESIRED) == ({}, {})


def test_what_is_as_desired_calls_for_nothing() -> None:
    """Such are overlayd's own changes."""
    changes = Changes(objects={thing.key: thing for thing in (NEIGHBOUR, FDB, ROUTE)}, foundations=[(LINK.key, LINK)])
    assert not changes.wants_comparison(DESIRED)
    assert changes.differing(DESIRED) == ({}, {})


@pytest.mark.parametrize(
    "changes",
    [
        Changes(lost=True),
        Changes(rules={4711}),
        Changes(foundations=[(LINK.key, None)]),
        Changes(foundations=[(LINK.key, replace(LINK, up=False)), (LINK.key, LINK)]),
        Changes(foundations=[(ADDRESS.key, None), (ADDRESS.key, ADDRESS)]),
        Changes(others={ROUTE.key}),
    ],
    ids=str,
)
def test_what_may_have_taken_more_along_calls_for_a_comparison(changes: Changes) -> None:
    assert changes.wants_comparison(DESIRED)


def test_what_overlayd_led_through_other_states_is_settled() -> None:
    changes = Changes(foundations=[(LINK.key, replace(LINK, up=False)), (ADDRESS.key, None), (LINK.key, LINK)])
    changes.objects = {NEIGHBOUR.key: NEIGHBOUR, FDB.key: None}
    changes.rules = {1, 2}
    changes.settle(DESIRED, set(), lambda port: port == 1)
    assert changes.rules == {2}
    assert changes.foundations == [(ADDRESS.key, None)]
    assert changes.objects == {FDB.key: None}


def test_nothing_is_left_of_what_overlayd_did_itself() -> None:
    changes = Changes(objects={FDB.key: FDB}, foundations=[(LINK.key, None), (LINK.key, LINK)], rules={1})
    changes.others = {("route", ip_network("10.9.0.0/16"))}
    assert changes
    changes.settle(DESIRED, set(), lambda _: True)
    assert not changes
    for left in (Changes(lost=True), Changes(underlay=True), Changes(rules={1}), Changes(others={ROUTE.key})):
        left.settle(DESIRED, set(), lambda _: False)
        assert left


def test_a_device_that_the_kernel_makes_otherwise_is_not_made_for_ever_and_one_that_went_is_seen() -> None:
    for thing, left in ((replace(LINK, mtu=1400), []), (None, [(LINK.key, None)])):
        changes = Changes(foundations=[(LINK.key, thing)])
        changes.settle(DESIRED, {LINK.key}, lambda _: True)
        assert changes.foundations == left


def test_others_routes_elsewhere_are_their_business() -> None:
    assert not Changes(others={("route", ip_network("10.9.0.0/16"))}).wants_comparison(DESIRED)


OBJECTS = [
    NEIGHBOUR,
    replace(NEIGHBOUR, mac="06:00:00:00:00:99"),
    FDB,
    replace(FDB, vtep=ip_address("192.168.77.9")),
    ROUTE,
    replace(ROUTE, mtu=1300),
    replace(ROUTE, destination=ip_network("10.5.9.0/24")),
    replace(FDB, mac="06:00:00:00:00:99"),
]


@given(st.lists(st.tuples(st.sampled_from(OBJECTS), st.booleans())))
def test_whatever_is_heard_the_repair_leads_to_what_is_desired(heard: list[tuple[Route, bool]]) -> None:
    """The kernel is as it was heard to be; nothing else of it is known."""
    kernel = dict(DESIRED)
    objects: dict[Key, Route | Neighbour | FdbEntry | None] = {}
    for thing, there in heard:
        objects[thing.key] = thing if there else None
        if there:
            kernel[thing.key] = thing
        else:
            kernel.pop(thing.key, None)
    changes = Changes(objects=objects)
    assert apply_to(kernel, diff(*changes.differing(DESIRED))) == DESIRED
