"""Parsers of what ping, iperf3 and tcp_rr print, on recorded outputs; and tcp_rr against itself."""

import json
import socket
import threading
from collections.abc import Iterator

import pytest

from overlayd.lab import tcp_rr
from overlayd.lab.measure import Ping, Throughput, Transactions, parse_iperf3, parse_ping, parse_tcp_rr
from overlayd.lab.spec import LabError

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
    with pytest.raises(LabError, match=error):
        parse_ping(text)


def test_iperf3() -> None:
    assert parse_iperf3(IPERF3_TCP) == Throughput(
        22171439123.6094, 8678, "bbr", sender_cpu=90.2462602575152, receiver_cpu=40.38435212026192
    )
    assert parse_iperf3(IPERF3_UDP) == Throughput(
        9995342.768443206, 0, "", sender_cpu=2.4792992151233357, receiver_cpu=0.452519903976996
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
    with pytest.raises(LabError, match=error):
        parse_iperf3(text)


def test_tcp_rr_output() -> None:
    text = '{"transactions": 2, "seconds": 1.0, "per_second": 16032.1, "p50_us": 61.4, "p99_us": 87.5}\n'
    assert parse_tcp_rr(text) == Transactions(16032.1, 61.4, 87.5)


@pytest.mark.parametrize("text", ["", "tcp_rr: port 5210: timed out", "[]", '{"per_second": 1}'])
def test_tcp_rr_output_without_figures(text: str) -> None:
    with pytest.raises(LabError, match="tcp_rr: no result in its output"):
        parse_tcp_rr(text)


def test_summary_takes_percentiles_of_every_transaction() -> None:
    taken = [microseconds * 1000 for microseconds in range(100, 0, -1)]
    assert tcp_rr.summary(taken, 0.5) == {
        "transactions": 100,
        "seconds": 0.5,
        "per_second": 200.0,
        "p50_us": 50.0,
        "p99_us": 99.0,
    }
    assert tcp_rr.summary([7000], 1.0)["p99_us"] == 7.0


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


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_client_and_server_speak_to_each_other(server: int, address: str, capsys: pytest.CaptureFixture[str]) -> None:
    if ":" in address and not socket.has_dualstack_ipv6():
        pytest.skip("needs IPv6 on this machine")
    assert tcp_rr.main(["measure", address, "--port", str(server), "--seconds", "0.05"]) == 0
    seen = json.loads(capsys.readouterr().out)
    assert seen["transactions"] > 0
    assert 0 < seen["p50_us"] <= seen["p99_us"]


def test_no_server_is_an_error_and_names_the_port(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert tcp_rr.main(["measure", "127.0.0.1", "--port", str(port)]) == 1
    assert f"tcp_rr: port {port}: " in capsys.readouterr().err


def test_a_server_that_closes_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=lambda: listener.accept()[0].close(), daemon=True).start()
        with pytest.raises(OSError, match=r"closed the connection|reset by peer|[Bb]roken pipe"):
            tcp_rr.measure("127.0.0.1", listener.getsockname()[1], 5)
