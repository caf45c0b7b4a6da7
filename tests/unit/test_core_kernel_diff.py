from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlayd.core.kernel.diff import Operation, _renamed, apply_to, diff
from overlayd.core.kernel.kinds import (
    FdbEntry,
    KernelObject,
    KernelState,
    Link,
    LinkAddress,
    Neighbour,
    Route,
    Ruleset,
    SetElement,
    TunLink,
    VxlanLink,
    state_of,
)

LINK = VxlanLink(
    "flannel.1", 1450, vni=1, port=8472, local=ip_address("192.168.77.1"), underlay=2, mac="06:00:00:00:00:01"
)
TUN = TunLink("flannel0", 1472)
ADDRESS = LinkAddress("flannel.1", ip_interface("10.5.1.0/32"))
NEIGHBOUR = Neighbour("flannel.1", ip_address("10.5.2.0"), "06:00:00:00:00:02")
FDB = FdbEntry("flannel.1", "06:00:00:00:00:02", ip_address("192.168.77.2"))
ROUTE = Route(ip_network("10.5.2.0/24"), "flannel.1", ip_address("10.5.2.0"), onlink=True, own_link=True)
FALLBACK = Route(ip_network("10.5.0.0/16"))
TABLE = Ruleset("inet", "overlayd", None, ("forward: accept 1a2b",), "the whole table")
FOREIGN = Ruleset("ip", "filter", "FORWARD", ("accept 3c4d",), "two rules")
ELEMENT = SetElement("overlayd", "peers", ip_address("192.168.77.2"))
EVERYTHING = (ROUTE, ELEMENT, FDB, FALLBACK, NEIGHBOUR, TABLE, ADDRESS, FOREIGN, LINK)
"""In no useful order."""

BY_RANK = (Link, LinkAddress, Ruleset, SetElement, Neighbour, FdbEntry, Route)


def lines(actual: tuple[KernelObject, ...], desired: tuple[KernelObject, ...]) -> list[str]:
    return [str(step) for step in diff(state_of(actual), state_of(desired))]


# --- the order --------------------------------------------------------------------------------------------------------


def test_all_new() -> None:
    assert lines((), EVERYTHING) == [
        "+ link flannel.1 mtu 1450 up address 06:00:00:00:00:01"
        " type vxlan id 1 dstport 8472 local 192.168.77.1 dev #2 nolearning",
        "+ address 10.5.1.0/32 dev flannel.1",
        "+ nft table inet overlayd, 1 rules",
        "+ nft table ip filter chain FORWARD, 1 rules",
        "+ nft element inet overlayd peers { 192.168.77.2 }",
        "+ neigh 10.5.2.0 dev flannel.1 lladdr 06:00:00:00:00:02 nud permanent",
        "+ fdb 06:00:00:00:00:02 dev flannel.1 dst 192.168.77.2 self permanent",
        "+ route 10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink",
        "+ route unreachable 10.5.0.0/16",
    ]


def test_all_gone() -> None:
    """What hangs on a link or a table goes with it."""
    assert lines(EVERYTHING, ()) == [
        "- route unreachable 10.5.0.0/16",
        "- nft table inet overlayd, 1 rules",
        "- nft table ip filter chain FORWARD, 1 rules",
        "- link flannel.1 mtu 1450 up address 06:00:00:00:00:01"
        " type vxlan id 1 dstport 8472 local 192.168.77.1 dev #2 nolearning",
    ]


def test_a_lease_went() -> None:
    """Only that lease's objects are given: their link is in neither state."""
    assert lines((NEIGHBOUR, FDB, ROUTE, ELEMENT), ()) == [f"- {thing}" for thing in (ROUTE, FDB, NEIGHBOUR, ELEMENT)]


def test_a_lease_came() -> None:
    assert lines((), (ROUTE, FDB, NEIGHBOUR, ELEMENT)) == [f"+ {thing}" for thing in (ELEMENT, NEIGHBOUR, FDB, ROUTE)]


