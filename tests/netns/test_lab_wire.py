"""The lab with offloads "wire": superpackets everywhere but on the cable, which carries what a network card sends.

h1c1 --superpackets-- c1 [h1] eth0 ==frames of 1514 bytes== eth0 [h2] --superpackets again-- h2c1
"""

from __future__ import annotations

from typing import Any

import pytest

from overlayd.bench import tools
from overlayd.bench.endpoint import Local
from overlayd.core.address import FAMILIES
from overlayd.lab import hosts
from support.wire import Capture

FRAME = 14 + 1500


def longest(seen: Capture, outgoing: bool) -> int:
    """Bytes of the longest frame that the device sent, or received."""
    return max(len(frame.data) for frame in seen.frames() if frame.outgoing is outgoing)


@pytest.mark.parametrize(
    "spec",
    [
        {"mode": "host-gw", "underlay": "dual"},
        {"mode": "vxlan"},
        {"mode": "udp", "settings": {"udp": {"engine": "native"}}},
        {"mode": "udp", "settings": {"udp": {"engine": "native"}}, "wire": "overlayd", "underlay": "ipv6"},
    ],
    ids=["host-gw", "vxlan", "udp", "udp, overlayd's wire"],
)
def test_superpackets_are_segmented_at_the_cable_and_coalesced_behind_it(spec: dict[str, Any]) -> None:
    with hosts(2, offloads="wire", family="dual", **spec) as (a, b):
        client, server = a.container(0), b.container(0)
        for family in FAMILIES:
            with (
                Capture(a, "c1") as container,
                Capture(a, "eth0") as cable,
                Capture(b, "eth0") as card,
                Capture(server, "eth0") as receiver,
            ):
                tools.throughput(Local(client), Local(server), server.address(family), 1)
                assert longest(cable, outgoing=True) == FRAME, f"IPv{family}: on the cable"
                assert longest(container, outgoing=False) > FRAME, f"IPv{family}: the container sends superpackets"
                assert longest(card, outgoing=False) > FRAME, f"IPv{family}: the card coalesces"
                assert longest(receiver, outgoing=False) > FRAME, f"IPv{family}: the container gets superpackets"


def test_a_switch_passes_on_what_the_cards_send() -> None:
    with hosts(3, mode="none", offloads="wire", containers=0) as (a, b, _):
        switch = a.lab.find("switch")
        with Capture(a, "eth0") as sender, Capture(switch, "h2") as leaving, Capture(b, "eth0") as card:
            tools.throughput(Local(a), Local(b), b.public_ip, 1)
            assert longest(sender, outgoing=True) == longest(leaving, outgoing=True) == FRAME
            assert longest(card, outgoing=False) > FRAME
