"""What a host says of itself and of its peers: probes, health, metrics, against real traffic and real trouble.

    h1c1 10.1.1.2 fd00:10:1:1::2         h2c1                        h3c1
          |                                |                           |
[h1] 192.0.2.1 fd00:192:0:2::1 ===+=== [h2] .2 ::2 ==========+=== [h3] .3 ::3
     what is asked here           the switch: a stranger sends from h3's second addresses
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from overlayd.lab import Host, hosts
from overlayd.lab.host import ROOT
from overlayd.wire.probe import LENGTH, NONCE, Probe, ProbeKind, Sender, decode
from support.etcd_cluster import etcd_of, flannel_value, put_as_flannel
from support.waiting import eventually
from support.wire import FAMILIES, inet, inject

PROBE_PORT, HEALTH_PORT = 8286, 9001
WAYS = ("tx", "rx")
URL = f"http://127.0.0.1:{HEALTH_PORT}"
SETTINGS: dict[str, Any] = {"healthz_ip": "127.0.0.1", "healthz_port": HEALTH_PORT, "probe": {"interval": "1s"}}
SENDER = Sender(1, "0.1.0", 1452, True)
STRANGER = {4: "192.0.2.77", 6: "fd00:192:0:2::77"}

Trio = tuple[Host, Host, Host]


def overlayctl(host: Host, *arguments: str) -> str:
    argv = [sys.executable, "-m", "overlayd.cli.overlayctl", "--socket", str(host.socket_path)]
    environment = {**os.environ, "COLUMNS": "250", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(host.enter(*argv, *arguments), capture_output=True, text=True, env=environment, timeout=30)
    assert done.returncode == 0 or arguments[0] == "status", done.stderr  # which ends with 1 where it lists a problem
    return done.stdout


def get(host: Host, path: str) -> tuple[int, str]:
    """Status and body."""
    body, status = host.run("curl", "-s", "-m", "5", "-w", "\n%{http_code}", URL + path).stdout.rsplit("\n", 1)
    return int(status), body


def report(host: Host, path: str = "/healthz") -> tuple[int, dict[str, Any]]:
    status, body = get(host, path)
    return status, json.loads(body)


def red(host: Host, words: str) -> bool:
    """Whether both checks are red, for this reason."""
    (health, said), (ready, _) = report(host), report(host, "/readyz")
    return (health, ready) == (503, 503) and any(words in text for text in said["broken"])


def green(host: Host) -> bool:
    return [report(host, path)[0] for path in ("/healthz", "/readyz")] == [200, 200]


def metrics(host: Host) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    found = {}
    for family in text_string_to_metric_families(get(host, "/metrics")[1]):
        found.update({(one.name, frozenset(one.labels.items())): one.value for one in family.samples})
    return found


def probes(host: Host, of: Host) -> dict[str, dict[str, Any]]:
    """What is known of a peer, by address."""
    (peer,) = [one for one in host.status()["peers"] if one["name"] == of.name]
    return {one["address"]: one for one in peer["probes"]}


def states(host: Host, of: Host) -> set[str]:
    return {one["state"] for one in probes(host, of).values()}


@pytest.fixture(scope="module")
def trio() -> Iterator[Trio]:
    with hosts(3, mode="udp", family="dual", underlay="dual", settings=SETTINGS) as (a, b, c):
        c.ip(f"addr add {STRANGER[4]}/24 dev eth0", f"addr add {STRANGER[6]}/64 dev eth0 nodad")
        yield a, b, c


# --- probes -----------------------------------------------------------------------------------------------------------


def test_peers_find_each_other_over_both_families(trio: Trio) -> None:
    a, b, c = trio
    for host in trio:
        for peer in trio:
            if host is not peer:
                eventually(lambda host=host, peer=peer: states(host, peer) == {"reachable"})
                addresses = {str(peer.public(family)) for family in FAMILIES}
                assert probes(host, peer).keys() == addresses
    eventually(lambda: {one["path_mtu"] for peer in (b, c) for one in probes(a, peer).values()} == {1500})
    (one, *_) = probes(a, b).values()
    assert (one["mode"], one["overlay_mtu"], one["problem"], one["notes"]) == ("udp", 1452, None, [])
    assert green(a)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_stranger_gets_no_answer_and_a_peer_gets_a_short_one(trio: Trio, family: int) -> None:
    a, b, _ = trio
    stranger = trio[2]
    target = (str(a.public(family)), PROBE_PORT)
    question = Probe(ProbeKind.QUESTION, SENDER, bytes(NONCE), 1000).encode()

    def refused(reason: str) -> float:
        return metrics(a)["overlayd_probe_drops_total", frozenset({("reason", reason)})]

    before = refused("unknown_peer"), refused("other_port")
    with stranger.socket(inet(target[0]), socket.SOCK_DGRAM) as sock:
        sock.bind((STRANGER[family], PROBE_PORT))
        sock.setblocking(False)
        for payload in (question, os.urandom(1400), b"", question[:LENGTH]):
            sock.sendto(payload, target)
        inject(b, target[0], PROBE_PORT, question)  # a peer's address, but any port
        eventually(lambda: (refused("unknown_peer"), refused("other_port")) == (before[0] + 4, before[1] + 1))
        with pytest.raises(BlockingIOError):
            sock.recv(2000)
    assert "192.0.2.77" not in a.log()
    assert STRANGER[6] not in a.log()


def test_a_peers_question_has_an_answer_that_is_shorter(trio: Trio) -> None:
    a, b, _ = trio
    b.stop()
    with b.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((str(b.public(4)), PROBE_PORT))
        sock.settimeout(5)
        sock.sendto(Probe(ProbeKind.QUESTION, SENDER, b"12345678", 1472).encode(), (str(a.public(4)), PROBE_PORT))
        while (found := decode(answer := sock.recv(2000))) is not None and found.kind is ProbeKind.QUESTION:
            continue  # a's own
    assert found is not None
    assert (found.nonce, found.length, len(answer)) == (b"12345678", 1472, LENGTH)
    b.start()
    eventually(lambda: states(a, b) == {"reachable"})


def test_a_peer_that_goes_away_is_said_so_in_words(trio: Trio) -> None:
    """h2 is filtered over IPv4 alone, h3's daemon is stopped: each is told for what it is, and h1 stays green."""
    a, b, c = trio
    eventually(lambda: states(a, b) == states(a, c) == {"reachable"})
    b.run("nft", "add table ip filter; add chain ip filter input { type filter hook input priority 0; };"
          f" add rule ip filter input udp dport {PROBE_PORT} drop")  # fmt: skip
    c.stop()
    try:
        gone = {b.name: "192.0.2.2", c.name: "192.0.2.3"}
        eventually(lambda: all(probes(a, one)[gone[one.name]]["state"] == "unreachable" for one in (b, c)), timeout=20)
        assert probes(a, b)["fd00:192:0:2::2"]["state"] == "reachable"
        assert probes(a, b)["192.0.2.2"]["problem"].startswith("192.0.2.2 has not answered for ")
        eventually(lambda: "so packets arrive from there" in probes(a, b)["192.0.2.2"]["problem"], timeout=15)
        eventually(lambda: "nothing receives probes there" in probes(a, c)["192.0.2.3"]["problem"], timeout=15)
        shown = overlayctl(a, "peer", "list", "--problems")
        assert "192.0.2.2 has not answered" in shown
        assert "192.0.2.3 has not answered" in shown
        status, said = report(a)
        assert (status, said["well"], said["broken"]) == (200, False, [])
        assert any("192.0.2.3 has not answered" in text for text in said["problems"])
        found = metrics(a)
        assert found["overlayd_peers", frozenset({("state", "unreachable")})] == 2
        here = {("peer", "10.1.2.0/24,fd00:10:1:2::/64"), ("address", "192.0.2.2")}
        assert found["overlayd_peer_reachable", frozenset(here)] == 0
        assert 'msg="peer does not answer" lease=10.1.3.0-24' in a.log()
    finally:
        b.run("nft", "delete table ip filter")
        c.start()
    eventually(lambda: states(a, b) == states(a, c) == {"reachable"})
    eventually(lambda: 'msg="peer answers again" lease=10.1.3.0-24' in a.log())
    assert overlayctl(a, "peer", "list", "--problems").strip() in ("no peers to show",) or "lost" in overlayctl(
        a, "peer", "list", "--problems"
    )