def test_new_stands_before_old_goes() -> None:
    """A peer with a new MAC: the route stays, the neighbour changes, the old FDB entry goes last."""
    mac = "06:00:00:00:00:99"
    moved = (LINK, replace(NEIGHBOUR, mac=mac), replace(FDB, mac=mac), ROUTE)
    assert lines((LINK, NEIGHBOUR, FDB, ROUTE), moved) == [
        "~ neigh 10.5.2.0 dev flannel.1 lladdr 06:00:00:00:00:99 nud permanent",
        "+ fdb 06:00:00:00:00:99 dev flannel.1 dst 192.168.77.2 self permanent",
        "- fdb 06:00:00:00:00:02 dev flannel.1 dst 192.168.77.2 self permanent",
    ]


# --- what makes a device anew -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "link",
    [
        replace(LINK, mtu=1400),
        replace(LINK, up=False),
        replace(LINK, mac="06:00:00:00:00:07"),
        replace(LINK, learning=True),
    ],
)
def test_what_the_kernel_can_change_in_place(link: Link) -> None:
    assert diff(state_of([link, ADDRESS]), state_of([LINK, ADDRESS])) == [Operation("change", LINK, link)]


@pytest.mark.parametrize(
    "old",
    [
        TunLink(LINK.name, LINK.mtu),
        Link(LINK.name, LINK.mtu),
        replace(LINK, vni=2),
        replace(LINK, port=4789),
        replace(LINK, local=ip_address("192.168.77.9")),
        replace(LINK, underlay=3),
        replace(LINK, gbp=True),
        replace(LINK, gbp=True, learning=True),
    ],
)
def test_what_needs_a_new_device(old: Link) -> None:
    things = (ADDRESS, NEIGHBOUR, FDB, ROUTE)
    assert diff(state_of([old, FALLBACK, *things]), state_of([LINK, FALLBACK, *things])) == [
        Operation("delete", old),
        *(Operation("add", thing) for thing in (LINK, *things)),
    ]


def test_a_device_that_somebody_renamed_gets_its_name_back_with_all_that_hangs_on_it() -> None:
    renamed = replace(LINK, name="theirs")
    other = replace(LINK, name="ovl6.1", local=ip_address("2001:db8::1"))
    actual = state_of([renamed, other, replace(NEIGHBOUR, link="theirs"), replace(ROUTE, link="theirs")])
    desired = state_of([LINK, NEIGHBOUR, ROUTE])
    steps = diff(actual, desired)
    assert [(step.verb, step.object, step.old) for step in steps] == [
        ("change", LINK, renamed), ("delete", other, None)
    ]  # fmt: skip
    assert str(steps[0]) == f"~ {LINK} (was theirs)"
    assert apply_to(actual, steps) == desired


def test_a_renamed_device_that_cannot_be_changed_in_place_makes_way() -> None:
    renamed = replace(LINK, name="theirs", gbp=True)
    steps = diff(state_of([renamed, replace(NEIGHBOUR, link="theirs")]), state_of([LINK, NEIGHBOUR]))
    assert [(step.verb, step.object) for step in steps] == [("delete", renamed), ("add", LINK), ("add", NEIGHBOUR)]


def test_a_tun_stays_what_it_is() -> None:
    assert lines((TUN,), (replace(TUN, mtu=1400, txqueuelen=500),)) == [
        "~ link flannel0 mtu 1400 up txqueuelen 500 type tun"
    ]


def test_what_was_on_the_old_device_and_is_not_wanted_needs_no_step() -> None:
    old = replace(LINK, vni=2)
    assert diff(state_of([old, NEIGHBOUR]), state_of([LINK])) == [Operation("delete", old), Operation("add", LINK)]


def test_a_route_moves_from_a_device_that_goes() -> None:
    on_tun = Route(ROUTE.destination, "flannel0", own_link=True)
    assert diff(state_of([TUN, on_tun]), state_of([LINK, ROUTE])) == [
        Operation("add", LINK),
        Operation("change", ROUTE, on_tun),
        Operation("delete", TUN),
    ]


