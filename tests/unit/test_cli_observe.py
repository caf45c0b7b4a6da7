"""How `overlayctl peer`, `counters` and `top` show the daemon's answers."""

from __future__ import annotations

import pytest

from overlayd.cli import counters, peer, render, top
from overlayd.cli.overlayctl import COMMANDS, main
from overlayd.core.forward import DropReason
from overlayd.datapath.wireguard.common import TunnelDrop
from overlayd.observe.probe_counters import DROP_REASONS
from support.answers import COUNTERS, PEER, PROBE, TRAFFIC, text


def test_a_peer_that_answers() -> None:
    line, note = text(peer.peers([PEER])).splitlines()[1:]
    for fact in (
        "host-b",
        "10.1.2.0/24, fd00::/64",
        "192.0.2.2",
        "reachable",
        "0.52 ms",
        "5%",
        "1400",
        "udp 0.1.0",
    ):
        assert fact in line
    assert note == "  the path MTU is 1400 bytes"


def test_peers_of_every_kind() -> None:
    silent = {**PROBE, "state": "unreachable", "rtt": None, "problem": "192.0.2.2 has never answered", "notes": []}
    new = {
        **PROBE,
        "state": "unknown",
        "rtt": None,
        "asked": 0,
        "loss": 0,
        "path_mtu": None,
        "mode": None,
        "version": None,
    }
    flannel = {**PEER, "probes": []}
    foreign = {**PEER, "problem": "10.1.2.0/24 is reached by backend vxlan", "probes": []}
    shown = text(peer.peers([{**PEER, "probes": [silent, {**new, "notes": []}]}, flannel, foreign]))
    for fact in ("192.0.2.2 has never answered", "unknown", "not probed", "is reached by backend vxlan"):
        assert fact in shown
    assert render.trouble(flannel) == []
    assert render.trouble(foreign) == ["10.1.2.0/24 is reached by backend vxlan"]
    assert render.trouble({**PEER, "probes": [silent]}) == ["192.0.2.2 has never answered"]
    assert render.trouble(PEER) == PROBE["notes"]
    assert "no peers" in text(peer.peers([]))


def test_every_reason_is_explained() -> None:
    assert counters.REASONS.keys() == {reason.value for reason in (*DropReason, *TunnelDrop)}
    assert counters.PROBES.keys() == set(DROP_REASONS)


def test_counters() -> None:
    state = {
        **COUNTERS,
        "traffic": {"tx_packets": 7, "tx_bytes": 1_500, "rx_packets": 9, "rx_bytes": 2_000_000},
        "drops": {"tx": {"no_lease": 3}, "rx": {"unknown_peer": 4, "rule of nftables": 5}},
        "devices": {"ovl.1": {"tx_errors": 0, "rx_errors": 0, "tx_dropped": 6, "rx_dropped": 0}},
        "probes": {"counts": {"sent": 12, "answers": 11, "answered": 10}, "drops": {"limited": 2}},
        "broken": ["ovl0: the TUN is gone"],
    }
    shown = [" ".join(line.split()) for line in text(counters.counters(state)).splitlines()]
    for line in (
        "broken ovl0: the TUN is gone",
        "out 7 packets, 1.5 kB",
        "in 9 packets, 2.0 MB",
        f"drops out 3 no_lease: {counters.REASONS['no_lease']}",
        "drops in 5 rule of nftables",
        f"4 unknown_peer: {counters.REASONS['unknown_peer']}",
        "ovl.1 6 dropped out, counted by the kernel",
        "probes 12 sent to peers, 11 answered",
        f"2 ignored (limited): {counters.PROBES['limited']}",
        "offloads 1 tso4: the TUN passes IPv4 TCP superpackets",
        "engine 128 run_segments",
    ):
        assert line in shown