# --- metrics and counters ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_metrics_are_what_was_carried(trio: Trio, family: int) -> None:
    a, b, _ = trio
    peer = ("peer", "10.1.2.0/24,fd00:10:1:2::/64")

    def counted() -> list[int]:
        state = a.status()
        (own,) = [one["traffic"] for one in state["peers"] if one["name"] == b.name]
        return [
            one[f"{way}_{what}"] for what in ("packets", "bytes") for one in (state["traffic"], own) for way in WAYS
        ]

    def scraped() -> list[float]:
        found = metrics(a)
        names = [
            (f"overlayd_{of}{what}_total", frozenset({("direction", way), *labels}))
            for what in ("packets", "bytes")
            for of, labels in (("", ()), ("peer_", (peer,)))
            for way in WAYS
        ]
        return [found[name] for name in names]

    assert a.container(0).ping(b.container(0).address(family))  # neighbours are known from here on
    before = counted()
    assert a.container(0).ping(b.container(0).address(family), count=20, size=1000)
    after = counted()
    assert [new - old for new, old in zip(after, before, strict=True)] == [20] * 4 + [20_000] * 4
    eventually(lambda: scraped() == after, what="the same to a scraper, a second later at most")
    found = metrics(a)
    assert found["overlayd_bursts_total", frozenset({("direction", "tx")})] >= 1
    assert found["overlayd_device_packets_total", frozenset({("device", "ovl0"), ("direction", "tx")})] >= 20


