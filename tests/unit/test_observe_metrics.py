"""/metrics and the health checks: what they say of a daemon, in a form that others read, and no more than that."""

from __future__ import annotations

import errno
import json
import re
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, ip_interface
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from overlayd.backend.host_gw import HostGwBackend
from overlayd.backend.udp import UDP
from overlayd.core.kernel.firewall import Sighting
from overlayd.core.leases.lease import Lease
from overlayd.core.leases.subnets import SubnetRange
from overlayd.core.node import Node, Underlay
from overlayd.core.offload import OFFLOADS
from overlayd.core.probing.target import Endpoint
from overlayd.core.settings.model import ProbeSettings, Settings
from overlayd.daemon.waiting import Waiting
from overlayd.datapath.contract import Counters, Progress, Traffic
from overlayd.datapath.settings import UdpSettings
from overlayd.observe import health, metric_format
from overlayd.observe.health import Health
from overlayd.observe.lifecycle import Lifecycle, Phase
from overlayd.observe.metrics import exposition
from overlayd.observe.overlay import Overlay
from overlayd.observe.prober import Prober
from overlayd.reconcile.reconciler import Reconciler
from overlayd.registry.base import RegistryState
from overlayd.wire.probe import Probe, ProbeKind, Sender

DASHBOARD = Path(__file__).parents[2] / "config" / "grafana-dashboard.json"
OWN = IPv4Address("192.0.2.1")
NODE = Node(
    UDP,
    UdpSettings(),
    Lease(subnet=IPv4Network("10.1.1.0/24"), public_ip=OWN),
    Underlay("lo", 1, 1500, (ip_interface("192.0.2.1/24"),), OWN, None),
    (SubnetRange.of(IPv4Network("10.0.0.0/8")),),
)
EVIL = 'a "name" \\ with\nlines'


class Engine:
    """A data path whose engine has counted this, and that is well."""

    engine = "native"
    progress = Progress(10, 40, 5, 6)

    def faults(self, now: float) -> list[str]:
        return []

    def counters(self) -> Counters:
        peers = {"10.1.2.0-24": Traffic(1, 100, 2, 200), "10.1.3.0-24": Traffic(7, 700, 0, 0)}
        return Counters(Traffic(8, 800, 2, 200), peers, {"no_lease": 3}, {"unknown_peer": 4}, 5, 6)

    def unknown_sender(self) -> str | None:
        return None

    def gauges(self) -> dict[str, int]:
        rest = {"run_segments": 128, "gso_failures": 1, "coalesce_refusals": 2, "tunnelled": 3, "busy_poll_us": 50}
        return {**dict.fromkeys(OFFLOADS, 1), **rest}


class UserSpace(HostGwBackend):
    """A backend with a data path."""

    devices = ("lo",)
    data_path: Any = Engine()


async def nothing_noted() -> list[Sighting]:
    return []


class Daemon:
    """The parts of one that are looked at; what is wrong with it is set by the tests."""

    def __init__(self, peers: int = 2, phase: Phase = "ready") -> None:
        self.lifecycle = Lifecycle(phase, started=1000.0, reloads=2)
        reconciler = Reconciler(None)  # type: ignore[arg-type]
        leases = [Lease(subnet=IPv4Network((0x0A010200 + 256 * n, 24)), public_ip=OWN + 1 + n) for n in range(peers)]
        reconciler.table.replace([NODE.lease, *(replace(one, probe_port=8286) for one in leases[:-1]), leases[-1]])
        prober = Prober(ProbeSettings(), lambda: Sender(1, "0.1.0", 1472, True), {1: "udp"}, lambda: 1000.0)
        registry: Any = SimpleNamespace(name="etcd", state=lambda: self.registry_state)
        self.registry_state = RegistryState("etcd", True, 5.0, 6.0, None, "http://x", 77, 88.0, {"k": "bad"})
        self.overlay = Overlay(Settings(network="10.1.0.0/16"), UserSpace(NODE), registry, reconciler, prober)
        self.forwarding_faults: list[str] = []
        self.health = Health(self.lifecycle, self.overlay, lambda: None, lambda: self.forwarding_faults, nothing_noted)

    def answer(self) -> None:
        """Have the first peer answer a probe."""
        prober = self.overlay.prober
        prober._node = NODE
        prober._peers._hosts = {"10.1.2.0-24": ("192.0.2.2",)}
        prober._schedule.replace([Endpoint("192.0.2.2", 8286, 4, "10.1.2.0-24")], 1500, 1000.0)
        for now in (1001.0, 1002.0, 1003.0):
            for _, question in prober._schedule.due(now):
                sender = Sender(1, "1.0", 1472, True)
                rtt = prober._schedule.receive(
                    "192.0.2.2", Probe(ProbeKind.ANSWER, sender, question.nonce, question.length), now + 0.25
                )
                prober.counters.record(rtt or 0.0)


Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def scrape(daemon: Daemon) -> Samples:
    """Every sample, as prometheus_client's parser reads the page."""
    return parsed(await exposition(daemon.lifecycle, daemon.overlay, daemon.health))


