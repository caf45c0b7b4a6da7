"""What an operator of a cluster does: reservations, releases, another configuration, by the real commands."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from overlayd.lab import Host, hosts
from overlayd.lab.etcdctl import PREFIX
from support.commands import one_line, overlayctl, watching_leases
from support.etcd_cluster import SUBNETS, await_agreement, etcd_of, key_of, lines, own_subnet, routes, written
from support.pings import pinging
from support.waiting import eventually

Two = tuple[Host, Host]
CONFIG = f"{PREFIX}/config"


@pytest.fixture(scope="module")
def two() -> Iterator[Two]:
    """Two hosts that are ready."""
    with hosts(2, mode="vxlan", registry="etcd") as (a, b):
        await_agreement([a, b])
        yield a, b


def command(host: Host, *words: str) -> subprocess.CompletedProcess[str]:
    """overlayctl with the host's configuration."""
    return overlayctl(host, *words, "--config", str(host.config_path))


def reserved(host: Host) -> dict[str, bool]:
    """Whether each subnet that the host knows is reserved."""
    return {row["subnet"]: row["reserved"] for row in json.loads(overlayctl(host, "lease", "list", "--json").stdout)}


def test_a_subnet_is_reserved_and_released(two: Two) -> None:
    a, b = two
    etcd, subnet = etcd_of(a), "10.1.77.0/24"
    with watching_leases(b) as shown:
        eventually(lambda: str(a.subnet) in shown(), "the watch begins with what there is")
        assert command(a, "lease", "reserve", subnet).returncode == 0
        assert etcd.lease_of(key_of(subnet)) == 0
        eventually(lambda: f"+  {subnet}" in shown(), "the watch shows the reservation")
        assert subnet not in routes(b), "nobody is behind it"
        again = command(b, "lease", "reserve", "10.1.77.1/24")
        assert again.returncode == 2
        assert "did you mean 10.1.77.0/24?" in again.stderr
        released = command(b, "lease", "release", "--json", subnet)
        assert json.loads(released.stdout) == {"report": f"{subnet} is released"}, released.stderr
        assert etcd.get(key_of(subnet)) is None
        eventually(lambda: f"-  {subnet}" in shown(), "the watch shows its end")
    gone = command(b, "lease", "release", subnet)
    assert gone.returncode == 1
    assert subnet in one_line(gone.stderr)


def test_a_running_nodes_lease_is_made_a_reservation(two: Two) -> None:
    """flannel.md 12: and stays one, over a restart of its node too."""
    a, b = two
    etcd, key = etcd_of(a), key_of(a.subnet)
    value = etcd.get(key)
    with pinging(a.container(0), b.container(0).address()):
        assert command(b, "lease", "reserve", str(a.subnet)).returncode == 0
        assert (etcd.get(key), etcd.lease_of(key)) == (value, 0)
        for host in (a, b):
            eventually(lambda host=host: reserved(host)[str(a.subnet)], f"{host.name} knows")
    a.restart()
    assert own_subnet(a) == str(a.subnet)
    assert (etcd.get(key), etcd.lease_of(key)) == (value, 0)
    await_agreement(two)


def test_a_node_gives_its_lease_up(two: Two) -> None:
    a, b = two
    etcd = etcd_of(a)
    refused = command(b, "lease", "release")
    assert refused.returncode == 1
    assert "stop it first" in one_line(refused.stderr)
    before = etcd.leases()
    b.stop()
    done = command(b, "lease", "release")
    assert done.returncode == 0, done.stderr
    assert str(b.subnet) not in written(etcd)
    assert len(etcd.leases()) == len(before) - 1
    assert not [key for key in etcd.below(f"{PREFIX}/overlayd/") if "192.0.2.2" in key], "our own record stays behind"
    eventually(lambda: str(b.subnet) not in routes(a), "the peer's route goes")
    b.start()
    await_agreement(two)


def test_the_configuration_is_not_overwritten_by_chance(two: Two) -> None:
    a, _ = two
    etcd = etcd_of(a)
    before = etcd.get(CONFIG)
    refused = command(a, "etcd", "init", "--network", "10.9.0.0/16", "--backend", "vxlan")
    assert refused.returncode == 1
    assert "--force" in one_line(refused.stderr)
    wrong = command(a, "etcd", "init", "--network", "10.9.0.0/99", "--backend", "vxlan", "--force")
    assert wrong.returncode == 2
    assert etcd.get(CONFIG) == before
    same = command(a, "etcd", "init", "--network", "10.1.0.0/16", "--backend", "vxlan", "--port", "8472")
    assert same.returncode == 0, same.stderr


def test_another_configuration_is_applied_where_that_is_safe(two: Two) -> None:
    a, b = two
    etcd = etcd_of(a)
    before = etcd.get(CONFIG)
    assert before is not None
    with pinging(a.container(0), a.plan.bridge[0].ip):
        etcd.put(CONFIG, "{")
        eventually(lambda: lines(a, "level=error", CONFIG), "a mistake is told")
        eventually(lambda: any(CONFIG in text for text in a.status()["problems"]), "and stays to be seen")
        narrower = json.loads(before)
        narrower["Backend"]["MTU"] = 1400
        etcd.put(CONFIG, narrower)
        for host in two:
            eventually(
                lambda host=host: "FLANNEL_MTU=1400\n" in host.subnet_file.read_text(), f"{host.name} applies it"
            )
            assert "mtu 1400" in host.run("ip", "link", "show", "ovl.1").stdout
        etcd.put(CONFIG, before)
        for host in two:
            eventually(lambda host=host: "FLANNEL_MTU=1450\n" in host.subnet_file.read_text(), f"{host.name} goes back")
            assert host.status()["problems"] == []
    await_agreement(two)
    assert a.container(0).ping(b.container(0).address())


def test_another_network_is_told_and_harms_nobody(two: Two) -> None:
    a, b = two
    etcd = etcd_of(a)
    before = etcd.get(CONFIG)
    assert before is not None
    for host in two:
        host.log_path.write_text("")
    with pinging(a.container(0), b.container(0).address()):
        etcd.put(CONFIG, before.replace("10.1.0.0/16", "10.200.0.0/16"))
        for host in two:
            told = f"subnet {host.subnet} is not part of it; it takes effect at the next start"
            eventually(lambda host=host, told=told: lines(host, "level=error", told), f"{host.name} tells of it")
        await_agreement(two)
        etcd.put(CONFIG, before)
        await_agreement(two)
    assert set(etcd.below(SUBNETS)) == {key_of(a.subnet), key_of(b.subnet)}
    for host in two:
        assert host.subnet_file.read_text() == host.plan.subnet_env