def test_drops_are_counted_by_reason_and_explained(trio: Trio) -> None:
    a, _, c = trio
    labels = frozenset({("direction", "rx"), ("reason", "unknown_peer")})
    before = metrics(a).get(("overlayd_drops_total", labels), 0)
    with c.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((STRANGER[4], 0))
        for _ in range(5):
            sock.sendto(b"E" * 100, (str(a.public(4)), 8285))
    eventually(lambda: metrics(a).get(("overlayd_drops_total", labels), 0) == before + 5)
    assert "unknown_peer: from an underlay address that holds no lease" in overlayctl(a, "counters")


def test_top_shows_who_talks(trio: Trio) -> None:
    a, b, _ = trio
    inner = a.container(0)
    ping = inner.popen(
        "ping", "-q", "-i", "0.01", "-s", "1000", str(b.container(0).address()), stdout=subprocess.DEVNULL
    )
    try:
        found = json.loads(overlayctl(a, "top", "--json"))
        shown = overlayctl(a, "top", "--once", "--interval", "0.5")
    finally:
        ping.kill()
    (peer,) = found["peers"]
    assert peer["lease"] == "10.1.2.0-24&fd00:10:1:2::-64"
    assert peer["name"].startswith("h2 ")
    assert peer["tx_packets"] > 0
    assert peer["tx_bytes"] == pytest.approx(1028 * peer["tx_packets"], rel=0.01)
    assert "h2 10.1.2.0/24" in shown


# --- the path ---------------------------------------------------------------------------------------------------------


