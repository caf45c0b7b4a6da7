"""Every reason for which a host can refuse a start, in every mode: `--check` finds it, and neither changes anything.

h1c1 10.1.1.2 -- br0 10.1.1.1 [h1] eth0 192.0.2.1 ======== eth0 192.0.2.2 [h2]
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from overlayd.backend.modes import SETTINGS
from overlayd.lab import Host, hosts
from support.commands import one_line, overlayd
from support.dump import assert_same, dump

MODES = tuple(SETTINGS.modes)


@pytest.fixture(scope="module")
def idle() -> Iterator[Host]:
    """A host on which no daemon runs."""
    with hosts(2, mode="vxlan", start=False) as (a, _):
        yield a


def assert_refused(host: Host, text: str, *arguments: str) -> None:
    """Neither `--check` nor a start gets past it, and both leave the host as it is."""
    before, files = dump(host), sorted(host.directory.iterdir())
    checked = overlayd(host, "--check", *arguments)
    assert (checked.returncode, text in one_line(checked.stderr)) == (1, True), checked.stderr
    started = overlayd(host, *arguments)
    assert (started.returncode, text in one_line(started.stderr)) == (1, True), started.stderr
    assert_same(before, dump(host))
    assert sorted(host.directory.iterdir()) == files
    assert host.read_sysctl("net/ipv4/ip_forward") == "0"


@pytest.mark.parametrize(("mode", "largest"), [("udp", 1472), ("vxlan", 1450), ("host-gw", 1500)])
def test_an_mtu_that_the_underlay_cannot_carry(idle: Host, mode: str, largest: int) -> None:
    assert_refused(
        idle,
        f"mtu: 9000 does not fit: interface eth0 (MTU 1500) leaves {largest} bytes for containers in {mode} mode;"
        f" set mtu to {largest} or less, or leave it out",
        *("--mode", mode, "--mtu", "9000"),
    )
