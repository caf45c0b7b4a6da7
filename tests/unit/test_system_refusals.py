"""What is tried before it is taken: ports, files and the lock of one daemon; without privileges."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from overlayd.core.address import Family
from overlayd.system import tun
from overlayd.system.errors import HostError, InUseError
from overlayd.system.files import check_writable
from overlayd.system.instance_lock import InstanceLock
from overlayd.system.processes import has_port, is_here
from overlayd.system.tcp_socket import try_health_port
from overlayd.system.udp_socket import is_bound, is_port_taken, open_udp_socket


@pytest.fixture(params=[4, 6])
def family(request: pytest.FixtureRequest) -> Family:
    return 4 if request.param == 4 else 6


@pytest.fixture
def program(family: Family) -> Iterator[socket.socket]:
    """A UDP socket of some program's on loopback."""
    with socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1" if family == 4 else "::1", 0))
        yield sock


def port_of(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])


# --- ports ------------------------------------------------------------------------------------------------------------


def test_a_port_that_a_program_has(program: socket.socket, family: Family) -> None:
    port = port_of(program)
    with pytest.raises(
        InUseError, match=f"port {port}: Address already in use; another program has the port"
    ) as caught:
        open_udp_socket(ip_address(program.getsockname()[0]), port)
    assert caught.value.port == port
    assert is_port_taken(family, port)
    program.close()
    assert not is_port_taken(family, port)


def test_who_has_a_port(program: socket.socket) -> None:
    port = port_of(program)
    assert is_here(os.getpid())
    assert has_port(os.getpid(), port)
    program.close()
    assert not has_port(os.getpid(), port)
    assert not has_port(2**22 + 1, port), "there is no such process"


def test_a_socket_of_a_former_run(program: socket.socket) -> None:
    local, port = ip_address(program.getsockname()[0]), port_of(program)
    assert is_bound(program.fileno(), local, port)
    assert not is_bound(program.fileno(), local, port + 1)
    with Path(os.devnull).open() as file:
        assert not is_bound(file.fileno(), local, port)


def test_a_health_port(family: Family) -> None:
    host = "127.0.0.1" if family == 4 else "::1"
    with socket.create_server((host, 0), family=socket.AF_INET if family == 4 else socket.AF_INET6) as other:
        port = port_of(other)
        with pytest.raises(InUseError) as caught:
            try_health_port(host, port)
    assert str(caught.value) == f"health check on {host} port {port}: Address already in use; set healthz_port"
    try_health_port(host, port)
    with pytest.raises(HostError, match=r"health check on no\.such\.host\.invalid port 1: .*; set healthz_port"):
        try_health_port("no.such.host.invalid", 1)


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_file_that_can_be_written_is_not(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b" / "file")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match="file is not a directory; check the path"):
        check_writable(tmp_path / "file" / "a" / "b")


def test_a_directory_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(HostError, match=f"{tmp_path} cannot be written; check the directory and its permissions"):
        check_writable(tmp_path / "file")


def test_no_dev_net_tun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tun, "_DEVICE", str(tmp_path / "tun"))
    assert "TUN ovl0: No such file or directory; there is no " in str(tun.refusal("ovl0", attached=False))
    (tmp_path / "tun").touch()
    assert tun.refusal("ovl0", attached=False) is None
    assert "TUN ovl0: Device or resource busy; another process is attached" in str(tun.refusal("ovl0", attached=True))


# --- the lock ---------------------------------------------------------------------------------------------------------


def test_a_lock_goes_with_its_holder(tmp_path: Path) -> None:
    lock, other = (InstanceLock(tmp_path / "run" / "socket") for _ in range(2))
    lock.check()
    assert list(tmp_path.iterdir()) == []
    with lock:
        said = f"another overlayd \\(process {os.getpid()}\\) is running; stop it first"
        with pytest.raises(InUseError, match=said):
            other.check()
        with pytest.raises(InUseError, match=said), other:
            pass
        assert other.holder() == os.getpid()
    assert list((tmp_path / "run").iterdir()) == []
    with other:
        assert lock.holder() == os.getpid()


def test_a_lock_whose_file_goes_at_the_last_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its former holder ends between our opening and our locking it: ours would be a file that nobody else finds."""
    path, flock = tmp_path / "socket.lock", fcntl.flock
    calls = []

    def slow(fd: int, operation: int) -> None:
        if not calls:
            path.unlink()
        calls.append(fd)
        flock(fd, operation)

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", slow)
        lock = InstanceLock(tmp_path / "socket")
        lock.__enter__()
    assert len(calls) == 2
    with pytest.raises(InUseError), InstanceLock(tmp_path / "socket"):
        pass
    lock.__exit__()
