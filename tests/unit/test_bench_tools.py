"""Parsers of what the tools print, on recorded outputs; and the load generators against themselves on loopback."""

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from overlayd.bench.errors import BenchError
from overlayd.bench.load import tcp_rr, udp
from overlayd.bench.tools import (
    Blast,
    Ping,
    Search,
    Throughput,
    Transactions,
    parse_blast,
    parse_iperf3,
    parse_ping,
    parse_search,
    parse_tcp_rr,
)

PING = """\
PING 192.0.2.2 (192.0.2.2) 56(84) bytes of data.

--- 192.0.2.2 ping statistics ---
3 packets transmitted, 3 received, 0% packet loss, time 45ms
rtt min/avg/max/mdev = 0.029/0.059/0.108/0.034 ms
"""
PING_SOME_LOST = """\
PING fd00:192:0:2::2(fd00:192:0:2::2) 56 data bytes

--- fd00:192:0:2::2 ping statistics ---
10 packets transmitted, 7 received, +1 errors, 30% packet loss, time 191ms
rtt min/avg/max/mdev = 0.100/2.500/11.250/0.034 ms
"""
PING_ALL_LOST = """\
PING 192.0.2.77 (192.0.2.77) 56(84) bytes of data.

--- 192.0.2.77 ping statistics ---
2 packets transmitted, 0 received, 100% packet loss, time 21ms

"""
# iperf3 3.12 -J, without the streams and intervals
IPERF3_TCP = """{"start": {"version": "iperf 3.12"}, "end": {
 "sum_sent": {"seconds": 1.000632, "bytes": 2773483520, "bits_per_second": 22173854284.092453, "retransmits": 8678},
 "sum_received": {"seconds": 1.000741, "bytes": 2773483520, "bits_per_second": 22171439123.6094},
 "cpu_utilization_percent": {"host_total": 90.2462602575152, "remote_total": 40.38435212026192},
 "sender_tcp_congestion": "bbr", "receiver_tcp_congestion": "bbr"}}"""
IPERF3_UDP = """{"start": {"version": "iperf 3.12"}, "end": {
 "sum": {"seconds": 1.000165, "bytes": 1249624, "bits_per_second": 9995892.4518303, "lost_packets": 0},
 "sum_received": {"seconds": 1.000165, "bytes": 1249624, "bits_per_second": 9995342.768443206, "lost_packets": 0},
 "cpu_utilization_percent": {"host_total": 2.4792992151233357, "remote_total": 0.452519903976996}}}"""
IPERF3_REFUSED = """{"start": {"connected": [], "version": "iperf 3.12"}, "intervals": [], "end": {},
 "error": "unable to connect to server: Connection refused"}"""


def test_ping() -> None:
    assert parse_ping(PING) == Ping(3, 3, 0.029, 0.059, 0.108)
    assert parse_ping(PING_SOME_LOST) == Ping(10, 7, 0.1, 2.5, 11.25)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (PING_ALL_LOST, "ping: 0 of 2 answered"),
        (PING[:60], "ping: no summary in its output"),
        ("", "ping: no summary in its output: ''"),
    ],
)
def test_ping_without_figures(text: str, error: str) -> None:
    with pytest.raises(BenchError, match=error):
        parse_ping(text)


def test_iperf3() -> None:
    assert parse_iperf3(IPERF3_TCP) == Throughput(
        22171439123.6094, 2773483520, 1.000741, 8678, "bbr", sender_cpu=90.2462602575152, receiver_cpu=40.38435212026192
    )
    assert parse_iperf3(IPERF3_UDP) == Throughput(
        9995342.768443206, 1249624, 1.000165, 0, "", sender_cpu=2.4792992151233357, receiver_cpu=0.452519903976996
    )


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (IPERF3_REFUSED, "^iperf3: unable to connect to server: Connection refused$"),
        (IPERF3_TCP[:100], "iperf3: no JSON in its output"),
        ("iperf3: command not found", "iperf3: no JSON in its output: 'iperf3: command not found'"),
        ('{"start": {}}', "no usable 'end'"),
        ('{"end": {"sum": {"bits_per_second": "much"}, "cpu_utilization_percent": {}}}', "no usable"),
    ],
)
def test_iperf3_without_figures(text: str, error: str) -> None:
    with pytest.raises(BenchError, match=error):
        parse_iperf3(text)


# tcp_rr.py measure ::1 --seconds 0.3, on Linux 6.18; fewer quantiles
TCP_RR = """{"transactions": 4807, "seconds": 0.3, "per_second": 16021.5,
 "quantiles_us": {"1": 51.2, "50": 60.1, "99": 81.8, "99.9": 116.5, "100": 128.4}}"""
# udp.py blast and search between the containers of a lab in vxlan mode
BLAST = '{"sent": 41280, "offered": 82312.1, "received": 80991.8, "loss": 0.01604}'
SEARCH = """{"per_second": 79850, "trials": [{"rate": 80992, "offered": 80610, "loss": 0.0123},
 {"rate": 48595, "offered": 48590, "loss": 0.0}]}"""


def test_tcp_rr_output() -> None:
    seen = parse_tcp_rr(TCP_RR)
    assert seen == Transactions(16021.5, {"1": 51.2, "50": 60.1, "99": 81.8, "99.9": 116.5, "100": 128.4})
    assert (seen.p50_us, seen.p99_us) == (60.1, 81.8)