def test_a_route_moves_from_a_device_that_stays_to_one_made_anew() -> None:
    """The route is there all the while: it is changed, not added."""
    old = replace(LINK, vni=2)
    on_underlay = Route(ROUTE.destination, "eth0", ip_address("192.168.77.2"))
    assert diff(state_of([old, on_underlay]), state_of([LINK, ROUTE])) == [
        Operation("delete", old),
        Operation("add", LINK),
        Operation("change", ROUTE, on_underlay),
    ]


def test_a_route_moves_from_a_device_made_anew_to_one_that_stays() -> None:
    """The route went with the device: it is added, not changed."""
    old = replace(LINK, vni=2)
    on_underlay = Route(ROUTE.destination, "eth0", ip_address("192.168.77.2"))
    assert diff(state_of([old, ROUTE]), state_of([LINK, on_underlay])) == [
        Operation("delete", old),
        Operation("add", LINK),
        Operation("add", on_underlay),
    ]


def test_an_ipv6_route_that_would_hold_its_own_gateway_up_makes_way_first() -> None:
    """The kernel takes no gateway as on-link that another device has a route to."""
    subnet, vtep = ip_network("fd00:10:1:2::/64"), ip_address("fd00:10:1:2::")
    wanted = Route(subnet, LINK.name, vtep, onlink=True, own_link=True)
    for old in (Route(subnet, TUN.name, own_link=True), Route(subnet, "eth0", ip_address("2001:db8::2"))):
        assert diff(state_of([old]), state_of([wanted])) == [Operation("delete", old), Operation("add", wanted)]
    for old in (Route(subnet), replace(wanted, onlink=False)):
        assert diff(state_of([old]), state_of([wanted])) == [Operation("change", wanted)]


def test_a_changed_table_of_rules_is_written_as_a_whole() -> None:
    """Its elements go with the old one: those that are wanted are added, the others need no step."""
    new = replace(TABLE, comments=("forward: accept 5e6f",))
    unwanted = replace(ELEMENT, address=ip_address("192.168.77.9"))
    assert diff(state_of([TABLE, ELEMENT, unwanted]), state_of([new, ELEMENT])) == [
        Operation("change", new, TABLE),
        Operation("add", ELEMENT),
    ]


def test_changed_rules_in_a_foreign_chain_disturb_nothing_else() -> None:
    new = replace(FOREIGN, comments=("accept 5e6f",))
    assert diff(state_of([FOREIGN, TABLE, ELEMENT]), state_of([new, TABLE, ELEMENT])) == [
        Operation("change", new, FOREIGN)
    ]


def test_rules_of_the_same_comments_need_no_step() -> None:
    assert diff(state_of([replace(TABLE, definition="the kernel's form")]), state_of([TABLE])) == []


# --- the model of the kernel ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("there", "step", "text"),
    [
        ([TUN], Operation("add", TUN), "+ link flannel0 mtu 1472 up type tun: already there"),
        ([], Operation("change", TUN, TUN), "~ link flannel0 mtu 1472 up type tun: not there"),
        ([], Operation("delete", TUN), "- link flannel0 mtu 1472 up type tun: not there"),
    ],
)
def test_what_the_kernel_refuses(there: list[KernelObject], step: Operation, text: str) -> None:
    with pytest.raises(ValueError, match=r"there$") as caught:
        apply_to(state_of(there), [step])
    assert str(caught.value) == text


def test_a_device_takes_its_children_along_and_only_those() -> None:
    state = state_of([TUN, *EVERYTHING])
    left = apply_to(state, [Operation("delete", LINK)])
    assert left == state_of([TUN, FALLBACK, TABLE, FOREIGN, ELEMENT])
    assert len(state) == len(EVERYTHING) + 1, "the given state is left alone"


# --- any state to any other -------------------------------------------------------------------------------------------

NAMES = ("flannel.1", "flannel0")
MACS = ("06:00:00:00:00:02", "06:00:00:00:00:03")
PEERS = tuple(ip_address(f"192.168.77.{number}") for number in (2, 3))
BASES = tuple(ip_address(f"10.5.{number}.0") for number in (2, 3))


