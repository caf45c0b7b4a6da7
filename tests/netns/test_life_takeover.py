"""A host that was flannel's becomes overlayd's, and back; the connections of its containers live on.

h1c1 10.1.1.2 -- br0 [h1] eth0 .1 ===+=== eth0 .2 [h2] flannel, all the time, br0 -- h2c1 10.1.2.2
                                     +=== eth0 .251 [etcd]                        underlay 192.0.2.0/24
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from subprocess import CompletedProcess

import pytest

from overlayd.lab import Host, hosts
from overlayd.lab.etcdctl import PREFIX
from overlayd.lab.spec import Stack
from support.commands import one_line, overlayctl, overlayd
from support.dump import assert_same, dump, index_of
from support.etcd_cluster import etcd_of, key_of, written
from support.flannel_host import FlannelHost
from support.pings import pinging
from support.request_traffic import asking
from support.waiting import eventually
from support.wire import MODES

RECORDS = f"{PREFIX}/overlayd/hosts/"


@contextlib.contextmanager
def flannel_hosts(mode: str, stack: Stack = "ipv4") -> Iterator[tuple[Host, Host, FlannelHost]]:
    """Two hosts with flannel, and flannel of the first one."""
    with hosts(2, mode=mode, registry="etcd", start=False, family=stack, underlay=stack) as (a, b):
        mine, other = FlannelHost(a, [b]), FlannelHost(b, [a])
        try:
            for one in (mine, other):
                one.acquire()
                one.start()
            eventually(lambda: a.container(0).ping(b.container(0).address(), timeout=0.5), "flannel to flannel")
            yield a, b, mine
        finally:
            mine.stop()
            other.stop()


def ctl(host: Host, *arguments: str) -> CompletedProcess[str]:
    return overlayctl(host, *arguments, "--config", str(host.config_path))


def in_etcd(host: Host) -> tuple[dict[str, str], int]:
    etcd = etcd_of(host)
    return etcd.below(f"{PREFIX}/"), etcd.lease_of(key_of(host.subnet))


@pytest.mark.parametrize("mode", MODES)
def test_there_and_back_under_a_connection(mode: str) -> None:
    with flannel_hosts(mode) as (a, b, flannel):
        here, there = a.container(0), b.container(0)
        claimed, kernel = in_etcd(a), dump(a, ifindex=mode != "udp")  # flannel0 is another one each time
        flannel.add_rules()
        with asking(here, there, str(there.address())) as asked:
            flannel.stop()
            # The kernel forwards on in vxlan and host-gw mode: not one packet is lost.
            with contextlib.nullcontext() if mode == "udp" else pinging(here, there.address()):
                adopted = ctl(a, "adopt", "--from", "flannel")
                assert (adopted.returncode, adopted.stderr) == (0, "")
                assert f"next: systemctl enable --now overlayd@{mode}" in adopted.stdout
                a.start()
            asked.more()
            assert a.status()["problems"] == []
            shown = "".join(dump(a).values())
            assert "flannel" not in shown.lower()
            assert "10.99.0.0/16" in shown, "rules that are not flannel's stay"
            assert "device differs" not in a.log(), "the start has found nothing to be done"
            value = json.loads(json.dumps(written(etcd_of(a))[str(a.subnet)]))
            if mode == "udp":
                value.pop("BackendData", None)
            assert value == flannel.value
            assert in_etcd(a)[1] == claimed[1], "flannel's etcd lease is renewed from now on"
            assert etcd_of(a).below(RECORDS)

            a.stop()
            a.run("iptables", "-F", "FORWARD")
            with contextlib.nullcontext() if mode == "udp" else pinging(here, there.address()):
                left = ctl(a, "leave")
                assert (left.returncode, left.stderr) == (0, "")
            assert left.stdout.endswith("systemctl enable --now flanneld\n")
            assert in_etcd(a) == claimed
            if mode != "udp":
                assert_same(comparable(kernel), comparable(dump(a)))
            assert a.subnet_file.exists()
            flannel.start()
            asked.more()
            assert_same(comparable(kernel), comparable(dump(a, ifindex=mode != "udp")))


def comparable(found: dict[str, str]) -> dict[str, str]:
    """Without firewalls, since the tables of iptables that a test made are still there, empty; and without the random
    link-local address of flannel0."""
    states = {command: text for command, text in found.items() if "tables" not in command and "nft" not in command}
    return {
        command: "\n".join(line for line in text.splitlines() if "fe80:" not in line)
        for command, text in states.items()
    }


def test_there_and_back_in_dual_stack() -> None:
    """Two devices with MACs of their own."""
    with flannel_hosts("vxlan", "dual") as (a, b, flannel):
        here, there = a.container(0), b.container(0)
        claimed, kernel = etcd_of(a).below(f"{PREFIX}/subnets"), dump(a)
        flannel.stop()
        with pinging(here, there.address(4)), pinging(here, there.address(6)):
            adopted = ctl(a, "adopt", "--from", "flannel")
            assert (adopted.returncode, adopted.stderr) == (0, "")
            assert "flannel" not in "".join(dump(a).values())
            a.start()
            assert "device differs" not in a.log()
            assert a.status()["problems"] == []
            assert etcd_of(a).below(f"{PREFIX}/subnets") == claimed
            a.stop()
            left = ctl(a, "leave")
            assert (left.returncode, left.stderr) == (0, "")
        assert_same(comparable(kernel), comparable(dump(a)))


def test_without_the_command_a_start_takes_over_what_a_stopped_flanneld_left() -> None:
    """The VTEP MAC above all: peers send to the one that is in etcd."""
    with flannel_hosts("vxlan") as (a, b, flannel):
        here, there = a.container(0), b.container(0)
        flannel.add_rules()
        flannel.stop()
        index, value = index_of(a, "flannel.1"), etcd_of(a).get(key_of(a.subnet))
        checked = overlayd(a, "--check")
        assert checked.returncode == 0, checked.stderr
        assert "would take over from flannel" in checked.stdout
        assert "chain ip nat FLANNEL-POSTRTG" in checked.stdout
        assert "(was flannel.1)" in checked.stdout
        with pinging(here, there.address()):
            a.start()
        assert index_of(a, "ovl.1") == index
        assert etcd_of(a).get(key_of(a.subnet)) == value
        assert a.status()["problems"] == []
        assert "flannel's rules are left" in a.log()
        rules = ctl(a, "adopt", "--from", "flannel")
        assert (rules.returncode, rules.stderr) == (0, "")
        assert "rules     chain ip filter FLANNEL-FWD: removed" in rules.stdout
        assert "FLANNEL" not in a.run("nft", "list", "ruleset").stdout
        a.restart()
        assert etcd_of(a).get(key_of(a.subnet)) == value, "the MAC stays over a restart"
        assert here.ping(there.address())


@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_claimed_while_flanneld_runs(mode: str) -> None:
    with flannel_hosts(mode) as (a, b, flannel):
        flannel.add_rules()
        claimed, kernel = in_etcd(a), dump(a)
        refused = overlayd(a)
        assert refused.returncode == 1
        text = one_line(refused.stderr or refused.stdout)
        assert f"flanneld (process {flannel.pid}, not a unit of systemd) is running on this host" in text
        assert "overlayctl adopt --from flannel" in text
        checked = overlayd(a, "--check")
        assert checked.returncode == 1
        assert "flanneld (process" in one_line(checked.stderr)
        shown = ctl(a, "adopt", "--from", "flannel", "--dry-run")
        assert shown.returncode == 0, shown.stderr
        assert f"lease     {a.subnet}@{a.public_ip}" in shown.stdout
        assert f"flanneld  process {flannel.pid}" in shown.stdout
        a.subnet_file.write_text(a.subnet_file.read_text().replace("IPMASQ=false", "IPMASQ=true"))
        shown = ctl(a, "adopt", "--from", "flannel", "--dry-run", "--json")
        found = json.loads(shown.stdout)
        assert found["flanneld"] == {"pid": flannel.pid, "unit": None}
        assert found["remarks"] == [
            "flanneld masquerades (FLANNEL_IPMASQ=true); set ip_masq: true for overlayd to do so"
        ]
        assert {"name": "chain ip nat FLANNEL-POSTRTG", "state": "removed"} in found["rules"]
        assert (found["dry_run"], found["systemd"], found["next"], found["failures"]) == (True, [], None, [])
        adopted = ctl(a, "adopt", "--from", "flannel")
        assert adopted.returncode == 1
        assert f"stop it (kill {flannel.pid})" in one_line(adopted.stderr)
        assert in_etcd(a) == claimed
        assert_same(kernel, dump(a))
        assert a.container(0).ping(b.container(0).address())


def test_leave_is_refused_while_overlayd_runs_and_shows_what_it_would_do() -> None:
    with hosts(2, mode="vxlan", registry="etcd") as (a, b):
        eventually(lambda: a.container(0).ping(b.container(0).address(), timeout=0.5), "the overlay is up")
        claimed, kernel = in_etcd(a), dump(a)
        refused = ctl(a, "leave")
        assert refused.returncode == 1
        assert f"stop it (kill {a.pid})" in one_line(refused.stderr)
        a.stop()
        shown = ctl(a, "leave", "--check")
        assert shown.returncode == 0, shown.stderr
        assert "(was ovl.1)" in shown.stdout
        found = json.loads(ctl(a, "leave", "--dry-run", "-j").stdout)
        assert (found["overlayd"], found["next"], found["failures"]) == (None, None, [])
        assert any("(was ovl.1)" in step for step in found["kernel"])
        assert in_etcd(a) == claimed
        assert_same(kernel, dump(a))


def test_another_device_of_the_same_vni_is_not_flannels() -> None:
    """It is refused as ever; only what flannel names so is taken over."""
    with hosts(1, mode="vxlan", registry="etcd", start=False, containers=0) as (a,):
        a.ip("link add other type vxlan id 1 dev eth0 local 192.0.2.1 dstport 8472", "link set other up")
        kernel = dump(a)
        refused = overlayd(a)
        assert refused.returncode == 1
        assert "another device has VNI 1" in refused.stderr + refused.stdout
        assert_same(kernel, dump(a))
