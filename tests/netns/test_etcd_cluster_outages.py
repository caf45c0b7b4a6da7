"""What breaks between a node and its etcd, and that the containers notice none of it.

h1c1 10.1.1.2 -- br0 [h1] eth0 .1 ===+=== eth0 .2 [h2] br0 -- h2c1 10.1.2.2
                                     |
                                     +=== eth0 .251 to .253 [etcd1] [etcd2] [etcd3]         underlay 192.0.2.0/24
"""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator

import pytest

from overlayd.lab import Host, hosts, wait_ready
from overlayd.lab.etcdctl import PREFIX
from support.commands import overlayctl, overlayd
from support.etcd_cluster import (
    SUBNETS,
    await_agreement,
    connected,
    cut_off,
    etcd_of,
    flannel_value,
    key_of,
    lines,
    own_subnet,
    put_as_flannel,
    routes,
    stale,
    take_away,
    written,
)
from support.pings import pinging
from support.waiting import eventually

Two = tuple[Host, Host]


@pytest.fixture(scope="module")
def lab() -> Iterator[Two]:
    """Two hosts on an etcd of one member."""
    with hosts(2, mode="vxlan", registry="etcd") as (a, b):
        yield a, b


@pytest.fixture
def two(lab: Two) -> Two:
    """The two, ready and agreed, whatever the last test left."""
    etcd = etcd_of(lab[0])
    for member in etcd.members:
        if member.pid is None:
            member.start()
    for host in lab:
        host.log_path.write_text("")
        if host.pid is None:
            host.start(wait=False)
    wait_ready(lab)
    for subnet in written(etcd).keys() - {own_subnet(host) for host in lab}:
        take_away(etcd, subnet)
    await_agreement(lab)
    return lab


def test_etcd_is_lost_and_comes_back(two: Two) -> None:
    """flannel.md 15: nothing is logged; one line each way, a gauge meanwhile, and the data path goes on."""
    a, b = two
    (member,) = etcd_of(a).members
    with pinging(a.container(0), b.container(0).address()):
        member.kill()
        for host in two:
            eventually(lambda host=host: not connected(host), f"{host.name} knows of the loss")
        member.start()
        for host in two:
            eventually(lambda host=host: connected(host), f"{host.name} has it back")
    put_as_flannel(etcd_of(a), "10.1.52.0/24", flannel_value("192.0.2.77"))
    for host in two:
        eventually(lambda host=host: "10.1.52.0/24" in routes(host), f"{host.name} watches again")
        assert len(lines(host, "etcd is unreachable")) == 1
        assert len(lines(host, "etcd is reachable again")) == 1


def test_a_paused_etcd_is_noticed(two: Two) -> None:
    """The connection stays, and nothing comes: no error ends such a watch."""
    a, b = two
    (member,) = etcd_of(a).members
    with pinging(a.container(0), b.container(0).address()):
        member.pause()
        try:
            eventually(lambda: not connected(a), "the silence is noticed", timeout=30)
        finally:
            member.resume()
        eventually(lambda: connected(a), "it is back", timeout=30)
    put_as_flannel(etcd_of(a), "10.1.52.0/24", flannel_value("192.0.2.77"))
    eventually(lambda: "10.1.52.0/24" in routes(a), "and watched")


def test_a_start_without_etcd_serves_the_last_leases(two: Two) -> None:
    """flannel.md 15: without etcd flannel blocks at its start, and says nothing."""
    a, b = two
    (member,) = etcd_of(a).members
    member.kill()
    a.stop()
    a.ip("link del ovl.1")
    a.start(wait=False)
    eventually(lambda: a.container(0).ping(b.container(0).address(), timeout=0.3), "the containers talk without etcd")
    assert stale(a)
    assert len(lines(a, "using the last known leases")) == 1
    member.start()
    eventually(lambda: not stale(a), "no longer stale")
    await_agreement(two)


def test_a_first_start_without_etcd_waits_and_says_so(two: Two) -> None:
    """flannel.md 15."""
    a, _ = two
    (member,) = etcd_of(a).members
    a.stop()
    etcd_of(a).revoke(etcd_of(a).lease_of(key_of(a.subnet)))
    member.kill()
    for path in (a.directory / "state").iterdir():
        path.unlink()
    a.log_path.write_text("")
    a.start(wait=False)
    eventually(lambda: lines(a, "waiting for etcd", "192.0.2.251:2379"), "the log says what it waits for")
    assert a.pid is not None
    member.start()
    wait_ready([a])
    assert len(lines(a, "waiting for etcd")) == 1
    await_agreement(two)