def links(name: str) -> st.SearchStrategy[Link]:
    """A TUN, a VXLAN device, or one of another driver."""
    mtu, up = st.sampled_from((1400, 1450)), st.booleans()
    vxlan = st.builds(
        VxlanLink,
        name=st.just(name),
        mtu=mtu,
        up=up,
        vni=st.sampled_from((1, 2)),
        port=st.just(8472),
        local=st.just(LINK.local),
        underlay=st.just(2),
        mac=st.sampled_from((None, MACS[0])),
        learning=st.booleans(),
        gbp=st.booleans(),
    )
    tun = st.builds(TunLink, name=st.just(name), mtu=mtu, up=up, txqueuelen=st.sampled_from((None, 500)))
    return st.one_of(vxlan, vxlan, tun, st.builds(Link, st.just(name), mtu, up))


def subsets(things: st.SearchStrategy[KernelObject]) -> st.SearchStrategy[list[KernelObject]]:
    return st.lists(things, max_size=3, unique_by=lambda thing: thing.key)


@st.composite
def states(draw: st.DrawFn) -> KernelState:
    """Any consistent state over a small world: what hangs on a link or a table of ours has it."""
    things: list[KernelObject] = []
    names = [name for name in NAMES if draw(st.booleans())]
    things += [draw(links(name)) for name in names]
    if names:
        dev = st.sampled_from(names)
        interfaces = st.sampled_from([ip_interface("10.5.1.0/32"), ip_interface("fd05::/128")])
        things += draw(subsets(st.builds(LinkAddress, dev, interfaces)))
        things += draw(subsets(st.builds(Neighbour, dev, st.sampled_from(BASES), st.sampled_from(MACS))))
        things += draw(subsets(st.builds(FdbEntry, dev, st.sampled_from(MACS), st.sampled_from(PEERS))))
    for destination in (ip_network("10.5.2.0/24"), ip_network("10.5.3.0/24"), ip_network("10.5.0.0/16")):
        device = draw(st.sampled_from((*names, "eth0", "unreachable", "absent")))
        if device in names:
            things.append(Route(destination, device, draw(st.sampled_from(BASES)), onlink=True, own_link=True))
        elif device == "eth0":
            things.append(Route(destination, device, draw(st.sampled_from(PEERS))))
        elif device == "unreachable":
            things.append(Route(destination))
    definitions = st.sampled_from(("desired", "the kernel's form"))
    comments = st.sampled_from((("one 1a",), ("one 1b",), ("one 1a", "two 2a")))
    if draw(st.booleans()):
        things.append(Ruleset("inet", "overlayd", None, draw(comments), draw(definitions)))
        things += draw(subsets(st.builds(SetElement, st.just("overlayd"), st.just("peers"), st.sampled_from(PEERS))))
    if draw(st.booleans()):
        things.append(Ruleset("ip", "filter", "FORWARD", draw(comments), draw(definitions)))
    return state_of(draw(st.permutations(things)))


@settings(max_examples=300)
@given(states(), states())
def test_operations_lead_from_any_state_to_any_other(actual: KernelState, desired: KernelState) -> None:
    before = dict(actual)
    assert apply_to(actual, diff(actual, desired)) == desired
    assert actual == before


@settings(max_examples=300)
@given(states(), states())
def test_every_step_finds_its_foundation(actual: KernelState, desired: KernelState) -> None:
    state = actual
    for step in diff(actual, desired):
        state = apply_to(state, [step])
        if step.verb != "delete" and step.object.parent is not None:
            assert step.object.parent in state, f"{step} before what it hangs on"


@given(states())
def test_nothing_is_done_where_all_is_well(state: KernelState) -> None:
    assert diff(state, dict(reversed(state.items()))) == []


def makes_way(step: Operation, desired: KernelState) -> bool:
    """An address goes from a device that stays."""
    return step.verb == "delete" and isinstance(step.object, LinkAddress) and step.object.parent in desired


def in_the_way(step: Operation, actual: KernelState, desired: KernelState) -> bool:
    """A device goes so that it, or one of another name that the kernel takes for the same, can be made."""
    made = [one for key, one in desired.items() if isinstance(one, VxlanLink) and key not in actual]
    same = [(one.vni, one.port, one.local.version) for one in made]
    gone = step.object
    return gone.key in desired or (isinstance(gone, VxlanLink) and (gone.vni, gone.port, gone.local.version) in same)


