from __future__ import annotations

import pytest

from overlayd.backend.modes import SETTINGS
from overlayd.core.address import Family
from overlayd.core.mtu import overlay_mtu


@pytest.mark.parametrize(
    ("mode", "underlay", "expected"),
    [("udp", 4, 28), ("udp", 6, 48), ("vxlan", 4, 50), ("vxlan", 6, 70), ("host-gw", 4, 0), ("host-gw", 6, 0)],
)
def test_overhead(mode: str, underlay: Family, expected: int) -> None:
    overhead = SETTINGS.modes[mode].overhead(underlay)
    assert overhead == expected
    assert overlay_mtu(1500, overhead) == 1500 - expected
    assert overlay_mtu(9000, overhead) == 9000 - expected


def test_underlay_wider_than_an_ip_packet() -> None:
    """A loopback device has an MTU of 65536; no IP packet is longer than 65535."""
    assert overlay_mtu(65536, 28) == 65535 - 28
