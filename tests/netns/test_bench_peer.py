"""`overlayctl bench --peer` against `overlayctl bench serve`, as between two machines: each in a namespace of its own.

h1 --- bench --peer ---> h2: bench serve
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from overlayd.bench.peer import PORT
from overlayd.bench.result import Result
from overlayd.lab import Host, Namespace, hosts
from overlayd.lab.host import ROOT
from overlayd.lab.state import Process, processes_in

COMMAND = ("env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "overlayd.cli.overlayctl", "bench")
SHORT = ("--quick", "--rounds", "1", "--patience", "0")


@contextmanager
def serving(where: Host, *options: str) -> Iterator[subprocess.Popen[str]]:
    """`overlayctl bench serve`, from when it listens."""
    server = where.popen(
        *COMMAND, "serve", "--socket", str(where.socket_path), *options, stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline().startswith(f"listening on TCP port {PORT}")
        yield server
    finally:
        server.terminate()
        server.wait(10)


def bench(where: Namespace, *options: str) -> subprocess.CompletedProcess[str]:
    return where.run(*COMMAND, *SHORT, *options, check=False, timeout=100)


def test_a_peer_is_measured_on_every_way_that_leads_there(tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    with hosts(2, mode="udp", family="dual", underlay="dual") as (a, b), serving(b) as server:
        overlay = b.plan.bridge[1].ip
        done = bench(
            a, "--socket", str(a.socket_path), "--peer", str(overlay), "--peer", f"six={b.public(6)}",
            "--metrics", "tcp1,udp64,rr,connect", "--output", str(output),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        left = processes_in([b.namespace])
        assert {one.pid for one in left} == {server.pid, b.pid}, "no tool is left running on the other side"
    result = Result.load(output)
    assert result.complete
    assert result.environment.peer == result.environment.machine  # two namespaces of this one
    assert [(scenario.name, scenario.frames) for scenario in result.scenarios] == [
        ("udp-native", "peer"),
        ("six", "peer"),
    ]
    for scenario in result.scenarios:
        for metric in result.plan.metrics:
            (rate,) = result.series("peer", scenario.name, metric, "rate")
            assert rate
            assert rate > 0, (scenario.name, metric)
    (cost,) = result.series("peer", "udp-native", "tcp1", "daemon_cpu")
    assert cost, "the daemons' time is counted on both machines"
    assert result.scenarios[0].memory_mib[0] > 0
    for scenario in result.scenarios:
        assert scenario.facts["device"] == "eth0"
        assert "tx-tcp-segmentation" in scenario.facts["features"], "offloads are stated"


def test_there_is_one_session_at_a_time_and_the_next_one_when_it_has_ended() -> None:
    with hosts(2, mode="none") as (a, b), serving(b) as server:
        with line(a, b) as first:
            assert first({"do": "hello"})["format"] == "overlayd-bench-peer/2"
            done = bench(a, "--peer", str(b.public_ip))
            assert done.returncode == 1
            assert f"{b.public_ip}: {a.public_ip} is measuring; try again when it has finished" in done.stderr
            assert first({"do": "start", "tool": "udp", "congestion": "", "address": str(b.public_ip)}) == {}
            assert len(processes_in([b.namespace])) == 2
        assert server.stdout is not None
        while "ended" not in server.stdout.readline():
            pass
        with line(a, b) as second:
            assert "machine" in second({"do": "hello"})
        assert [one.pid for one in processes_in([b.namespace])] == [server.pid]


def test_what_is_asked_of_a_server_that_it_does_not_do_is_refused() -> None:
    with hosts(2, mode="none") as (a, b), serving(b, "--listen", "192.0.2.2"), line(a, b) as ask:
        start = {"do": "start", "tool": "udp", "congestion": "", "address": "192.0.2.2"}
        assert ask({**start, "tool": "sh"}) == {"error": "tool: 'sh' is not one of iperf3, tcp_rr, udp"}
        assert "does not listen" in ask({**start, "address": "192.0.2.77"})["error"]
        assert "does not listen" in ask({**start, "address": "--help"})["error"]
        for nonsense in ({}, [], {"do": ["start"]}, {"do": "start"}, "x" * 2000, {"do": "quit"}):
            assert "error" in ask(nonsense)
        assert 0 <= ask({"do": "busy"})["busy"] <= 1
        assert len(processes_in([b.namespace])) == 1


def test_a_server_that_is_ended_ends_its_tool() -> None:
    with hosts(2, mode="none") as (a, b):
        with serving(b), line(a, b) as ask:
            assert ask({"do": "start", "tool": "iperf3", "congestion": "", "address": "192.0.2.2"}) == {}
            tools = [one for one in processes_in([b.namespace]) if name_of(one) == "iperf3"]
            assert len(tools) == 1
        assert not tools[0].alive


def test_a_peer_that_is_none_is_told_with_the_remedy() -> None:
    with hosts(2, mode="none") as (a, b):
        assert f"`overlayctl bench serve` there, and allow TCP port {PORT}" in bench(a, "--peer", "192.0.2.2").stderr
        assert "--peer h2: is not an IP address" in bench(a, "--peer", "h2").stderr
        with b.socket(socket.AF_INET, socket.SOCK_STREAM) as other:
            other.bind(("0.0.0.0", PORT))
            other.listen()
            client = a.popen(*COMMAND, *SHORT, "--peer", "192.0.2.2", stderr=subprocess.PIPE, text=True)
            connection, _ = other.accept()
            with connection:
                connection.sendall(b'{"format": "another/1", "machine": {}}\n')
                assert "speaks 'another/1', not overlayd-bench-peer/2" in client.communicate(timeout=20)[1]


def name_of(process: Process) -> str:
    return Path(f"/proc/{process.pid}/comm").read_text().strip()


@contextmanager
def line(a: Host, b: Host) -> Iterator[Any]:
    """A session by hand: what asks a question and returns the answer."""
    with a.socket(socket.AF_INET, socket.SOCK_STREAM) as connection:
        connection.settimeout(20)
        connection.connect((str(b.public_ip), PORT))
        with connection.makefile("rwb") as lines:

            def ask(question: object) -> Any:
                lines.write(json.dumps(question).encode() + b"\n")
                lines.flush()
                return json.loads(lines.readline())

            yield ask