@settings(max_examples=300)
@given(states(), states())
def test_order(actual: KernelState, desired: KernelState) -> None:
    """Deletions for what is made anew, then additions and changes from the foundations up, then deletions from the top.

    Only an address makes way sooner, after its successor and before any route (the next test).
    """
    steps = [step for step in diff(actual, desired) if not makes_way(step, desired)]
    stages = [1 if step.verb != "delete" else 0 if in_the_way(step, actual, desired) else 2 for step in steps]
    assert stages == sorted(stages)
    ranks = [next(rank for rank, kind in enumerate(BY_RANK) if isinstance(step.object, kind)) for step in steps]
    built = [rank for rank, stage in zip(ranks, stages, strict=True) if stage == 1]
    removed = [rank for rank, stage in zip(ranks, stages, strict=True) if stage == 2]
    assert built == sorted(built)
    assert removed == sorted(removed, reverse=True)
    assert all(isinstance(step.object, Link) for step, stage in zip(steps, stages, strict=True) if stage == 0)


@settings(max_examples=300)
@given(states(), states())
def test_nothing_is_touched_without_need(actual: KernelState, desired: KernelState) -> None:
    steps, under_new_names = diff(actual, desired), _renamed(actual, desired)
    rebuilt = {step.object.key for step in steps if step.verb == "delete" and step.object.key in desired}
    for key in rebuilt:
        one, other = actual[key], desired[key]
        if isinstance(one, VxlanLink) and isinstance(other, VxlanLink):
            assert (one.vni, one.port, one.local, one.underlay, one.gbp) != (
                other.vni, other.port, other.local, other.underlay, other.gbp
            )  # fmt: skip
        else:
            assert type(one) is not type(other)
    rewritten = {step.object.key for step in steps if step.verb == "change" and step.object.key == TABLE.key}
    readdressed = {
        step.object.key
        for step in steps
        if isinstance(step.object, VxlanLink)
        and step.verb == "change"
        and step.object.mac != getattr(step.old, "mac", None)
    }
    for step in steps:
        key = step.object.key
        if key in desired and actual.get(key) == desired[key]:
            parent = desired[key].parent
            forgotten = parent in readdressed and isinstance(step.object, Neighbour)
            assert parent in rebuilt | rewritten or forgotten, f"{step}, and nothing differs"
        if step.verb == "change":
            assert step.old is not None
            there = actual.get(step.old.key), under_new_names.get(step.old.key)
            assert step.old in there, "as it is, or as the kernel shows it once its device is renamed"
            assert step.object == desired[key]
    touched = [(step.object.key, step.verb) for step in steps]
    assert len(touched) == len(set(touched))


def test_a_new_mac_costs_the_device_its_neighbours_which_come_back_at_once() -> None:
    """The kernel forgets even permanent neighbours of a device whose MAC changes."""
    old = replace(LINK, mac="06:00:00:00:00:01")
    hangs_on_it = [Neighbour(LINK.name, ip_address("10.5.2.0"), "06:00:00:00:00:02")]
    steps = diff(state_of([old, *hangs_on_it]), state_of([replace(old, mac="06:00:00:00:00:03"), *hangs_on_it]))
    assert [(step.verb, step.object.key[0]) for step in steps] == [("change", "link"), ("add", "neighbour")]


@settings(max_examples=300)
@given(states(), states())
def test_an_address_makes_way_for_routes_and_never_before_its_successor(
    actual: KernelState, desired: KernelState
) -> None:
    """A gateway may not be an address of the host itself, and a device without addresses has no routes."""
    steps = diff(actual, desired)
    for place, step in enumerate(steps):
        if makes_way(step, desired):
            later = [one.object for one in steps[place:] if one.verb != "delete"]
            assert not any(isinstance(thing, Link | LinkAddress) for thing in later)
            assert not any(isinstance(one.object, Route) for one in steps[:place] if one.verb != "delete")
