from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from overlayd.core.kernel.firewall import port_element
from overlayd.core.kernel.kinds import (
    FdbEntry,
    KernelObject,
    LinkAddress,
    LocalnetRouting,
    Neighbour,
    Route,
    Ruleset,
    SetElement,
    TunLink,
    VxlanLink,
    differences,
    state_of,
)

LINK = VxlanLink(
    "flannel.1", 1450, vni=1, port=8472, local=ip_address("192.168.77.1"), underlay=2, mac="06:47:0f:9c:01:2a"
)
RULES = Ruleset("inet", "overlayd", None, ("forward: accept 1a2b",), "first definition")


PORT = port_element("tcp", None, 8080, ip_address("10.5.1.2"), 80)


@pytest.mark.parametrize(
    ("thing", "line"),
    [
        (TunLink("flannel0", 1472, txqueuelen=1000), "link flannel0 mtu 1472 up txqueuelen 1000 type tun"),
        (TunLink("flannel0", 1472, up=False), "link flannel0 mtu 1472 down type tun"),
        (
            LINK,
            "link flannel.1 mtu 1450 up address 06:47:0f:9c:01:2a"
            " type vxlan id 1 dstport 8472 local 192.168.77.1 dev #2 nolearning",
        ),
        (
            VxlanLink(
                "flannel.7",
                1430,
                vni=7,
                port=8472,
                local=ip_address("fd77::1"),
                underlay=2,
                learning=True,
                gbp=True,
            ),
            "link flannel.7 mtu 1430 up type vxlan id 7 dstport 8472 local fd77::1 dev #2 learning gbp",
        ),
        (LinkAddress("flannel.1", ip_interface("10.5.1.0/32")), "address 10.5.1.0/32 dev flannel.1"),
        (
            Neighbour("flannel.1", ip_address("10.5.2.0"), "06:47:0f:9c:01:2b"),
            "neigh 10.5.2.0 dev flannel.1 lladdr 06:47:0f:9c:01:2b nud permanent",
        ),
        (
            FdbEntry("flannel.1", "06:47:0f:9c:01:2b", ip_address("192.168.77.2")),
            "fdb 06:47:0f:9c:01:2b dev flannel.1 dst 192.168.77.2 self permanent",
        ),
        (
            Route(ip_network("10.5.2.0/24"), "flannel.1", ip_address("10.5.2.0"), onlink=True, own_link=True),
            "route 10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink",
        ),
        (Route(ip_network("10.5.0.0/16"), "flannel0", own_link=True), "route 10.5.0.0/16 dev flannel0"),
        (
            Route(ip_network("10.5.2.0/24"), "eth0", ip_address("fd77::2")),
            "route 10.5.2.0/24 via inet6 fd77::2 dev eth0",
        ),
        (Route(ip_network("10.5.0.0/16")), "route unreachable 10.5.0.0/16"),
        (RULES, "nft table inet overlayd, 1 rules"),
        (Ruleset("ip", "filter", "FORWARD", ()), "nft table ip filter chain FORWARD, 0 rules"),
        (
            SetElement("overlayd", "peers", ip_address("192.168.77.2")),
            "nft element inet overlayd peers { 192.168.77.2 }",
        ),
        (PORT, "nft element inet overlayd_ports ports4 { tcp . 8080 : 10.5.1.2 . 80 }"),
        (LocalnetRouting("ovlbr0"), "sysctl net.ipv4.conf.ovlbr0.route_localnet=1"),
    ],
)
def test_text_is_a_line_that_operators_know(thing: KernelObject, line: str) -> None:
    assert str(thing) == line