def test_rates_are_by_the_second_and_the_busiest_come_first() -> None:
    old = {**COUNTERS, "peers": {"a": [10, 1000, 0, 0], "idle": [5, 5, 5, 5]}}
    new = {
        **COUNTERS,
        "time": 102.0,
        "traffic": {"tx_packets": 40, "tx_bytes": 4000, "rx_packets": 0, "rx_bytes": 0},
        "drops": {"tx": {"no_lease": 4}, "rx": {}},
        "bursts": {"tx_bursts": 10, "tx_reads": 10, "rx_bursts": 0, "rx_reads": 0},
        "peers": {"a": [30, 3000, 0, 0], "b": [1, 100, 40, 60_000], "idle": [5, 5, 5, 5]},
    }
    found = top.rates(old, new)
    assert found.total == {"tx_packets": 20, "tx_bytes": 2000, "rx_packets": 0, "rx_bytes": 0}
    assert list(found.peers) == ["b", "a"]
    assert found.peers["a"] == {"tx_packets": 10, "tx_bytes": 1000, "rx_packets": 0, "rx_bytes": 0}
    assert found.drops == {"tx no_lease": 2}
    assert found.bursts == {"tx": 4.0, "rx": 0.0}
    shown = text(*top.view(found, {"b": "host-b 10.1.2.0/24"}, 1))
    for fact in ("host-b 10.1.2.0/24", "240k", "and 1 more peers", "dropped tx no_lease 2/s", "out 4.0, in 0.0"):
        assert fact in shown
    machine = top.machine(found, {"b": "host-b"})
    assert [(one["lease"], one["name"]) for one in machine["peers"]] == [("b", "host-b"), ("a", None)]


def test_a_daemon_that_started_anew_has_no_negative_rates() -> None:
    old = {**COUNTERS, "traffic": {**TRAFFIC, "tx_packets": 1000}, "peers": {"a": [1000, 1000, 0, 0]}}
    new = {**COUNTERS, "time": 101.0, "traffic": {**TRAFFIC, "tx_packets": 5}, "peers": {"a": [5, 50, 0, 0]}}
    found = top.rates(old, new)
    assert found.total["tx_packets"] == 5
    assert found.peers["a"]["tx_packets"] == 5


def test_top_where_the_kernel_carries_the_packets() -> None:
    one = {**TRAFFIC, "tx_packets": 8, "tx_bytes": 800}
    vxlan = {**COUNTERS, "bursts": None, "icmp": None, "devices": {"ovl.1": one}, "traffic": one}
    shown = text(*top.view(top.rates({**vxlan, "devices": {}, "traffic": TRAFFIC}, {**vxlan, "time": 101.0}), {}, 9))
    assert "ovl.1" in shown
    host_gw = {**COUNTERS, "bursts": None, "icmp": None, "traffic": None}
    assert "nothing is counted in host-gw" in text(*top.view(top.rates(host_gw, {**host_gw, "time": 101.0}), {}, 9))


def test_top_with_thousands_of_peers() -> None:
    old = {**COUNTERS, "peers": {f"p{n}": [0, 0, 0, 0] for n in range(10_000)}}
    new = {**COUNTERS, "time": 101.0, "peers": {f"p{n}": [1, n, 0, 0] for n in range(10_000)}}
    shown = text(*top.view(top.rates(old, new), {}, 12)).splitlines()
    assert shown[2].startswith("p9999 ")
    assert "and 9988 more peers with traffic" in shown
    assert len(shown) < 20


def test_names_come_from_leases() -> None:
    assert top.key_of(PEER) == "10.1.2.0-24&fd00::-64"


@pytest.mark.parametrize("command", [one.name for one in COMMANDS])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert f"usage: overlayctl {command}" in shown


@pytest.mark.parametrize("value", ["0", "-1", "x", "nan", "1e9"])
def test_an_interval_that_makes_no_sense(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["top", "--interval", value])
    assert "must be between 0.1 and 3600 seconds" in capsys.readouterr().err
