"""Leases from etcd in the kernel, where the order of events and of comparisons matters.

[h1] eth0 192.0.2.1 ======== eth0 [h2], no daemon; etcd in between
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from overlayd.lab import Host, hosts
from overlayd.lab.etcdctl import PREFIX
from support.waiting import eventually


@pytest.fixture
def host() -> Iterator[Host]:
    with hosts(2, mode="vxlan", registry="etcd", containers=0, start=False) as (one, _):
        one.start()
        yield one


def lease(public: str, number: int) -> str:
    data = {"VNI": 1, "VtepMAC": f"02:00:00:00:00:{number:02x}"}
    value = {"PublicIP": public, "PublicIPv6": None, "BackendType": "vxlan", "BackendData": data}
    return json.dumps(value, separators=(",", ":"))


def vteps(host: Host) -> str:
    return host.run("nft", "list", "set", "inet", "overlayd", "peers4").stdout


def routes(host: Host) -> str:
    return host.run("ip", "route").stdout


def test_a_host_with_two_leases_keeps_its_way_through_the_guard_with_either(host: Host) -> None:
    """As when a node gets another subnet: the new lease comes before the old one goes."""
    etcd = host.lab.etcd
    assert etcd is not None
    etcd.put(f"{PREFIX}/subnets/10.1.40.0-24", lease("192.0.2.40", 40))
    etcd.put(f"{PREFIX}/subnets/10.1.41.0-24", lease("192.0.2.40", 41))
    eventually(lambda: "10.1.41.0/24" in routes(host), "both leases are there")
    etcd.delete(f"{PREFIX}/subnets/10.1.40.0-24")
    eventually(lambda: "10.1.40.0/24" not in routes(host), "one has gone")
    etcd.put(f"{PREFIX}/subnets/10.1.42.0-24", lease("192.0.2.42", 42))
    eventually(lambda: "10.1.42.0/24" in routes(host), "all that came before is done")
    assert "192.0.2.40" in vteps(host)
    etcd.delete(f"{PREFIX}/subnets/10.1.41.0-24")
    eventually(lambda: "192.0.2.40" not in vteps(host), "without a lease there is no way through")
    assert "kernel state repaired" not in host.log()


def test_a_comparison_during_a_storm_of_events_repairs_nothing_that_is_right(host: Host) -> None:
    """It looks while events are applied, and takes none of them back."""
    etcd = host.lab.etcd
    assert etcd is not None
    number = 0
    while host.status()["comparisons"] < 4:
        key = f"{PREFIX}/subnets/10.1.{100 + number % 50}.0-24"
        if number // 50 % 2:
            etcd.delete(key)
        else:
            etcd.put(key, lease(f"192.0.2.{100 + number % 50}", number % 50))
        if number % 20 == 0:  # another firewall's chain may have rules of ours: it calls for a comparison
            host.run("nft", "add table inet x; add chain inet x y { type filter hook forward priority 0; }")
        number += 1
    own = host.status()["lease"]["subnet"]
    keys = etcd.below(f"{PREFIX}/subnets/")
    wanted = sorted({key.rsplit("/", 1)[1].replace("-", "/") for key in keys} - {own})
    eventually(
        lambda: sorted(line.split()[0] for line in routes(host).splitlines() if "onlink" in line) == wanted,
        "the kernel is as etcd is",
    )
    assert host.status()["repairs"] == 0
    assert "kernel state repaired" not in host.log()