@pytest.mark.parametrize(
    ("thing", "parent"),
    [
        (LINK, None),
        (LinkAddress("flannel.1", ip_interface("10.5.1.0/32")), LINK),
        (Neighbour("flannel.1", ip_address("10.5.2.0"), "06:47:0f:9c:01:2b"), LINK),
        (FdbEntry("flannel.1", "06:47:0f:9c:01:2b", ip_address("192.168.77.2")), LINK),
        (Route(ip_network("10.5.2.0/24"), "flannel.1", own_link=True), LINK),
        (Route(ip_network("10.5.2.0/24"), "eth0"), None),
        (Route(ip_network("10.5.2.0/24")), None),
        (RULES, None),
        (SetElement("overlayd", "peers", ip_address("192.168.77.2")), RULES),
        (PORT, replace(RULES, table="overlayd_ports")),
        (LocalnetRouting("flannel.1"), LINK),
    ],
)
def test_parents(thing: KernelObject, parent: KernelObject | None) -> None:
    assert thing.parent == (parent.key if parent else None)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        # One MAC, one neighbour address, one destination: the kernel holds one entry of each.
        (FdbEntry("f", "06::", ip_address("192.168.77.2")), FdbEntry("f", "06::", ip_address("192.168.77.3")), True),
        (FdbEntry("f", "06::", ip_address("192.168.77.2")), FdbEntry("g", "06::", ip_address("192.168.77.2")), False),
        (Neighbour("f", ip_address("10.5.2.0"), "06::"), Neighbour("f", ip_address("10.5.2.0"), "08::"), True),
        (Route(ip_network("10.5.2.0/24"), "f"), Route(ip_network("10.5.2.0/24"), "g"), True),
        (Route(ip_network("10.5.2.0/24"), "f"), Route(ip_network("10.5.2.0/25"), "f"), False),
        (LinkAddress("f", ip_interface("10.5.1.0/32")), LinkAddress("f", ip_interface("10.5.1.0/24")), False),
        (LINK, TunLink("flannel.1", 1500), True),
        (RULES, Ruleset("inet", "overlayd", "forward", RULES.comments), False),
        (PORT, replace(PORT, target=ip_address("10.5.1.3"), target_port=81), True),
        (PORT, replace(PORT, protocol="udp"), False),
    ],
)
def test_identity(one: KernelObject, other: KernelObject, same: bool) -> None:
    assert (one.key == other.key) is same


def test_rulesets_are_compared_by_their_comments() -> None:
    assert replace(RULES, definition="the kernel's form") == RULES
    assert hash(replace(RULES, definition="the kernel's form")) == hash(RULES)
    assert replace(RULES, comments=("forward: accept 3c4d",)) != RULES
    assert replace(RULES, table="other") != RULES
    assert RULES != "nft"


def test_state_of() -> None:
    route = Route(ip_network("10.5.2.0/24"), "eth0", ip_address("192.168.77.2"))
    assert state_of([LINK, route, LINK]) == {LINK.key: LINK, route.key: route}
    with pytest.raises(ValueError, match="two claims") as caught:
        state_of([route, replace(route, gateway=ip_address("192.168.77.3"))])
    assert str(caught.value) == (
        "two claims on one kernel object:"
        " route 10.5.2.0/24 via 192.168.77.2 dev eth0 and route 10.5.2.0/24 via 192.168.77.3 dev eth0"
    )


@pytest.mark.parametrize(
    ("actual", "wanted", "texts"),
    [
        (LINK, LINK, []),
        (replace(LINK, mtu=1400), LINK, ["mtu is 1400, want 1450"]),
        (
            replace(LINK, up=False, mac="06:00:00:00:00:01"),
            LINK,
            ["up is False, want True", "mac is 06:00:00:00:00:01, want 06:47:0f:9c:01:2a"],
        ),
        (
            replace(LINK, port=4789, local=ip_address("192.168.77.9")),
            LINK,
            ["port is 4789, want 8472", "local is 192.168.77.9, want 192.168.77.1"],
        ),
        (
            FdbEntry("flannel.1", "06::", ip_address("192.168.77.2")),
            FdbEntry("flannel.1", "06::", ip_address("192.168.77.3")),
            ["vtep is 192.168.77.2, want 192.168.77.3"],
        ),
        (
            Route(ip_network("10.5.2.0/24"), "eth0", ip_address("192.168.77.2")),
            Route(ip_network("10.5.2.0/24"), "flannel.1", ip_address("10.5.2.0"), onlink=True, own_link=True),
            [
                "link is eth0, want flannel.1",
                "gateway is 192.168.77.2, want 10.5.2.0",
                "onlink is False, want True",
                "own_link is False, want True",
            ],
        ),
        (replace(RULES, definition="the kernel's form"), RULES, []),
        (replace(RULES, comments=()), RULES, ["comments: 1 missing (forward: accept 1a2b)"]),
        (
            replace(RULES, comments=("theirs", *map(str, range(50)))),
            replace(RULES, comments=tuple(map(str, range(3, 100)))),
            ["comments: 50 missing (50, 51, ...), 4 unexpected (theirs, 0, ...)"],
        ),
        (replace(RULES, comments=("a", "b")), replace(RULES, comments=("b", "a")), ["comments: in another order"]),
    ],
)
def test_a_mismatch_names_field_and_values(actual: KernelObject, wanted: KernelObject, texts: list[str]) -> None:
    assert differences(actual, wanted) == texts


def test_another_kind_of_device_is_a_mismatch_with_both_values() -> None:
    [text] = differences(TunLink("flannel.1", 1450), LINK)
    assert text == f"it is link flannel.1 mtu 1450 up type tun, want {LINK}"
