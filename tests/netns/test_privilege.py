"""Least privilege: the daemon needs CAP_NET_ADMIN and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from overlayd.lab import hosts

ONLY_NET_ADMIN = ("setpriv", "--bounding-set", "-all,+net_admin", "--inh-caps", "-all")
CAP_NET_ADMIN = 1 << 12  # linux/capability.h


@pytest.mark.parametrize("mode", ["udp", "vxlan", "host-gw"])
def test_net_admin_is_enough(mode: str) -> None:
    with hosts(2, mode=mode, family="dual", underlay="dual", start=False, settings={"ip_masq": True}) as (a, b):
        for host in (a, b):
            host.start(under=ONLY_NET_ADMIN)
        lines = Path(f"/proc/{a.status()['pid']}/status").read_text().splitlines()
        assert [int(line.split()[1], 16) for line in lines if line.startswith("CapEff:")] == [CAP_NET_ADMIN]
        for family in (4, 6):
            assert a.container(0).ping(b.container(0).address(family))