def test_a_black_hole_is_found_and_said_and_bridged(trio: Trio) -> None:
    """What is longer than 1400 bytes vanishes before h3 without an ICMP error; the short packets of probes pass."""
    a, b, c = trio
    inner, far = a.container(0), c.container(0)
    c.run("nft", "add table netdev hole; add chain netdev hole in { type filter hook ingress device eth0 priority 0; };"
          " add rule netdev hole in meta length > 1400 drop")  # fmt: skip
    a.restart()  # it looks at every path when it starts
    eventually(lambda: {one["path_mtu"] for one in probes(a, c).values()} == {1400}, timeout=40)
    (problem,) = {one["problem"].split(" to ")[0] for one in probes(a, c).values()}
    assert problem == "path MTU black hole: packets of more than 1400 bytes"
    eventually(lambda: {one["path_mtu"] for one in probes(a, b).values()} == {1500})
    assert "let ICMP pass" in overlayctl(a, "peer", "list", "--problems")
    assert {one["path_mtu"] for one in probes(c, a).values()} == {1500}, "the other way is wide"
    for family in (4, 6):
        size = 1400 - (28 if family == 4 else 48)
        eventually(lambda family=family: inner.ping(far.address(family), size=1452, timeout=0.5), what="in fragments")
        assert not inner.ping(far.address(family), size=size + 1, dont_fragment=True, timeout=0.5)
        assert inner.ping(far.address(family), size=size, dont_fragment=True)
    c.run("nft", "delete table netdev hole")


# --- health -----------------------------------------------------------------------------------------------------------


def unwatch(host: Host, descriptor: int) -> int:
    """Have the daemon's event loop told nothing of one descriptor any more: it lives, and answers, and does not read.

    Returns the number of its epoll instance.
    """
    links = Path(f"/proc/{host.pid}/fd").iterdir()
    (number,) = [int(one.name) for one in links if watches(host.pid, one, descriptor)]
    set_watched(host, number, descriptor, False)
    return number


def watches(pid: int | None, link: Path, descriptor: int) -> bool:
    watched = f"\ntfd: {descriptor:8} "
    return "eventpoll" in str(link.readlink()) and watched in Path(f"/proc/{pid}/fdinfo/{link.name}").read_text()


