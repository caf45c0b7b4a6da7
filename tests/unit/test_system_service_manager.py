"""What is said to the service manager, read by a real socket in its place; and what comes back from its store."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from overlayd.system.errors import HostError
from overlayd.system.service_manager import ServiceManager
from overlayd.system.udp_socket import adopt_udp_socket, open_udp_socket


class Systemd:
    """The receiving end, which keeps what it is told to keep, and closes what comes with a barrier."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.settimeout(5)

    def read(self) -> tuple[list[str], list[int]]:
        data, fds, _, _ = socket.recv_fds(self.socket, 4096, 4)
        return data.decode().split("\n"), list(fds)


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    made = Systemd(str(tmp_path / "notify") if request.param == "path" else f"@overlayd-test-{os.getpid()}")
    with made.socket:
        yield made


def test_what_is_said(systemd: Systemd) -> None:
    manager = ServiceManager(systemd.address, watchdog=10.0)
    manager.ready("udp: 10.1.1.0/24\nREADY=0")
    assert systemd.read() == (["READY=1", "STATUS=udp: 10.1.1.0/24 READY=0"], [])
    manager.reloading()
    (first, second, third), _ = systemd.read()
    assert (first, third) == ("RELOADING=1", "STATUS=reloading")
    assert int(second.removeprefix("MONOTONIC_USEC=")) > 0
    for call, said in (
        (manager.alive, ["WATCHDOG=1"]),
        (manager.stopping, ["STOPPING=1", "STATUS=stopping"]),
        (lambda: manager.starting("waiting"), ["EXTEND_TIMEOUT_USEC=30000000", "STATUS=waiting"]),
        (lambda: manager.status("well"), ["STATUS=well"]),
    ):
        call()
        assert systemd.read() == (said, [])


def test_without_one_nothing_is_done() -> None:
    manager = ServiceManager.from_environment({})
    assert not manager
    assert manager.watchdog is None
    manager.ready("well")
    manager.keep("tun", 0)
    assert manager.take("tun") is None
    manager.forget()


def test_one_that_is_gone_is_complained_of_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manager = ServiceManager(str(tmp_path / "notify"))
    manager.alive()
    manager.alive()
    logged = capsys.readouterr()  # to where an earlier test has directed the log
    assert (logged.out + logged.err).count("cannot be notified") == 1


def test_the_store_keeps_the_file_itself(systemd: Systemd) -> None:
    manager = ServiceManager(systemd.address)
    ours, other = os.pipe()
    manager.keep("tun", ours)
    said, (theirs,) = systemd.read()
    assert said == ["FDSTORE=1", "FDNAME=tun", "FDPOLL=0"]
    os.close(ours)
    os.write(other, b"waits")
    assert os.read(theirs, 9) == b"waits"
    manager.keep("tun", other)  # another file in its place
    assert systemd.read()[0] == ["FDSTOREREMOVE=1", "FDNAME=tun"]
    said, (again,) = systemd.read()
    assert said[0] == "FDSTORE=1"
    for fd in (theirs, other, again):
        os.close(fd)


def test_forgetting_waits_until_it_has_been_read(systemd: Systemd) -> None:
    ours, other = os.pipe()
    manager = ServiceManager(systemd.address, given={"tun": ours, "udp4": other})
    heard: list[list[str]] = []
    done = threading.Event()

    def serve() -> None:
        while not heard or heard[-1] != ["BARRIER=1"]:
            said, fds = systemd.read()
            if said == ["BARRIER=1"]:
                assert not done.wait(0.2), "it did not wait"
            heard.append(said)
            for fd in fds:
                os.close(fd)

    server = threading.Thread(target=serve)
    server.start()
    manager.forget("tun", "unknown")
    done.set()
    server.join()
    assert heard == [["FDSTOREREMOVE=1", "FDNAME=tun"], ["BARRIER=1"]]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(ours)
    assert manager.take("udp4") == other
    assert manager.forget_unused() == []
    os.close(other)


CHILD = """
import os, sys
from overlayd.system.service_manager import ServiceManager
from overlayd.system.errors import HostError
os.environ["LISTEN_PID"] = os.environ["WATCHDOG_PID"] = str(os.getpid() + int(sys.argv[1]))
manager = ServiceManager.from_environment(os.environ)
assert not [name for name in os.environ if name.startswith(("LISTEN", "WATCHDOG", "NOTIFY"))], os.environ
tun, udp = manager.take("tun"), manager.take("udp4")
print(bool(manager), manager.watchdog, tun, udp, os.get_inheritable(tun) if tun else None, manager.take("tun"))
"""


@pytest.mark.parametrize(("wrong", "expected"), [(0, "True 10.0 3 4 False None"), (1, "True None None None None None")])
def test_what_the_environment_says_is_for_this_process_alone(wrong: int, expected: str) -> None:
    variables = {
        "NOTIFY_SOCKET": "@nobody",
        "WATCHDOG_USEC": "10000000",
        "LISTEN_FDS": "2",
        "LISTEN_FDNAMES": "tun:udp4",
    }
    shell = f'exec "{sys.executable}" -c "$CHILD" {wrong} 3</dev/null 4</dev/null'
    environment = {**os.environ, **variables, "CHILD": CHILD}
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, env=environment)
    assert (done.stdout.strip(), done.stderr) == (expected, "")


# --- sockets that were kept -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_socket_comes_back_with_what_waits_in_it(host: str) -> None:
    local = ip_address(host)
    with open_udp_socket(local, 0) as first:
        port = first.getsockname()[1]
        kept = os.dup(first.fileno())
    with socket.socket(socket.AF_INET if local.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as peer:
        peer.sendto(b"waits", (host, port))
    with adopt_udp_socket(kept, local, port) as again:
        assert again.recv(9) == b"waits"
        with pytest.raises(BlockingIOError):
            again.recv(9)


@pytest.mark.parametrize(
    ("kind", "seen"),
    [
        ("port", r"SOCK_DGRAM, bound to \('127.0.0.1', \d+\)"),
        ("address", r"bound to \('127.0.0.2', \d+\)"),
        ("family", r"AF_INET6"),
        ("tcp", r"SOCK_STREAM"),
        ("pipe", r"Socket operation on non-socket"),
    ],
)
def test_another_socket_is_refused_and_closed(kind: str, seen: str) -> None:
    local = ip_address("127.0.0.1")
    if kind == "pipe":
        kept, other = os.pipe()
        os.close(other)
        port = 8285
    else:
        family = socket.AF_INET6 if kind == "family" else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
        sock.bind(({"family": "::1", "address": "127.0.0.2"}.get(kind, "127.0.0.1"), 0))
        port = sock.getsockname()[1] + (kind == "port")
        kept = sock.detach()
    with pytest.raises(HostError, match=rf"UDP 127.0.0.1 port {port}: the socket that was kept is another: .*{seen}"):
        adopt_udp_socket(kept, local, port)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(kept)
