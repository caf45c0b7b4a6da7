from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlayd.core.kernel.changes import KernelChanges
from overlayd.core.kernel.diff import apply_to, diff
from overlayd.core.kernel.kinds import FdbEntry, KernelObject, Key, LinkAddress, Neighbour, Route, VxlanLink, state_of

LINK = VxlanLink("ovl.1", 1450, vni=1, port=8472, local=ip_address("192.168.77.1"), underlay=2, mac="06:00:00:00:00:01")
ADDRESS = LinkAddress("ovl.1", ip_interface("10.5.1.0/32"))
NEIGHBOUR = Neighbour("ovl.1", ip_address("10.5.2.0"), "06:00:00:00:00:02")
FDB = FdbEntry("ovl.1", "06:00:00:00:00:02", ip_address("192.168.77.2"))
ROUTE = Route(ip_network("10.5.2.0/24"), "ovl.1", ip_address("10.5.2.0"), onlink=True, own_link=True)
DESIRED = state_of([LINK, ADDRESS, NEIGHBOUR, FDB, ROUTE])


def test_nothing_has_changed() -> None:
    assert not KernelChanges().needs_comparison(DESIRED)
    assert KernelChanges().differing(DESIRED) == ({}, {})


def test_what_is_as_desired_calls_for_nothing() -> None:
    """Such are overlayd's own changes."""
    changes = KernelChanges(
        objects={thing.key: thing for thing in (NEIGHBOUR, FDB, ROUTE)}, interfaces=[(LINK.key, LINK)]
    )
    assert not changes.needs_comparison(DESIRED)
    assert changes.differing(DESIRED) == ({}, {})


@pytest.mark.parametrize(
    "changes",
    [
        KernelChanges(overrun=True),
        KernelChanges(rules={4711}),
        KernelChanges(interfaces=[(LINK.key, None)]),
        KernelChanges(interfaces=[(LINK.key, replace(LINK, up=False)), (LINK.key, LINK)]),
        KernelChanges(interfaces=[(ADDRESS.key, None), (ADDRESS.key, ADDRESS)]),
        KernelChanges(foreign_routes={ROUTE.key}),
    ],
    ids=str,
)
def test_what_may_have_taken_more_along_calls_for_a_comparison(changes: KernelChanges) -> None:
    assert changes.needs_comparison(DESIRED)


def test_states_that_overlayd_led_interfaces_through_are_discarded() -> None:
    changes = KernelChanges(interfaces=[(LINK.key, replace(LINK, up=False)), (ADDRESS.key, None), (LINK.key, LINK)])
    changes.objects = {NEIGHBOUR.key: NEIGHBOUR, FDB.key: None}
    changes.rules = {1, 2}
    changes.discard_own(DESIRED, set(), lambda port: port == 1)
    assert changes.rules == {2}
    assert changes.interfaces == [(ADDRESS.key, None)]
    assert changes.objects == {FDB.key: None}


def test_nothing_is_left_of_what_overlayd_did_itself() -> None:
    changes = KernelChanges(objects={FDB.key: FDB}, interfaces=[(LINK.key, None), (LINK.key, LINK)], rules={1})
    changes.foreign_routes = {("route", ip_network("10.9.0.0/16"))}
    assert changes
    changes.discard_own(DESIRED, set(), lambda _: True)
    assert not changes
    for left in (
        KernelChanges(overrun=True),
        KernelChanges(underlay=True),
        KernelChanges(rules={1}),
        KernelChanges(foreign_routes={ROUTE.key}),
    ):
        left.discard_own(DESIRED, set(), lambda _: False)
        assert left


def test_a_device_that_the_kernel_makes_otherwise_is_not_made_for_ever_and_one_that_went_is_seen() -> None:
    for thing, left in ((replace(LINK, mtu=1400), []), (None, [(LINK.key, None)])):
        changes = KernelChanges(interfaces=[(LINK.key, thing)])
        changes.discard_own(DESIRED, {LINK.key}, lambda _: True)
        assert changes.interfaces == left


def test_others_routes_elsewhere_are_their_business() -> None:
    assert not KernelChanges(foreign_routes={("route", ip_network("10.9.0.0/16"))}).needs_comparison(DESIRED)


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
    objects: dict[Key, KernelObject | None] = {}
    for thing, there in heard:
        objects[thing.key] = thing if there else None
        if there:
            kernel[thing.key] = thing
        else:
            kernel.pop(thing.key, None)
    changes = KernelChanges(objects=objects)
    assert apply_to(kernel, diff(*changes.differing(DESIRED))) == DESIRED