@pytest.mark.parametrize(
    "text",
    ["", "tcp_rr: port 5210: timed out", "[]", '{"per_second": 1}', '{"per_second": 1, "quantiles_us": {"50": 1}}'],
)
def test_tcp_rr_output_without_figures(text: str) -> None:
    with pytest.raises(BenchError, match="tcp_rr: no result in its output"):
        parse_tcp_rr(text)


def test_udp_output() -> None:
    assert parse_blast(BLAST) == Blast(82312.1, 80991.8, 0.01604, 41280)
    assert parse_search(SEARCH) == Search(
        79850.0,
        ({"rate": 80992.0, "offered": 80610.0, "loss": 0.0123}, {"rate": 48595.0, "offered": 48590.0, "loss": 0.0}),
    )


@pytest.mark.parametrize("text", ["", "udp: port 5211: Connection refused", "[]", '{"offered": "much"}', SEARCH[:40]])
def test_udp_output_without_figures(text: str) -> None:
    with pytest.raises(BenchError, match="udp: no result in its output"):
        parse_blast(text)
    with pytest.raises(BenchError, match="udp: no result in its output"):
        parse_search(text)


def test_summary_takes_percentiles_of_every_transaction() -> None:
    taken = [microseconds * 1000 for microseconds in range(1001, 0, -1)]
    seen = tcp_rr.summary(taken, 0.5)
    assert (seen["transactions"], seen["seconds"], seen["per_second"]) == (1001, 0.5, 2002.0)
    assert seen["quantiles_us"] == {
        "1": 11.0, "5": 51.0, "10": 101.0, "25": 251.0, "50": 501.0, "75": 751.0, "90": 901.0, "95": 951.0,
        "99": 991.0, "99.5": 996.0, "99.9": 1000.0, "99.99": 1001.0, "100": 1001.0,
    }  # fmt: skip
    assert set(tcp_rr.summary([7000], 1.0)["quantiles_us"].values()) == {7.0}  # type: ignore[attr-defined]


@pytest.fixture
def server() -> Iterator[int]:
    with tcp_rr.listen(0) as listener:
        threading.Thread(target=_serve_until_closed, args=(listener,), daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def _serve_until_closed(listener: socket.socket) -> None:
    try:
        tcp_rr.serve(listener)
    except OSError:
        return  # the fixture closed it


@pytest.mark.parametrize("how", [[], ["--connect"]])
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_client_and_server_speak_to_each_other(
    server: int, address: str, how: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    if ":" in address and not socket.has_dualstack_ipv6():
        pytest.skip("needs IPv6 on this machine")
    assert tcp_rr.main(["measure", address, "--port", str(server), "--seconds", "0.05", *how]) == 0
    seen = parse_tcp_rr(capsys.readouterr().out)
    assert seen.per_second > 0
    assert 0 < seen.p50_us <= seen.p99_us


def test_no_server_is_an_error_and_names_the_port(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert tcp_rr.main(["measure", "127.0.0.1", "--port", str(port)]) == 1
    assert f"tcp_rr: port {port}: " in capsys.readouterr().err
    assert udp.main(["blast", "127.0.0.1", "--port", str(port), "--size", "64"]) == 1
    assert f"udp: port {port}: [Errno 111] Connection refused" in capsys.readouterr().err


@pytest.mark.parametrize("scenario", [tcp_rr.measure, tcp_rr.connections])
def test_a_server_that_closes_is_an_error(scenario: Callable[[str, int, float], object]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=lambda: listener.accept()[0].close(), daemon=True).start()
        with pytest.raises(OSError, match=r"clos|reset by peer|[Bb]roken pipe"):
            scenario("127.0.0.1", listener.getsockname()[1], 5)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_datagrams_are_counted_as_they_were_sent(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    argv = [sys.executable, "-I", "-S", udp.__file__, "serve", "--bind", address, "--port", str(port)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as sink:
        try:
            assert sink.stdout is not None
            assert sink.stdout.readline() == "listening\n"
            with udp.trials(address, port, 64) as trial:
                slow = trial(1000, 0.1)
            assert 0 < slow["sent"] < 1000
            assert slow["loss"] == 0
            assert udp.main(["blast", address, "--port", str(port), "--size", "512", "--seconds", "0.05"]) == 0
            assert parse_blast(capsys.readouterr().out).packets > 0
        finally:
            sink.kill()


def path_that_carries(limit: float, sender: float = 1e9) -> Callable[[float], dict[str, float]]:
    """What a trial shows of a path that carries so many packets a second, and loses the others."""

    def trial(rate: float) -> dict[str, float]:
        offered = min(rate, sender)
        return {"offered": offered, "received": min(offered, limit), "loss": max(0.0, 1 - limit / offered)}

    return trial


@pytest.mark.parametrize("limit", [4e4, 7e4, 9.9e4, 3e5])
def test_the_search_finds_what_a_path_carries(limit: float) -> None:
    seen = udp.highest(path_that_carries(limit), offered=4e5, received=1e5)
    assert limit / udp.RESOLUTION <= seen["per_second"] <= limit
    assert len(seen["trials"]) <= udp.TRIALS


def test_the_search_ends_at_the_senders_own_limit() -> None:
    seen = udp.highest(path_that_carries(1e6, sender=2e5), offered=4e5, received=3e5)
    assert seen["per_second"] == 200_000
    assert len(seen["trials"]) == 1


def test_a_path_that_carries_nothing_has_no_rate() -> None:
    assert udp.highest(path_that_carries(0.001), offered=1e5, received=1e5)["per_second"] == 0
    assert udp.highest(path_that_carries(0.001), offered=1e5, received=0) == {"per_second": 0, "trials": []}