def parsed(page: str) -> Samples:
    found: Samples = {}
    for family in text_string_to_metric_families(page):
        assert family.documentation
        assert family.type in ("counter", "gauge", "histogram")
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found, "every series once"
            assert sample.name.endswith("_total") == (family.type == "counter")
            found[key] = sample.value
    return found


def at(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


async def test_what_was_counted_is_told() -> None:
    daemon = Daemon()
    daemon.answer()
    found = await scrape(daemon)
    assert at(found, "overlayd_packets_total", direction="tx") == 8
    assert at(found, "overlayd_bytes_total", direction="rx") == 200
    assert at(found, "overlayd_drops_total", direction="tx", reason="no_lease") == 3
    assert at(found, "overlayd_drops_total", direction="rx", reason="unknown_peer") == 4
    assert at(found, "overlayd_bursts_total", direction="tx") == 10
    assert at(found, "overlayd_reads_total", direction="rx") == 6
    assert at(found, "overlayd_offload_enabled", offload="udp_gso") == 1
    assert at(found, "overlayd_busy_poll_seconds") == pytest.approx(50e-6)
    assert at(found, "overlayd_leases") == 3
    assert at(found, "overlayd_lease_expiry_time_seconds") == 88
    assert at(found, "overlayd_registry_stale", registry="etcd") == 1
    assert at(found, "overlayd_peer_bytes_total", peer="10.1.3.0/24", direction="tx") == 700
    assert at(found, "overlayd_peers", state="reachable") == 1
    assert at(found, "overlayd_peers", state="not_probed") == 1
    here = {"peer": "10.1.2.0/24", "address": "192.0.2.2"}
    assert at(found, "overlayd_peer_reachable", **here) == 1
    assert at(found, "overlayd_peer_rtt_seconds", **here) == pytest.approx(0.25)
    assert at(found, "overlayd_peer_path_mtu_bytes", **here) == 1500
    assert at(found, "overlayd_probe_rtt_seconds_bucket", le="0.1") == 0
    assert (
        at(found, "overlayd_probe_rtt_seconds_bucket", le="0.25") == at(found, "overlayd_probe_rtt_seconds_count") > 0
    )
    assert at(found, "process_resident_memory_bytes") > 1e6


async def test_texts_of_others_cannot_forge_a_sample() -> None:
    daemon = Daemon()
    daemon.answer()
    lease = daemon.overlay.reconciler.table.get("10.1.2.0-24")
    assert lease is not None
    daemon.overlay.reconciler.table.replace([NODE.lease, replace(lease, name=EVIL)])
    found = await scrape(daemon)
    (labels,) = [dict(labels) for name, labels in found if name == "overlayd_peer_info"]
    assert labels["name"] == EVIL


async def test_thousands_of_peers_make_no_more_series_than_a_few() -> None:
    few = len(await scrape(Daemon(2)))
    daemon = Daemon(10_000)
    found = await scrape(daemon)
    assert len(found) < few
    assert at(found, "overlayd_peer_series") == 0
    assert at(found, "overlayd_peers", state="not_probed") == 10_000
    daemon.overlay.settings = Settings(network="10.1.0.0/16", metrics_peers="10000")
    assert len(await scrape(daemon)) > 10_000


async def test_a_daemon_that_waits_has_metrics_too() -> None:
    waiting = waits()
    found = parsed(await waiting.metrics())
    assert at(found, "overlayd_ready") == 0
    assert at(found, "overlayd_registry_connected", registry="etcd") == 0


async def test_the_dashboard_shows_the_metrics_that_there_are_and_no_others() -> None:
    daemon = Daemon()
    daemon.answer()
    there = {name for name, _ in await scrape(daemon)} - {"overlayd_probe_rtt_seconds_sum"}
    dashboard = json.loads(DASHBOARD.read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    expressions += [one["query"]["query"] for one in dashboard["templating"]["list"] if isinstance(one["query"], dict)]
    shown = {name for text in expressions for name in re.findall(r"\b(?:overlayd|process)_\w+", text)}
    assert shown == there


def test_the_dashboards_panels_do_not_overlap() -> None:
    taken = set()
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken
        taken |= cells


# --- health -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def daemon() -> Daemon:
    one = Daemon()
    one.registry_state = RegistryState("static")
    return one


def test_a_daemon_that_is_well(daemon: Daemon) -> None:
    daemon.health.poll(0.0)
    assert daemon.health.report() == {"state": "ready", "well": True, "broken": [], "problems": []}


def test_what_is_broken_and_what_is_only_a_problem(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon.forwarding_faults = ["net.ipv4.ip_forward is off"]
    monkeypatch.setattr(Engine, "faults", lambda self, now: ["ovl0: the TUN is gone"])
    daemon.overlay.backend.node = replace(NODE, underlay=replace(NODE.underlay, name="gone0"))
    daemon.health.poll(0.0)
    daemon.registry_state = RegistryState("etcd", connected=False, error="refused", invalid={"key": "is no lease"})
    daemon.lifecycle.reload_error = "mode: vxlam is not one of"
    report: dict[str, Any] = daemon.health.report()
    assert report["broken"] == [
        "ovl0: the TUN is gone",
        "underlay gone0: the device is gone",
        "net.ipv4.ip_forward is off",
    ]
    assert report["problems"][3:] == [
        "etcd is unreachable: refused",
        "key: is no lease",
        "the last reload was refused: mode: vxlam is not one of",
    ]


def test_a_shortage_of_descriptors_is_a_problem_and_ends_nothing(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str, *, carrier: bool) -> str:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(health.descriptors, "limit", lambda: 10)
    monkeypatch.setattr(health.device, "fault", refuse)
    daemon.health.poll(0.0)
    report = daemon.health.report()
    assert report["broken"] == []
    assert re.fullmatch(r"file descriptors run out: \d+ of 10 are open .*", report["problems"][0])


def test_packets_that_go_out_and_never_come_back(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = Traffic(tx_packets=5, rx_packets=2)
    monkeypatch.setattr(Engine, "counters", lambda self: Counters(replace(sent)))
    monkeypatch.setattr(daemon.overlay.prober, "silent", lambda: True)
    daemon.health.poll(0.0)
    sent.tx_packets = 50
    daemon.health.poll(5.0)
    assert daemon.health.broken == [
        "45 packets were sent to peers in 5 s, none was received, and no peer answers probes"
    ]
    sent.tx_packets, sent.rx_packets = 60, 3
    daemon.health.poll(10.0)
    assert daemon.health.broken == []
    sent.tx_packets = 70
    monkeypatch.setattr(daemon.overlay.prober, "silent", lambda: False)
    daemon.health.poll(15.0)
    assert daemon.health.broken == [], "a peer answers: what goes one way may be meant so"


def test_who_is_configured_differently_is_a_problem(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = Traffic()
    monkeypatch.setattr(Engine, "unknown_sender", lambda self: "192.0.2.99")
    monkeypatch.setattr(Engine, "counters", lambda self: Counters(peers={"10.1.3.0-24": replace(sent)}))
    before = set(daemon.health.problems())
    for now in range(11):
        sent.tx_packets += 1
        daemon.health.poll(float(now))
    sender, peer = sorted(set(daemon.health.problems()) - before, reverse=True)
    assert sender.startswith("packets from 192.0.2.99 are dropped: no lease has that public IP")
    assert peer.startswith("10.1.3.0/24: 5 packets were sent there in 5 s and none came back")
    assert daemon.health.broken == [], "a problem turns nobody red"


def test_thousands_of_problems_make_a_short_answer(daemon: Daemon) -> None:
    daemon.registry_state = RegistryState("etcd", invalid={f"key{n}": "is no lease" for n in range(10_000)})
    problems = daemon.health.report()["problems"]
    assert (len(problems), problems[-1]) == (51, "and 9950 more")


def waits() -> Waiting:
    registry: Any = SimpleNamespace(state=lambda: RegistryState("etcd", connected=False, error="refused"))
    return Waiting(Lifecycle(), registry)


async def test_before_the_node_is_known() -> None:
    expected = {"state": "waiting", "well": False, "broken": [], "problems": ["waiting for etcd: refused"]}
    assert waits().health_report() == expected


def test_before_the_data_path_is_up(daemon: Daemon) -> None:
    daemon.lifecycle.phase = "starting"
    report = daemon.health.report()
    assert (report["state"], report["well"], report["broken"]) == ("starting", False, [])
    assert report["problems"]


def test_the_content_type_is_prometheus() -> None:
    assert metric_format.CONTENT_TYPE.startswith("text/plain; version=0.0.4")
