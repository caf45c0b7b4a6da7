"""Which VXLAN devices of a host keep ours from its VNI or its port, and which share it."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address

import pytest

from overlayd.backend import vxlan
from overlayd.core.kernel.kinds import VxlanLink
from overlayd.system.errors import InUseError
from overlayd.wire.netlink.link import LINK_GROUP, LinkEntry
from overlayd.wire.netlink.uapi import (
    IFF_UP,
    IFLA_VXLAN_COLLECT_METADATA,
    IFLA_VXLAN_GBP,
    IFLA_VXLAN_ID,
    IFLA_VXLAN_LOCAL,
    IFLA_VXLAN_LOCAL6,
    IFLA_VXLAN_PORT,
)

OURS = VxlanLink("ovl.1", 1450, vni=1, port=8472, local=ip_address("192.0.2.1"), underlay=2)
IPV6 = {IFLA_VXLAN_LOCAL6: ip_address("2001:db8::1").packed}


def entry(
    name: str, vni: int = 7, *, port: int = 8472, up: bool = True, ours: bool = False, more: Mapping[int, bytes] = {}
) -> LinkEntry:
    data = {IFLA_VXLAN_ID: vni.to_bytes(4, "little"), IFLA_VXLAN_PORT: port.to_bytes(2, "big"), **more}
    if not IPV6.keys() & more.keys():
        data[IFLA_VXLAN_LOCAL] = OURS.local.packed
    return LinkEntry(9, name, IFF_UP if up else 0, group=LINK_GROUP if ours else 0, driver="vxlan", data=data)


@pytest.mark.parametrize("vni", [1, 7])
def test_a_device_of_ours_stays_or_makes_way(monkeypatch: pytest.MonkeyPatch, vni: int) -> None:
    monkeypatch.setattr(vxlan, "is_port_taken", lambda *_: True)  # by the kernel, for that very device
    assert vxlan._port_refusal(OURS, [entry("ovl.1", vni, ours=True)]) is None
    assert vxlan._port_refusal(OURS, [entry("ovl.1", vni, ours=True, more={IFLA_VXLAN_GBP: b""})]) is None
    assert isinstance(vxlan._port_refusal(OURS, [entry("ovl.1", vni, ours=True, up=False)]), InUseError)
    assert isinstance(vxlan._port_refusal(OURS, [entry("ovl6.1", vni, ours=True, more=IPV6)]), InUseError)


@pytest.mark.parametrize(
    ("other", "shares"),
    [
        (entry("theirs"), True),
        (entry("flannel.1", 1), True),
        (entry("theirs", up=False), False),
        (entry("theirs", port=4789), False),
        (entry("theirs", more=IPV6), False),
        (entry("theirs", more={IFLA_VXLAN_GBP: b""}), False),
        (entry("theirs", 0, more={IFLA_VXLAN_COLLECT_METADATA: b"\1"}), False),
    ],
)
def test_devices_of_others_share_the_port_if_they_are_of_one_kind(
    monkeypatch: pytest.MonkeyPatch, other: LinkEntry, shares: bool
) -> None:
    monkeypatch.setattr(vxlan, "is_port_taken", lambda *_: True)
    refused = vxlan._port_refusal(OURS, [other])
    assert (refused is None) == shares
    assert shares or "ovl.1: Address already in use; another program has UDP port 8472" in str(refused)
    monkeypatch.setattr(vxlan, "is_port_taken", lambda *_: False)
    assert vxlan._port_refusal(OURS, [other]) is None


def test_a_vni_that_another_device_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vxlan, "is_port_taken", lambda *_: False)
    said = "device ovl.1: File exists; another device has VNI 1 on UDP port 8472: theirs"
    assert str(vxlan._port_refusal(OURS, [entry("theirs", 1, up=False)])).startswith(said)
    assert vxlan._port_refusal(OURS, [entry("theirs", 1, more=IPV6)]) is None
    assert vxlan._port_refusal(OURS, [entry("flannel.1", 1)]) is None, "it is taken over"
