"""Ways to attach a container: each carries, is what it is called, and RPS is on where it says so."""

from __future__ import annotations

import pytest

from overlayd.bench.attach import ATTACHMENTS, KINDS, attachments, mask
from overlayd.bench.scenario import Frames, Scenario
from overlayd.core.address import Family


def devices(scenario: Scenario) -> str:
    return scenario.client.where.run("ip", "-d", "link", "show", "eth0").stdout


def steered(scenario: Scenario) -> set[int]:
    """The processors, as bits, that the receive queues of the client's namespace name."""
    argv = (
        "ip",
        "netns",
        "exec",
        scenario.client.where.namespace,
        "sh",
        "-c",
        "cat /sys/class/net/*/queues/rx-*/rps_cpus",
    )
    return {bits(line) for line in scenario.client.where.run(*argv).stdout.split()}


def bits(text: str) -> int:
    return int(text.replace(",", ""), 16)


@pytest.mark.parametrize(("family", "frames"), [(4, "any"), (6, "wire"), (6, "1500")])
def test_every_attachment_carries(family: Family, frames: Frames) -> None:
    missing: dict[str, str] = {}
    with attachments(list(ATTACHMENTS), frames, family, missing.__setitem__) as scenarios:
        assert {scenario.name for scenario in scenarios} | set(missing) == set(ATTACHMENTS)
        assert set(missing) <= {"ipvlan", "ipvlan+rps"}, "only what a kernel may lack"
        assert all("Unknown device type" in reason for reason in missing.values())
        for scenario in scenarios:
            assert scenario.client.where.ping(scenario.address, count=2), scenario.name
            kind = scenario.name.removesuffix("+rps")
            assert (f"{kind} mode" in devices(scenario)) is (kind in ("macvlan", "ipvlan")), scenario.name
            if kind in ("host", "bridge", "routed"):
                features = scenario.client.where.run("ethtool", "-k", "eth0").stdout
                segments = frames == "any" or (frames == "wire" and kind != "host")  # a container's own veth
                assert ("tcp-segmentation-offload: on" in features) is segments, scenario.name
            scenario.prepare()
            assert steered(scenario) == {bits(mask(scenario.name.endswith("+rps")))}, scenario.name
        routed = next(scenario for scenario in scenarios if scenario.name == "routed")
        bridge = next(scenario for scenario in scenarios if scenario.name == "bridge")
        host = scenarios[0].client.where
        enslaved = host.run("ip", "-br", "link", "show", "master", "br0").stdout
        assert f"c{KINDS.index('bridge')}@" in enslaved
        assert f"c{KINDS.index('routed')}@" not in enslaved
        assert routed.address != bridge.address
