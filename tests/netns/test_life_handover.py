"""Packets between a daemon's death and the next one's readiness, with this test in the place of the service manager.

h1c1 10.1.1.2 -- br0 10.1.1.1 [h1] eth0 192.0.2.1 ======== eth0 192.0.2.2 [h2] br0 10.1.2.1 -- h2c1 10.1.2.2
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from overlayd.datapath.handover import take_over
from overlayd.lab import Host, hosts
from support.waiting import eventually

NAMES = {"tun", "udp4", "udp6", "engine"}


class Manager:
    """Reads what the daemon says, and keeps what it is to keep."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: dict[str, int] = {}
        self.said: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            data, fds, _, _ = socket.recv_fds(self._socket, 4096, 4)
            lines = data.decode().split("\n")
            if lines == ["end"]:
                return
            name = next((line.removeprefix("FDNAME=") for line in lines if line.startswith("FDNAME=")), "")
            if lines[0] == "FDSTORE=1":
                assert name not in self.files, "systemd would keep both"
                self.files[name] = fds.pop()
            elif lines[0] == "FDSTOREREMOVE=1":
                os.close(self.files.pop(name))
            self.said.append(lines[0])
            for fd in fds:
                os.close(fd)

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"end", str(self.path))
        self._thread.join()
        self._socket.close()
        for fd in self.files.values():
            os.close(fd)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    with contextlib.closing(Manager(tmp_path / "notify")) as made:
        yield made


@pytest.fixture
def pair(manager: Manager) -> Iterator[tuple[Host, Host]]:
    with hosts(2, mode="udp", family="dual", underlay="dual", start=False) as (a, b):
        a.start(environment={"NOTIFY_SOCKET": str(manager.path)})
        b.start()
        eventually(lambda: "READY=1" in manager.said, "it says that it is ready")
        yield a, b


def talks(a: Host, b: Host, timeout: float = 2) -> list[bool]:
    return [a.container(0).ping(b.container(0).address(family), timeout=timeout) for family in (4, 6)]


def test_a_handover_carries_what_the_dead_daemon_would(pair: tuple[Host, Host], manager: Manager) -> None:
    a, b = pair
    assert manager.files.keys() == NAMES
    a.stop(signal.SIGKILL)
    assert talks(a, b, 0.3) == [False, False], "who carries this?"
    engine = take_over(manager.files)
    assert engine is not None
    try:
        assert talks(a, b) == talks(b, a) == [True, True]
    finally:
        engine.halt()
    assert talks(a, b, 0.3) == [False, False]


def test_it_knows_the_leases_of_the_end(pair: tuple[Host, Host], manager: Manager) -> None:
    """The state follows the table: a peer that went is not spoken to."""
    a, b = pair
    before = os.pread(manager.files["engine"], 1 << 20, 0)
    leases = yaml.safe_load((a.directory.parent / "leases.yaml").read_text())
    (a.directory / "alone.yaml").write_text(yaml.safe_dump({"leases": leases["leases"][:1]}))
    a.write_config({**a.config, "leases_file": "alone.yaml"})  # which it notices
    eventually(lambda: os.pread(manager.files["engine"], 1 << 20, 0) != before, "the state is written anew")
    a.stop(signal.SIGKILL)
    engine = take_over(manager.files)
    assert engine is not None
    try:
        assert talks(b, a, 0.3) == [False, False]
    finally:
        engine.halt()


def test_a_start_that_waits_for_etcd_says_that_it_lives(manager: Manager) -> None:
    with hosts(1, mode="udp", start=False) as one:
        config = {key: value for key, value in one[0].config.items() if key != "leases_file"}
        config |= {"registry": "etcd", "etcd": {"endpoints": "http://127.0.0.1:2379"}}
        one[0].write_config({**config, "state_dir": str(one[0].directory / "state")})
        one[0].start(wait=False, environment={"NOTIFY_SOCKET": str(manager.path)})
        eventually(lambda: "EXTEND_TIMEOUT_USEC=30000000" in manager.said, "it asks for more time")
        assert "READY=1" not in manager.said
        assert one[0].stop() == 0
