"""Bridges, ports and veth pairs: requests held against pyroute2's decoder, and what the kernel says of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from overlayd.core.kernel.kinds import BridgeLink, BridgePort, Interfaces, VethLink, VethPeer, link_of
from overlayd.wire.netlink import link as wire
from overlayd.wire.netlink.message import messages

MAC = "02:6f:0a:01:01:01"
BRIDGE = BridgeLink("ovlbr0", 1430, mac=MAC)
VETH = VethLink("ovl0123456789ab", 1430, peer=VethPeer("eth0", 7, 1430, "02:6f:0a:01:01:02"))
PORT = BridgePort(VETH.name, "ovlbr0")
INTERFACES = Interfaces({3: "eth0", 5: "ovlbr0", 9: VETH.name}, {5: "ovlbr0", 9: VETH.name})
INDEXES = {name: index for index, name in INTERFACES.names.items()}


def decoded(message: bytes) -> dict[str, Any]:
    found = ifinfmsg(message)
    found.decode()
    return {"index": found["index"], "flags": found["header"]["flags"], **named(found["attrs"])}


def named(attributes: Any) -> dict[str, Any]:
    return {
        name: named(value["attrs"]) if isinstance(value, dict) and "attrs" in value else value
        for name, value in attributes
    }


def split(packed: bytes) -> list[dict[str, Any]]:
    """The messages, which stand one after another."""
    found = []
    for *_, begin, end in messages(packed):
        found.append(decoded(packed[begin - 16 : end]))
    return found


def made(link: BridgeLink | VethLink) -> bytes:
    data = link.creation()
    assert data is not None
    return wire.add_link(link.name, link.driver, data, link.attributes(), 9)


def test_a_pair_is_made_in_one_message() -> None:
    found = decoded(made(VETH))
    assert (found["IFLA_IFNAME"], found["IFLA_MTU"]) == (VETH.name, 1430)
    info = found["IFLA_LINKINFO"]
    assert info["IFLA_INFO_KIND"] == "veth"
    peer = info["IFLA_INFO_DATA"]["VETH_INFO_PEER"]
    assert named(peer["attrs"] if "attrs" in peer else peer.items()) == {
        "IFLA_IFNAME": "eth0",
        "IFLA_NET_NS_FD": 7,
        "IFLA_MTU": 1430,
        "IFLA_ADDRESS": "02:6f:0a:01:01:02",
    }


def test_a_bridge_has_its_mac_from_the_beginning() -> None:
    found = decoded(made(BRIDGE))
    assert (found["IFLA_ADDRESS"], found["IFLA_LINKINFO"]["IFLA_INFO_KIND"]) == (MAC, "bridge")
    assert BRIDGE.attributes(BRIDGE) == b""
    assert BRIDGE.attributes(replace(BRIDGE, mac="02:00:00:00:00:01"))


@pytest.mark.parametrize("hairpin", [False, True])
def test_a_port_is_made_by_two_messages_and_one_acknowledgement(hairpin: bool) -> None:
    join, mode = split(replace(PORT, hairpin=hairpin).encode("add", INDEXES, 7))
    assert (join["index"], join["IFLA_MASTER"], join["flags"]) == (9, 5, 1)
    assert mode["flags"] == 5, "acknowledged"
    info = mode["IFLA_LINKINFO"]
    assert info["IFLA_INFO_SLAVE_KIND"] == "bridge"
    assert info["IFLA_INFO_SLAVE_DATA"]["IFLA_BRPORT_MODE"] == hairpin


def test_a_port_of_nothing() -> None:
    (found,) = split(PORT.encode("delete", INDEXES, 7))
    assert (found["index"], found["IFLA_MASTER"]) == (9, 0)
    with pytest.raises(KeyError):
        PORT.encode("add", {VETH.name: 9}, 7)


def entry(**fields: Any) -> wire.LinkEntry:
    return wire.LinkEntry(9, VETH.name, 1, 1430, wire.LINK_GROUP, driver="veth")._replace(**fields)


def test_what_the_kernel_says_of_a_port() -> None:
    assert BridgePort.of(entry(master=5), INTERFACES) == PORT
    assert BridgePort.of(entry(master=5, hairpin=True), INTERFACES) == replace(PORT, hairpin=True)
    assert BridgePort.of(entry(master=77), INTERFACES) == replace(PORT, bridge="#77")
    assert BridgePort.of(entry(), INTERFACES) is None
    assert BridgePort.of(entry(link=3, master=5), INTERFACES) is None, "another's device"


def test_what_the_kernel_says_of_devices() -> None:
    assert link_of(entry()) == VETH
    assert link_of(entry(flags=0)) == replace(VETH, up=False)
    bridge = wire.LinkEntry(5, "ovlbr0", 1, 1430, wire.LINK_GROUP, mac=MAC, driver="bridge")
    assert link_of(bridge) == BRIDGE
    assert bridge._replace(group=wire.CONDEMNED_GROUP).ours, "what was to be deleted when the daemon ended is found"
    assert not bridge._replace(group=0).ours


def test_a_condemned_group_goes_at_once() -> None:
    (found,) = split(wire.delete_group(wire.CONDEMNED_GROUP, 3))
    assert (found["index"], found["IFLA_GROUP"]) == (0, wire.CONDEMNED_GROUP)
