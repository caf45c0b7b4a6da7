"""What is flannel's on a host, and what it becomes."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

from overlayd.core.kernel.adoption import adoptable, given_back
from overlayd.core.kernel.diff import apply_to, diff
from overlayd.core.kernel.firewall import ForeignChain
from overlayd.core.kernel.flannel_rules import is_flannels, names, removal
from overlayd.core.kernel.kinds import (
    FdbEntry,
    KernelObject,
    LinkAddress,
    Neighbour,
    Route,
    TunLink,
    VxlanLink,
    state_of,
)

SUBNET, GATEWAY, PEER = ip_network("10.5.2.0/24"), ip_address("10.5.2.0"), ip_address("192.0.2.2")
MAC, ITS_MAC = "06:00:00:00:00:01", "06:00:00:00:00:02"
LOCAL = ip_address("192.0.2.1")


def vxlan(name: str, *, ours: bool) -> list[KernelObject]:
    return [
        VxlanLink(name, 1450, vni=1, port=8472, local=LOCAL, underlay=2, mac=MAC, ours=ours),
        LinkAddress(name, ip_interface("10.5.1.0/32")),
        Neighbour(name, GATEWAY, ITS_MAC),
        FdbEntry(name, ITS_MAC, PEER),
        Route(SUBNET, name, GATEWAY, onlink=True, own_link=True, ours=ours),
    ]


OURS = [*vxlan("ovl.1", ours=True), Route(ip_network("10.5.0.0/16"))]
FLANNELS = vxlan("flannel.1", ours=False)


def test_a_vxlan_device_and_its_routes_are_changed_in_place_and_nothing_else() -> None:
    foreign, desired = state_of(FLANNELS), state_of(OURS)
    found = adoptable(foreign, desired)
    assert found == foreign
    steps = diff(found, desired)
    assert [(step.verb, step.object) for step in steps] == [("change", OURS[0]), ("add", OURS[5]), ("change", OURS[4])]
    assert apply_to(found, steps) == desired


def test_what_a_stale_lease_left_on_the_device_goes() -> None:
    stale = Route(
        ip_network("10.5.9.0/24"), "flannel.1", ip_address("10.5.9.0"), onlink=True, own_link=True, ours=False
    )
    found = adoptable(state_of([*FLANNELS, stale]), state_of(OURS))
    gone = [step.object for step in diff(found, state_of(OURS)) if step.verb == "delete"]
    assert gone == [replace(stale, link="ovl.1")]


def test_others_devices_and_routes_are_not_taken() -> None:
    """Of another name, of another VNI; a route by another gateway."""
    device = FLANNELS[0]
    assert isinstance(device, VxlanLink)
    desired = state_of([*OURS, Route(ip_network("10.5.3.0/24"), "eth0", PEER)])
    for other in (replace(device, name="flannel.mine"), replace(device, name="flannel.7", vni=7)):
        assert adoptable(state_of([other]), desired) == {}
    same = Route(ip_network("10.5.3.0/24"), "eth0", PEER, ours=False)
    assert adoptable(state_of([same]), desired) == state_of([same])
    assert adoptable(state_of([replace(same, gateway=LOCAL)]), desired) == {}


def test_back_again() -> None:
    """udp's TUN and the unreachable route go; flannel has neither of them."""
    tun = [TunLink("ovl0", 1472), Route(ip_network("10.5.4.0/24"), "ovl0", own_link=True)]
    direct = Route(ip_network("10.5.3.0/24"), "eth0", PEER, mtu=1400)
    found = given_back(state_of([*OURS, *tun, direct]))
    assert found == state_of([*FLANNELS, replace(direct, mtu=None, ours=False)])
    six = VxlanLink("ovl6.7", 1430, vni=7, port=8472, local=ip_address("fd00::1"), underlay=2)
    assert given_back(state_of([six])) == state_of([replace(six, name="flannel-v6.7", ours=False)])


def test_flannels_rules_are_removed_and_the_jumps_to_them() -> None:
    nat = ForeignChain("ip", "nat", "FLANNEL-POSTRTG")
    own = ForeignChain("ip", "flannel-ipv4", "postrtg")
    assert all(is_flannels({"table": one.table, "name": one.chain}) for one in (nat, own))
    assert not is_flannels({"table": "nat", "name": "POSTROUTING"})
    assert names([nat, own, own]) == ["chain ip nat FLANNEL-POSTRTG", "table ip flannel-ipv4"]
    place = {"family": "ip", "table": "nat", "chain": "POSTROUTING", "handle": 7}
    other = {"rule": {**place, "handle": 8, "expr": [{"jump": {"target": "DOCKER"}}]}}
    jump = {"rule": {**place, "expr": [{"xt": None}, {"jump": {"target": "FLANNEL-POSTRTG"}}]}}
    chain = {"chain": {"family": "ip", "table": "nat", "name": "FLANNEL-POSTRTG"}}
    assert removal([nat, own], {("ip", "nat"): [other, jump], ("ip", "flannel-ipv4"): []}) == [
        {"delete": {"table": {"family": "ip", "name": "flannel-ipv4"}}},
        {"delete": {"rule": place}},
        {"flush": chain},
        {"delete": chain},
    ]
