"""One colour for each scenario, by its name: the same in every chart and every report."""

from __future__ import annotations

from zlib import crc32

DAY = ("#2f6db5", "#c8475a", "#2a8a57", "#a87600", "#7650a6", "#14808f", "#bd5217", "#5b6670", "#a53a74", "#648422")
NIGHT = ("#79a8ea", "#f28b98", "#6ccf96", "#e2bd4e", "#bd9ce6", "#5ccada", "#f39d61", "#a8b3be", "#e38fba", "#b3d268")
REST = 7
"""Grey: of what is left over, and of nothing that has a name."""

_SCENARIOS = {
    "host": 9, "host-gw": 2, "vxlan": 0, "udp-python": 3, "udp-native": 1, "udp-overlayd": 4, "udp-busy-poll": 6,
    "wireguard": 7, "wireguard-go": 5, "nebula": 8,
    "host+rps": 7, "bridge": 0, "bridge+rps": 5, "routed": 2, "routed+rps": 3,
    "macvlan": 4, "macvlan+rps": 8, "ipvlan": 1, "ipvlan+rps": 6,
}  # fmt: skip


def colour_of(scenario: str) -> int:
    """The index of its colour; a name that a user chose gets one of them for ever, too."""
    return _SCENARIOS.get(scenario, crc32(scenario.encode()) % len(DAY))
