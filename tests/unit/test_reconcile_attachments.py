"""What attached containers want of the kernel, as lines of `ip`, and what becomes of it when one of them ends."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_interface
from typing import Any

from overlayd.backend.vxlan import VXLAN, VxlanSettings
from overlayd.core.attach.model import Attachment
from overlayd.core.attach.table import AttachmentTable
from overlayd.core.kernel.changes import KernelChanges
from overlayd.core.kernel.diff import apply_to, diff
from overlayd.core.kernel.kinds import BridgeLink, KernelState, VethPeer, state_of
from overlayd.core.kernel.provider import Surroundings
from overlayd.core.kernel.transient import without_lost
from overlayd.core.leases.lease import Lease
from overlayd.core.leases.subnets import SubnetRange
from overlayd.core.node import Node, Underlay
from overlayd.reconcile.attachments import Attachments, bridge_name

NODE = Node(
    VXLAN,
    VxlanSettings(),
    Lease(
        subnet=IPv4Network("10.1.1.0/24"),
        ipv6_subnet=IPv6Network("fd00:10:1:1::/64"),
        public_ip=IPv4Address("192.0.2.1"),
        public_ipv6=IPv6Address("fd00:192:0:2::1"),
    ),
    Underlay("eth0", 2, 1500, (), IPv4Address("192.0.2.1"), IPv6Address("fd00:192:0:2::1")),
    (SubnetRange.of(IPv4Network("10.1.0.0/16")), SubnetRange.of(IPv6Network("fd00:10:1::/48"))),
)


def attachment(number: int, **fields: Any) -> Attachment:
    made = Attachment(
        container=f"c{number}",
        interface="eth0",
        addresses=(ip_interface(f"10.1.1.{number}/24"), ip_interface(f"fd00:10:1:1::{number}/64")),
        mac=f"02:6f:0a:01:01:0{number}",
        mtu=1430,
        netns=f"/run/netns/c{number}",
        netns_id=number,
        ready=True,
    )
    return replace(made, **fields)


def desired(*attachments: Attachment) -> KernelState:
    return state_of(Attachments(NODE, AttachmentTable(attachments)).objects(Surroundings(())))


def lines(*attachments: Attachment) -> list[str]:
    found = [str(step) for step in diff({}, desired(*attachments))]
    for one in attachments:
        found = [line.replace(one.device, f"veth-{one.container}") for line in found]
    return found


def test_containers_on_the_bridge() -> None:
    assert lines(attachment(2), attachment(3)) == [
        "+ link veth-c2 mtu 1430 up type veth",
        "+ link ovlbr0 mtu 1430 up address 02:6f:0a:01:01:01 type bridge",
        "+ link veth-c3 mtu 1430 up type veth",
        "+ port veth-c2 master ovlbr0",
        "+ port veth-c3 master ovlbr0",
        "+ address 10.1.1.1/24 dev ovlbr0",
        "+ address fd00:10:1:1::1/64 dev ovlbr0",
        "+ neigh 10.1.1.2 dev ovlbr0 lladdr 02:6f:0a:01:01:02 nud permanent",
        "+ neigh fd00:10:1:1::2 dev ovlbr0 lladdr 02:6f:0a:01:01:02 nud permanent",
        "+ neigh 10.1.1.3 dev ovlbr0 lladdr 02:6f:0a:01:01:03 nud permanent",
        "+ neigh fd00:10:1:1::3 dev ovlbr0 lladdr 02:6f:0a:01:01:03 nud permanent",
    ]


def test_a_routed_container() -> None:
    assert lines(attachment(2, mode="routed")) == [
        "+ link veth-c2 mtu 1430 up type veth",
        "+ address 10.1.1.1/32 dev veth-c2",
        "+ address fd00:10:1:1::1/128 dev veth-c2",
        "+ neigh 10.1.1.2 dev veth-c2 lladdr 02:6f:0a:01:01:02 nud permanent",
        "+ neigh fd00:10:1:1::2 dev veth-c2 lladdr 02:6f:0a:01:01:02 nud permanent",
        "+ route 10.1.1.2/32 dev veth-c2",
        "+ route fd00:10:1:1::2/128 dev veth-c2",
    ]


def test_another_network_has_a_bridge_of_its_own_and_a_route_to_each_container() -> None:
    bridge = bridge_name("blue")
    assert bridge != bridge_name("green")
    assert len(bridge) == 15
    found = lines(attachment(2, network="blue"))
    assert f"+ address 10.1.1.1/32 dev {bridge}" in found
    assert f"+ route 10.1.1.2/32 dev {bridge}" in found
    assert f"+ port veth-c2 master {bridge}" in found


def test_addresses_of_a_lost_lease_lead_nowhere() -> None:
    old = attachment(2, addresses=(ip_interface("10.1.9.2/24"),), mode="routed")
    assert not [line for line in lines(old) if "10.1.9.2" in line]


def test_a_host_end_is_desired_while_it_is_there() -> None:
    one, two = attachment(2), attachment(3)
    everything = desired(one, two)
    there = {key: thing for key, thing in everything.items() if key != ("link", two.device)}
    still, lost = without_lost(everything, there)
    assert lost == {("link", two.device)}
    assert ("port", two.device) not in still
    assert ("port", one.device) in still
    assert apply_to(there, diff(there, still)) == still
    other = {**everything, ("link", two.device): BridgeLink(two.device, 1430, mac="02:00:00:00:00:01")}
    assert without_lost(everything, other)[1] == {("link", two.device)}, "another driver's device"


def test_a_host_end_that_goes_is_no_damage() -> None:
    one = attachment(2)
    state = desired(one)
    key, changes = ("link", one.device), KernelChanges()
    changes.interfaces += [(key, replace(state[key], up=False)), (key, None)]  # type: ignore[type-var]
    changes.objects["port", one.device] = None
    assert changes.take_lost(state) == {key}
    assert not changes.needs_comparison(state)
    changes.interfaces.append((("link", "ovlbr0"), None))
    assert changes.take_lost(state) == set()
    assert changes.needs_comparison(state), "a bridge is made again"


def test_a_pair_is_made_with_its_other_end_which_is_not_compared() -> None:
    one = attachment(2)
    peer = VethPeer("eth0", 7, 1430, one.mac)
    provider = Attachments(NODE, AttachmentTable())
    made = state_of(provider.of([one], {one.device: peer}))
    assert made == desired(one)
