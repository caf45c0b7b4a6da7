"""What published ports want of the kernel."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_interface, ip_network
from types import SimpleNamespace
from typing import Any

import pytest

from overlayd.core.attach.errors import AttachError
from overlayd.core.attach.model import Attachment
from overlayd.core.attach.publish import parse_published
from overlayd.core.attach.table import AttachmentTable
from overlayd.core.kernel.diff import diff
from overlayd.core.kernel.kinds import state_of
from overlayd.core.leases.lease import Lease
from overlayd.reconcile.ports import Ports

NETWORKS = (ip_network("10.1.0.0/16"), ip_network("fd00:10:1::/48"))
LEASE = Lease(subnet=ip_network("10.1.1.0/24"), ipv6_subnet=ip_network("fd00:10:1:1::/64"))
RANGES = [SimpleNamespace(network=one) for one in NETWORKS]
NODE: Any = SimpleNamespace(ranges=RANGES, lease=LEASE, families=(4, 6))
NODE_4: Any = SimpleNamespace(ranges=RANGES, lease=replace(LEASE, ipv6_subnet=None), families=(4,))


def attachment(number: int, *words: str, **fields: Any) -> Attachment:
    return Attachment(
        container=f"c{number}",
        interface="eth0",
        addresses=(ip_interface(f"10.1.1.{number}/24"), ip_interface(f"fd00:10:1:1::{number}/64")),
        mac="02:6f:0a:01:01:02",
        mtu=1450,
        netns=f"/run/netns/c{number}",
        netns_id=number,
        ports=tuple(port for word in words for port in parse_published(word)),
        **fields,
    )


def wanted(*attachments: Attachment, node: Any = NODE) -> list[str]:
    return [str(one) for one in Ports(node, AttachmentTable(attachments)).objects(None)]  # type: ignore[arg-type]


def test_nothing_without_a_published_port() -> None:
    assert wanted() == []
    assert wanted(attachment(2)) == []


def test_a_table_an_element_for_each_family_and_answers_to_the_loopback_address() -> None:
    table, *rest = wanted(attachment(2, "8080:80"), attachment(3), attachment(4, "53:53/udp", network="blue"))
    assert table.startswith("nft table inet overlayd_ports, ")
    assert rest == [
        "sysctl net.ipv4.conf.ovlbr0.route_localnet=1",
        "nft element inet overlayd_ports ports4 { tcp . 8080 : 10.1.1.2 . 80 }",
        "nft element inet overlayd_ports ports6 { tcp . 8080 : fd00:10:1:1::2 . 80 }",
        "sysctl net.ipv4.conf.ovlbr16477688c0.route_localnet=1",
        "nft element inet overlayd_ports ports4 { udp . 53 : 10.1.1.4 . 53 }",
        "nft element inet overlayd_ports ports6 { udp . 53 : fd00:10:1:1::4 . 53 }",
    ]


def test_a_routed_container_is_answered_by_its_own_device() -> None:
    routed = attachment(2, "8080:80", mode="routed")
    assert f"sysctl net.ipv4.conf.{routed.device}.route_localnet=1" in wanted(routed)


def test_a_family_that_the_host_has_lost_is_left_out() -> None:
    assert not any("ports6" in text for text in wanted(attachment(2, "8080:80"), node=NODE_4))


def test_the_rules_come_before_what_they_guard_and_go_after_it() -> None:
    state = state_of(Ports(NODE, AttachmentTable()).of([attachment(2, "8080:80")]))
    made = [step.object.key[0] for step in diff({}, state)]
    assert made == ["ruleset", "published", "published", "localnet"]
    gone = [step.object.key[0] for step in diff(state, {})]
    assert gone == ["localnet", "published", "published", "ruleset"]


def test_a_port_that_leads_elsewhere_is_taken_away_first() -> None:
    old, new = (state_of(Ports(NODE, AttachmentTable()).of([attachment(number, "8080:80")])) for number in (2, 3))
    assert [str(step) for step in diff(old, new)] == [
        "- nft element inet overlayd_ports ports4 { tcp . 8080 : 10.1.1.2 . 80 }",
        "+ nft element inet overlayd_ports ports4 { tcp . 8080 : 10.1.1.3 . 80 }",
        "- nft element inet overlayd_ports ports6 { tcp . 8080 : fd00:10:1:1::2 . 80 }",
        "+ nft element inet overlayd_ports ports6 { tcp . 8080 : fd00:10:1:1::3 . 80 }",
    ]


def test_the_table_of_attachments_has_no_port_twice() -> None:
    table = AttachmentTable([attachment(2, "8080:80")])
    with pytest.raises(AttachError, match="port 8080/tcp is taken by container c2 eth0"):
        table.put(attachment(3, "8080:81"))
    with pytest.raises(AttachError, match="container c3 eth0: a published port is 0"):
        table.put(attachment(3, "80"))
    assert [one.container for one in table] == ["c2"]
    table.put(attachment(2, "8081:80"))
    table.put(attachment(3, "8080:81"))
    table.remove([("c2", "eth0"), ("c3", "eth0")])
    assert not table.ports
