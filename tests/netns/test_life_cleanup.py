"""`overlayd --cleanup`: the host is as it was before the first start, and what is others' has not been touched.

h1c1 10.1.1.2 -- br0 10.1.1.1 [h1] eth0 192.0.2.1 ======== eth0 192.0.2.2 [h2] br0 10.1.2.1 -- h2c1 10.1.2.2
"""

from __future__ import annotations

import pytest

from overlayd.lab import Host, hosts
from support.commands import one_line, overlayd
from support.dump import assert_same, dump
from support.wire import MODES

LOOK_ALIKES = """
add table inet overlay
add chain inet overlay postrouting { type nat hook postrouting priority 90; }
add rule inet overlay postrouting ip saddr 10.1.0.0/16 oifname "nowhere" counter masquerade comment "overlayd"
add table ip overlayd
add chain ip overlayd inner
add rule ip overlayd inner ip saddr 10.1.0.0/16 counter drop comment "mine, not overlayd's"
"""


def add_look_alikes(host: Host) -> None:
    """What an administrator might have: it has a part of the looks of overlayd's own, and is not."""
    host.ip(
        "link add ovl.9 type vxlan id 9 dstport 9999 dev eth0 local 192.0.2.1 nolearning",
        "link set ovl.9 up",
        "tuntap add ovl1 mode tun",
        "addr add 10.1.200.0/32 dev ovl.9",
        "neigh add 10.1.200.9 lladdr 02:00:00:00:00:09 dev ovl.9 nud permanent",
        "route add unreachable 10.77.0.0/16",
        "route add 10.99.0.0/16 via 192.0.2.2 proto 177",
        "route add 10.98.0.0/16 via 192.0.2.2 proto 178 table 99",
    )
    host.run("bridge", "fdb", "add", "02:00:00:00:00:09", "dev", "ovl.9", "dst", "192.0.2.9")
    host.run("nft", "-f", "-", input=LOOK_ALIKES)
    for tables, network in (("iptables", "10.1.0.0/16"), ("ip6tables", "fd00:10:1::/48")):
        host.run(tables, "-P", "FORWARD", "DROP")
        mine = ("-s", network, "-m", "comment", "--comment", "overlayd", "-j", "ACCEPT")
        host.run(tables, "-A", "FORWARD", "-i", "nowhere", *mine)


@pytest.mark.parametrize("mode", MODES)
def test_the_host_is_as_it_was(mode: str) -> None:
    """flannel.md 20."""
    with hosts(2, mode=mode, start=False, family="dual", underlay="dual", settings={"ip_masq": True}) as (a, b):
        # Forwarding stays on after a cleanup; and the kernel makes anycast routes when it is turned on.
        a.sysctl({"net/ipv4/ip_forward": 1, "net/ipv6/conf/all/forwarding": 1})
        add_look_alikes(a)
        before = dump(a)
        a.lab.start()
        for family in (4, 6):
            assert a.container(0).ping(b.container(0).address(family))
        with pytest.raises(AssertionError, match="state differs"):
            assert_same(before, dump(a))

        running = dump(a)
        refused = overlayd(a, "--cleanup")
        assert refused.returncode == 1
        assert f"another overlayd (process {a.pid}) is running; stop it first" in one_line(refused.stderr)
        assert_same(running, dump(a))

        a.stop()
        done = overlayd(a, "--cleanup")
        assert done.returncode == 0, done.stderr
        assert "  - route unreachable 10.1.0.0/16\n" in done.stdout
        assert "objects\n" in done.stdout
        assert_same(before, dump(a))

        again = overlayd(a, "--cleanup")
        assert (again.returncode, again.stdout, again.stderr) == (0, "nothing to remove\n", "")
        assert_same(before, dump(a))
        a.start()
        for family in (4, 6):
            assert a.container(0).ping(b.container(0).address(family))


def test_a_killed_daemons_state_is_removed_whatever_the_configuration_says() -> None:
    with hosts(2, mode="vxlan", start=False) as (a, _):
        before = dump(a)
        a.start()
        a.stop(9)
        a.config_path.write_text(f"mode: nonsense\ncontrol_socket: {a.socket_path}\nsubnet_file: {a.subnet_file}\n")
        assert a.subnet_file.exists()
        done = overlayd(a, "--cleanup")
        assert done.returncode == 0, done.stderr
        assert_same(before, dump(a))
        assert not a.subnet_file.exists(), "its lease is nobody's now"


def test_a_subnet_env_on_a_host_without_overlayds_objects_is_anothers() -> None:
    with hosts(1, mode="vxlan", start=False) as (a,):
        a.subnet_file.write_text("FLANNEL_SUBNET=10.9.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n")
        assert overlayd(a, "--cleanup").stdout == "nothing to remove\n"
        assert a.subnet_file.exists()


def test_a_broken_configuration_does_not_let_a_running_daemon_be_cleaned_away() -> None:
    with hosts(2, mode="vxlan") as (a, b):
        before = dump(a)
        a.config_path.write_text(f"mode: nonsense\ncontrol_socket: {a.socket_path}\n")
        done = overlayd(a, "--cleanup")
        assert done.returncode == 1, done.stdout
        assert_same(before, dump(a))
        assert a.container(0).ping(b.container(0).address())