def test_a_compaction_that_a_watch_missed(two: Two) -> None:
    """flannel.md 15: peers are lost when the watch was compacted."""
    a, b = two
    etcd = etcd_of(a)
    (member,) = etcd.members
    put_as_flannel(etcd, "10.1.52.0/24", flannel_value("192.0.2.77"))
    eventually(lambda: "10.1.52.0/24" in routes(a), "the lease that will go")
    with pinging(a.container(0), b.container(0).address()):
        with cut_off(a):
            member.kill()  # the old connection is gone, and no new one comes
            member.start()
            put_as_flannel(etcd, "10.1.53.0/24", flannel_value("192.0.2.78"))
            take_away(etcd, "10.1.52.0/24")
            etcd.compact()
        eventually(lambda: "10.1.53.0/24" in routes(a), "the lease that came is known", timeout=30)
        eventually(lambda: "10.1.52.0/24" not in routes(a), "the lease that went is gone")


def test_no_event_is_lost_over_a_cut(two: Two) -> None:
    a, b = two
    etcd = etcd_of(a)
    (member,) = etcd.members
    put_as_flannel(etcd, "10.1.52.0/24", flannel_value("192.0.2.77"))
    eventually(lambda: "10.1.52.0/24" in routes(a), "the lease that will go")
    with cut_off(a):
        member.kill()
        member.start()
        put_as_flannel(etcd, "10.1.53.0/24", flannel_value("192.0.2.78"))
        take_away(etcd, "10.1.52.0/24")
    eventually(lambda: routes(a) == {str(b.subnet), "10.1.53.0/24"}, "both events arrive", timeout=30)


def test_the_own_key_deleted_is_taken_back(two: Two) -> None:
    """flannel.md 16: the daemon exits and its containers lose the network."""
    a, b = two
    etcd, pid = etcd_of(a), a.pid
    with pinging(a.container(0), "10.1.1.1"):
        etcd.delete(key_of(a.subnet))
        eventually(lambda: str(a.subnet) in written(etcd), "the lease is in etcd again")
        eventually(lambda: a.container(0).ping(b.container(0).address()), "and the containers talk")
    assert a.pid == pid
    await_agreement(two)
    assert own_subnet(a) == "10.1.1.0/24"
    assert len(etcd.leases()) == 2, "an etcd lease leaks"


def test_the_etcd_lease_revoked_is_made_anew(two: Two) -> None:
    """flannel.md 16, as it is after an outage longer than the lease's life."""
    a, _ = two
    etcd, pid = etcd_of(a), a.pid
    etcd.revoke(etcd.lease_of(key_of(a.subnet)))
    eventually(lambda: str(a.subnet) in written(etcd), "the lease is in etcd again")
    assert a.pid == pid
    await_agreement(two)
    assert etcd.lease_of(key_of(a.subnet)) != 0


def test_the_own_subnet_taken_by_another_means_a_new_one(two: Two) -> None:
    """flannel.md 16: and the containers that run on the old one are reported."""
    a, b = two
    etcd, pid = etcd_of(a), a.pid
    with cut_off(a):
        take_away(etcd, str(a.subnet))
        put_as_flannel(etcd, str(a.subnet), flannel_value("192.0.2.77"))
    eventually(lambda: own_subnet(a) != "10.1.1.0/24", "another subnet is acquired", timeout=30)
    assert a.pid == pid
    assert "10.1.1.0/24 dev br0" in a.run("ip", "route").stdout, "flannel.md 13: the connected route stays"
    assert written(etcd)["10.1.1.0/24"]["PublicIP"] == "192.0.2.77", "what another holds is not overwritten"
    eventually(
        lambda: lines(a, "containers that have addresses of the old one", "br0 10.1.1.1/24"), "containers are reported"
    )
    assert any("10.1.1.0/24" in problem for problem in a.status()["problems"]), (
        "the new holder is unreachable from here"
    )
    eventually(lambda: own_subnet(a) in routes(b), "the peer has the new subnet")
    take_away(etcd, "10.1.1.0/24")
    a.stop()
    etcd.ctl("del", "--prefix", "--", SUBNETS)
    etcd.ctl("del", "--prefix", "--", f"{PREFIX}/overlayd/")
    for path in (a.directory / "state").iterdir():
        path.unlink()
    a.subnet_file.write_text(a.plan.subnet_env)
    a.start()


def test_short_leases_are_kept_alive_and_none_leaks() -> None:
    """flannel.md 15: renewal is an unconditional put, and old etcd leases leak."""
    settings = {"subnet_lease_ttl": "5s", "subnet_lease_renew_margin": "3s"}
    with hosts(2, mode="udp", containers=0, registry="etcd", settings=settings) as (a, b):
        await_agreement([a, b])
        etcd = etcd_of(a)
        before = {key: etcd.version_of(key) for key in etcd.below(SUBNETS)}
        first = etcd.leases()
        own = etcd.lease_of(key_of(a.subnet))
        for _ in range(2):  # the time left falls and rises
            eventually(lambda: etcd.time_left(own) <= 3, "time passes")
            eventually(lambda: etcd.time_left(own) >= 4, "it is renewed")
        assert etcd.leases() == first
        assert {key: etcd.version_of(key) for key in etcd.below(SUBNETS)} == before, "renewed by a put"
        b.stop(signal.SIGKILL)
        eventually(lambda: str(b.subnet) not in routes(a), "the lease of a node that died ends")