def set_watched(host: Host, number: int, descriptor: int, on: bool) -> None:
    """Whether one of the daemon's epoll instances watches a descriptor.

    Its epoll instance and its descriptor are fetched from it (pidfd_getfd); epoll knows a file by its number, too.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    assert host.pid is not None
    with ExitStack() as closing:
        pidfd = os.pidfd_open(host.pid)
        closing.callback(os.close, pidfd)

        def fetch(number: int) -> int:
            found: int = libc.syscall(438, pidfd, number, 0)  # pidfd_getfd
            assert found >= 0, os.strerror(ctypes.get_errno())
            return found

        loop = closing.enter_context(select.epoll.fromfd(fetch(number)))
        ours = fetch(descriptor)
        closing.callback(os.close, ours)
        if ours != descriptor:
            if Path(f"/proc/self/fd/{descriptor}").exists():
                kept = os.dup(descriptor)
                closing.callback(os.close, kept)
                closing.callback(os.dup2, kept, descriptor)
            else:
                closing.callback(os.close, descriptor)
            os.dup2(ours, descriptor)
        loop.register(descriptor, select.EPOLLIN) if on else loop.unregister(descriptor)


def descriptors(host: Host, kind: str) -> list[int]:
    """The numbers of the daemon's TUN, or of its sockets on the data path's port."""
    found = []
    for link in Path(f"/proc/{host.pid}/fd").iterdir():
        target = str(link.readlink())
        if kind == "tun" and target == "/dev/net/tun":
            found.append(int(link.name))
        if kind == "socket" and target.startswith("socket:"):
            lines = host.run("ss", "-H", "-u", "-n", "-a", "-e", "sport = :8285").stdout
            if f"ino:{target[8:-1]} " in lines:
                found.append(int(link.name))
    return found


Labs = dict[str, tuple[Host, Host]]
REASONS = {
    "native stands still": "ovl0: packets wait on the TUN, and the engine has read none for ",
    "python stands still": "UDP port 8285: datagrams wait, none has been read for ",
    "all refused": "datagrams and took none (route, interface, firewall?)",
    "underlay down": "interface eth0 is down: no peer can be reached",
    "forwarding off": "net.ipv4.ip_forward is off",
}

STOOD_STILL: dict[str, tuple[int, int]] = {}
"""What is not watched there: the numbers of the epoll instance and of the descriptor."""


@pytest.fixture(scope="module")
def troubled() -> Iterator[Labs]:
    """A lab for each kind of trouble; all are made first and troubled together, so that waiting is done once."""
    with ExitStack() as closing:

        def lab(mode: str, **settings: object) -> tuple[Host, Host]:
            a, b = closing.enter_context(hosts(2, mode=mode, settings={**SETTINGS, **settings}, start=False))
            for host in (a, b):
                host.sysctl({"net/ipv4/ip_forward": 1})
                host.start()
            assert a.container(0).ping(b.container(0).address())
            return a, b

        labs = {
            "native stands still": lab("udp", udp={"engine": "native"}),
            "python stands still": lab("udp", udp={"engine": "python"}),
            "all refused": lab("udp"),
            "underlay down": lab("vxlan"),
            "forwarding off": lab("host-gw", ip_forward="check"),
        }
        for name, (a, b) in labs.items():
            eventually(lambda a=a, b=b: green(a) and states(b, a) == {"reachable"}, what=name)
            a.container(0).popen("ping", "-q", "-i", "0.1", str(b.container(0).address()), stdout=subprocess.DEVNULL)
        a = labs["all refused"][0]
        a.run("nft", "add table inet mine; add chain inet mine out { type filter hook output priority 0; };"
              " add rule inet mine out udp dport 8285 drop")  # fmt: skip
        for name, kind in (("native stands still", "tun"), ("python stands still", "socket")):
            a = labs[name][0]
            (descriptor,) = descriptors(a, kind)
            STOOD_STILL[name] = unwatch(a, descriptor), descriptor
        labs["underlay down"][0].ip("link set eth0 down")
        labs["forwarding off"][0].sysctl({"net/ipv4/ip_forward": 0})
        yield labs


@pytest.mark.parametrize("trouble", REASONS)
def test_lights_are_red_while_packets_do_not_move(troubled: Labs, trouble: str) -> None:
    a, _ = troubled[trouble]
    eventually(lambda: red(a, REASONS[trouble]))
    assert metrics(a)["overlayd_ready", frozenset()] == 0
    assert 'level=error msg="data path is broken" reason=' in a.log()
    assert REASONS[trouble] in overlayctl(a, "status")


def test_the_other_hosts_are_well_and_say_of_whom_it_is(troubled: Labs) -> None:
    for name in ("native stands still", "python stands still", "all refused"):
        a, b = troubled[name]
        eventually(lambda a=a, b=b: "it reports a fault of its own" in str(probes(b, a)))
        assert green(b)


def test_lights_are_green_again(troubled: Labs) -> None:
    for name, (number, descriptor) in STOOD_STILL.items():
        set_watched(troubled[name][0], number, descriptor, True)
    troubled["underlay down"][0].ip("link set eth0 up")
    for name in ("native stands still", "python stands still", "underlay down"):
        a, b = troubled[name]
        eventually(lambda a=a, b=b: green(a) and a.container(0).ping(b.container(0).address()), what=name)
        eventually(lambda a=a: 'msg="data path works again"' in a.log())


def test_peers_of_a_cluster_announce_the_port_and_flannel_nodes_are_never_asked() -> None:
    settings = {"probe": {"interval": "1s"}}
    with ExitStack() as closing:
        a, b, c = closing.enter_context(hosts(3, mode="vxlan", registry="etcd", settings=settings, start=False))
        with c.socket(socket.AF_INET, socket.SOCK_DGRAM) as flannel:
            flannel.bind((str(c.public_ip), PROBE_PORT))
            flannel.setblocking(False)
            put_as_flannel(etcd_of(a), "10.1.3.0/24", flannel_value(str(c.public_ip)))
            a.start()
            b.start()

            def peers() -> dict[str, list[str]]:
                found = a.status()["peers"]
                return {one["public_ip"]: [probe["state"] for probe in one["probes"]] for one in found}

            eventually(lambda: peers() == {str(b.public_ip): ["reachable"], str(c.public_ip): []})
            assert json.loads(overlayctl(a, "counters", "--json"))["probes"]["counts"]["sent"] > 0
            with pytest.raises(BlockingIOError):
                flannel.recv(100)
