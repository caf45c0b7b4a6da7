"""Ways to attach a container: each carries, is what it is called, and RPS is on where it says so."""

from __future__ import annotations

import pytest

from overlayd.bench.attach import ATTACHMENTS, KINDS, attachments, mask
from overlayd.bench.way import Frames, Way
from overlayd.core.address import Family


def devices(way: Way) -> str:
    return way.client.where.run("ip", "-d", "link", "show", "eth0").stdout


def steered(way: Way) -> set[int]:
    """The processors, as bits, that the receive queues of the client's namespace name."""
    argv = ("ip", "netns", "exec", way.client.where.namespace, "sh", "-c", "cat /sys/class/net/*/queues/rx-*/rps_cpus")
    return {bits(line) for line in way.client.where.run(*argv).stdout.split()}


def bits(text: str) -> int:
    return int(text.replace(",", ""), 16)


@pytest.mark.parametrize(("family", "frames"), [(4, "any"), (6, "1500")])
def test_every_attachment_carries(family: Family, frames: Frames) -> None:
    missing: dict[str, str] = {}
    with attachments(list(ATTACHMENTS), frames, family, missing.__setitem__) as ways:
        assert {way.name for way in ways} | set(missing) == set(ATTACHMENTS)
        assert set(missing) <= {"ipvlan", "ipvlan+rps"}, "only what a kernel may lack"
        assert all("Unknown device type" in reason for reason in missing.values())
        for way in ways:
            assert way.client.where.ping(way.address, count=2), way.name
            kind = way.name.removesuffix("+rps")
            assert (f"{kind} mode" in devices(way)) is (kind in ("macvlan", "ipvlan")), way.name
            if kind in ("host", "bridge", "routed"):
                features = way.client.where.run("ethtool", "-k", "eth0").stdout
                assert ("tcp-segmentation-offload: on" in features) is (frames == "any"), way.name
            way.prepare()
            assert steered(way) == {bits(mask(way.name.endswith("+rps")))}, way.name
        routed = next(way for way in ways if way.name == "routed")
        bridge = next(way for way in ways if way.name == "bridge")
        host = ways[0].client.where
        enslaved = host.run("ip", "-br", "link", "show", "master", "br0").stdout
        assert f"c{KINDS.index('bridge')}@" in enslaved
        assert f"c{KINDS.index('routed')}@" not in enslaved
        assert routed.address != bridge.address
