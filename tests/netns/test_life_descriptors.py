"""File descriptors run out, by clients or otherwise: packets and repair go on, and the host says what is short.

h1c1 10.1.1.2 -- br0 10.1.1.1 [h1] eth0 192.0.2.1 ======== eth0 192.0.2.2 [h2] br0 10.1.2.1 -- h2c1 10.1.2.2
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from overlayd.lab import Host, hosts
from support.pings import pinging
from support.waiting import eventually

FILES, CLIENTS = 64, 90
LOOKS = 2.5  # seconds: two of the daemon's looks at itself
Pair = tuple[Host, Host]


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with hosts(2, mode="udp", settings={"probe": {"interval": "1s"}}, start=False) as (a, b):
        a.start(under=("prlimit", f"--nofile={FILES}:1024"))
        b.start()
        yield a, b


def open_files(host: Host) -> int:
    return len(list(Path(f"/proc/{host.pid}/fd").iterdir()))


def route(host: Host, peer: Host) -> str:
    return host.run("ip", "route", "show", str(peer.subnet)).stdout


def test_idle_clients_of_the_control_socket_take_nothing_from_packets_and_repair(pair: Pair) -> None:
    a, b = pair
    pid, before = a.pid, route(a, b)
    assert before
    with ExitStack() as closing:
        with pinging(a.container(0), b.container(0).address()):
            for _ in range(CLIENTS):
                client = closing.enter_context(socket.socket(socket.AF_UNIX))
                client.connect(str(a.socket_path))
            time.sleep(LOOKS)
        a.ip(f"route delete {b.subnet}")
        eventually(lambda: route(a, b) == before, "the route is put back")
        eventually(lambda: route(a, b), "the route is put back", timeout=30)
    eventually(lambda: a.status()["problems"] == [])
    assert a.pid == pid
    assert 'msg="too many clients: old connections are closed" server="control socket"' in a.log()


def test_a_shortage_is_a_problem_in_words_and_passes(pair: Pair) -> None:
    a, b = pair
    pid, mark = a.pid, len(a.log())
    taken = eventually(lambda: usual if (usual := open_files(a)) < FILES / 2 else 0, "the clients are gone")
    try:
        with pinging(a.container(0), b.container(0).address()):
            a.run("prlimit", f"--pid={pid}", f"--nofile={taken}:1024")
            eventually(lambda: "file descriptors run out" in a.log()[mark:], "the log says so")
            time.sleep(LOOKS)
        a.ip(f"route delete {b.subnet}")
    finally:
        a.run("prlimit", f"--pid={pid}", "--nofile=1024")
    eventually(lambda: route(a, b), "the route is put back", timeout=30)
    eventually(lambda: a.status()["problems"] == [])
    assert a.pid == pid