# --- three members ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def three() -> Iterator[Two]:
    """Two hosts on three members, with certificates and users."""
    with hosts(2, mode="udp", registry="etcd", etcd_members=3, etcd_secure=True) as (a, b):
        await_agreement([a, b])
        yield a, b


def test_the_leader_is_killed(three: Two) -> None:
    a, b = three
    etcd = etcd_of(a)
    with pinging(a.container(0), b.container(0).address()):
        for number in (52, 53):
            leader = etcd.leader()
            leader.kill()
            etcd.wait_ready()
            put_as_flannel(etcd, f"10.1.{number}.0/24", flannel_value("192.0.2.77", backend="udp"))
            for host in three:
                eventually(
                    lambda host=host, number=number: f"10.1.{number}.0/24" in routes(host),
                    "the watch goes on",
                    timeout=30,
                )
            leader.start()
    for number in (52, 53):
        take_away(etcd, f"10.1.{number}.0/24")
    await_agreement(three)


def test_quorum_is_lost_and_comes_back(three: Two) -> None:
    a, b = three
    etcd = etcd_of(a)
    eventually(lambda: any(etcd.leads(one.url) for one in etcd.members if one.pid), "a member leads")
    leader = etcd.leader()
    others = [one for one in etcd.members if one is not leader]
    with pinging(a.container(0), b.container(0).address()):
        leader.kill()
        others[0].kill()
        for host in three:
            eventually(lambda host=host: not connected(host), "the loss is noticed", timeout=30)
        leader.start(wait=False)
        others[0].start()
        for host in three:
            eventually(lambda host=host: connected(host), "it is back", timeout=30)
    put_as_flannel(etcd, "10.1.54.0/24", flannel_value("192.0.2.77", backend="udp"))
    for host in three:
        eventually(lambda host=host: "10.1.54.0/24" in routes(host), "and watched", timeout=30)
    take_away(etcd, "10.1.54.0/24")
    await_agreement(three)


@pytest.mark.parametrize("seed", [1, 2])
def test_any_order_of_kills_and_starts_converges(three: Two, seed: int) -> None:
    a, _ = three
    etcd, order = etcd_of(a), random.Random(seed)
    for _ in range(8):
        victim = order.choice([*three, *etcd.members])
        if isinstance(victim, Host):
            if victim.pid is None:
                victim.start(wait=False)
            else:
                victim.stop(order.choice([signal.SIGKILL, signal.SIGTERM]))
        elif victim.pid is None:
            victim.start(wait=False)
        else:
            victim.kill()
    for member in etcd.members:
        if member.pid is None:
            member.start(wait=False)
    for host in three:
        if host.pid is None:
            host.start(wait=False)
    etcd.wait_ready()
    wait_ready(three, 40)
    await_agreement(three)
    assert {own_subnet(host) for host in three} == {"10.1.1.0/24", "10.1.2.0/24"}
    assert len(etcd.leases()) == 2


def test_no_secret_is_shown(three: Two) -> None:
    """flannel.md 17: the password is logged in clear."""
    a, b = three
    password = etcd_of(a).settings()["password"]
    for host in (a, b):
        assert password in host.config_path.read_text()
        assert password not in host.log()
    check = overlayd(a, "--check")
    assert password not in check.stdout + check.stderr
    assert check.returncode == 0, check.stderr
    assert password not in overlayctl(a, "status", "--json").stdout
    assert password not in a.run("cat", f"/proc/{a.pid}/cmdline").stdout


def test_a_watch_that_dies_without_a_word() -> None:
    """As when a firewall on the way forgets an idle connection: new ones pass, and nothing comes by the old one."""
    with hosts(1, mode="udp", registry="etcd", containers=0) as (a,):
        eventually(lambda: a.status()["registry_state"]["connected"], "it watches")
        shown = a.run("ss", "-Htn", "state", "established", "dport = :2379").stdout.splitlines()
        ports = ", ".join(line.split()[2].rpartition(":")[2] for line in shown)
        a.run("nft", "add table inet forgets; add chain inet forgets out { type filter hook output priority 0; };"
              " add chain inet forgets in { type filter hook input priority 0; };"
              f" add rule inet forgets out tcp sport {{ {ports} }} drop;"
              f" add rule inet forgets in tcp dport {{ {ports} }} drop")  # fmt: skip
        etcd_of(a).put(key_of("10.1.77.0/24"), flannel_value("192.0.2.77", backend="udp"))
        eventually(lambda: "10.1.77.0/24" in routes(a), "the lease is known all the same", timeout=60)
