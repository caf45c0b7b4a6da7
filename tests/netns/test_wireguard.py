"""wireguard mode between containers of two hosts, and with Debian's wireguard-go in the place of one.

h1c1 10.1.1.2 ------ br0 10.1.1.1 [h1] eth0 192.0.2.1 ======= eth0 192.0.2.2 [h2] br0 10.1.2.1 ------ h2c1 10.1.2.2
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from overlayd.lab import Host, LabError, hosts
from overlayd.lab.spec import merged
from support.commands import reloaded
from support.waiting import eventually
from support.wire import Capture, inject, tcp_carries, transfer
from support.wireguard_go import WireguardGo, wireguard_go

PORT, PORT_V6 = 51820, 51821
PSK = "FpCyhws9cxwWoV4xELtfJvjJN+zQVRPISllRWgeopVE="
OTHER_PSK = "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw="


def key_of(host: Host) -> str:
    """Its public key, as the table of leases has it."""
    table = yaml.safe_load((host.directory.parent / "leases.yaml").read_text())["leases"]
    return next(row["public_key"] for row in table if row["name"] == host.name)


def private_key_file(host: Host) -> Path:
    return host.directory / "state" / "wireguard.key"


def with_settings(host: Host, **settings: Any) -> dict[str, Any]:
    return merged(host.config, {"wireguard": settings})


def connected(a: Host, b: Host, family: int = 4) -> bool:
    return a.container(0).ping(b.container(0).address(family))


# --- two hosts with overlayd ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("inside", "underlay"), [("dual", "dual"), ("dual", "ipv4"), ("dual", "ipv6")])
def test_containers_reach_each_other_and_the_wire_does_not_show_what_they_say(inside: str, underlay: str) -> None:
    secret = b"what containers tell one another" * 2000
    with hosts(2, mode="wireguard", family=inside, underlay=underlay) as (a, b), Capture(b, "eth0") as wire:
        for family in (4, 6):
            assert a.container(0).ping(b.container(0).address(family), count=2)
            assert transfer(a.container(0), b.container(0), b.container(0).address(family), secret) == secret
            assert tcp_carries(1_000_000, b.container(0), a.container(0), a.container(0).address(family))
        frames = wire.frames()
        assert sum(len(frame.data) for frame in frames) > 2_000_000
        assert not [frame for frame in frames if b"containers tell" in frame.data]


def test_the_private_key_is_made_once_and_for_the_daemon_alone() -> None:
    with hosts(2, mode="wireguard") as (a, b):
        path = private_key_file(a)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        written = path.read_text()
        a.restart()
        assert path.read_text() == written
        assert written.strip() not in a.log()
        a.stop()
        path.chmod(0o644)
        with pytest.raises(LabError, match="others may read this host's private key; chmod 600"):
            a.start()
        path.chmod(0o600)
        path.write_text("short\n")
        with pytest.raises(LabError, match="not a WireGuard private key"):
            a.start()
        path.write_text(private_key_file(b).read_text())
        with pytest.raises(LabError, match=r"has public_key .* correct the row"):
            a.start()


def test_a_start_without_the_hosts_key_in_the_table_says_which_it_is() -> None:
    with hosts(2, mode="wireguard", start=False) as (a, b):
        keys = {host.name: key_of(host) for host in (a, b)}
        rows = [host.plan.lease_entry() for host in (a, b)]
        a.lab.write_leases(rows)
        with pytest.raises(LabError, match=r"has no key; write public_key: \S{44}") as refused:
            a.start()
        assert keys["h1"] in str(refused.value)
        a.lab.write_leases([rows[0] | {"public_key": keys["h1"]}, rows[1]])
        a.start()
        assert "10.1.2.0/24 has no public_key in its lease" in str(a.status())


def test_after_a_restart_and_a_kill_sessions_are_back_at_once() -> None:
    with hosts(2, mode="wireguard") as (a, b):
        assert connected(a, b)
        b.restart()
        assert connected(b, a)
        assert connected(a, b)
        b.stop(9)
        b.start()
        eventually(lambda: connected(a, b), "without the 15 s after which it would notice by itself", timeout=10)


def test_a_host_with_another_preshared_key_is_kept_out() -> None:
    with hosts(2, mode="wireguard", settings={"wireguard": {"psk": PSK}}) as (a, b):
        assert connected(a, b)
        reloaded(b, lambda: b.write_config(with_settings(b, psk=OTHER_PSK)))
        assert not connected(b, a)
        assert b.status()["drops"]["rx"]["bad_handshake"] > 0
        for host in (a, b):
            assert PSK not in host.log()
            assert OTHER_PSK not in host.log()


def test_what_is_injected_is_dropped_and_counted() -> None:
    with hosts(3, mode="wireguard") as (a, b, c):
        assert connected(a, b)
        plain = bytes.fromhex("45000014000000004001") + bytes(10)
        inject(c, a.public_ip, PORT, plain, b"\1\0\0\0" + os.urandom(144), b"\4\0\0\0" + os.urandom(60))
        expected = {"not_wireguard": 1, "bad_mac": 1, "no_session": 1}
        eventually(lambda: expected.items() <= a.status()["drops"]["rx"].items(), "all three are counted")


def test_leases_in_etcd_are_flannels() -> None:
    with hosts(2, mode="wireguard", registry="etcd", family="dual", underlay="dual") as (a, b):
        for family in (4, 6):
            eventually(lambda family=family: connected(a, b, family), "both know of each other")
        assert a.lab.etcd is not None
        values = [json.loads(text) for text in a.lab.etcd.below("/coreos.com/network/subnets/").values()]
        for value in values:
            assert value["BackendType"] == "wireguard"
            assert value["BackendData"].keys() == value["BackendV6Data"].keys() == {"PublicKey", "Port"}
            assert (value["BackendData"]["Port"], value["BackendV6Data"]["Port"]) == (PORT, PORT_V6)
            assert value["BackendData"]["PublicKey"] == value["BackendV6Data"]["PublicKey"]
        assert len({value["BackendData"]["PublicKey"] for value in values}) == 2


# --- overlayd and wireguard-go ----------------------------------------------------------------------------------------


@pytest.fixture(params=["ipv4", "ipv6"])
def mixed(request: pytest.FixtureRequest) -> Iterator[tuple[Host, WireguardGo]]:
    """[h1] with overlayd, [h2] with wireguard-go, over that underlay."""
    settings = {"wireguard": {"psk": PSK}}
    with hosts(2, mode="wireguard", underlay=request.param, start=False, settings=settings) as (a, b):
        port = PORT if request.param == "ipv4" else PORT_V6
        with wireguard_go(b, private_key_file(b), port) as other:
            other.peer(key_of(a), a.public_ip, port, str(a.subnet), psk=PSK)
            b.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
            a.start()
            yield a, other


def test_with_wireguard_go(mixed: tuple[Host, WireguardGo]) -> None:
    a, other = mixed
    b = other.host
    assert connected(a, b)  # the first packet is not lost
    assert connected(b, a)
    for one, two in ((a, b), (b, a)):
        assert tcp_carries(2_000_000, one.container(0), two.container(0), two.container(0).address())
    assert int(other.show("latest-handshakes")[0]) > 0
    assert a.status()["drops"]["rx"] == {}


def test_wireguard_go_begins_and_overlayd_comes_back(mixed: tuple[Host, WireguardGo]) -> None:
    a, other = mixed
    b = other.host
    a.stop()
    other.wg("set", "wg0", "peer", key_of(a), "remove")
    a.start()
    other.peer(key_of(a), a.public_ip, other.port, str(a.subnet), psk=PSK)
    eventually(lambda: connected(b, a), "a session that wireguard-go begins")
    a.restart()
    eventually(lambda: connected(b, a), "a session that overlayd begins after its restart")
