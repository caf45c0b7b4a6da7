"""What a stand-in is made from: read whole, or not at all."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from ipaddress import ip_address, ip_network

import pytest

from overlayd.core.forward import ForwardingTable, Peer
from overlayd.datapath import handover
from overlayd.datapath.handover import HandoverFile, HandoverState, read, take_over

native_table = pytest.importorskip("overlayd.datapath.native.table")


def state(peers: int = 1) -> HandoverState:
    routes = [
        (ip_network(f"10.1.{number}.0/24"), Peer(f"192.0.2.{number}", 8285, 4, f"10.1.{number}.0/24"))
        for number in range(2, 2 + peers)
    ]
    table = ForwardingTable([ip_network("10.1.1.0/24")], [ip_address("10.1.1.0")], 1472, routes)
    made = native_table.NativeTable(lambda _: 0)
    made.replace(table)
    return HandoverState(64, 0, False, False, False, 1472, made.values(table))


@pytest.fixture
def file() -> Iterator[HandoverFile]:
    made = HandoverFile()
    yield made
    made.close()


def test_what_is_written_last_is_read(file: HandoverFile) -> None:
    for peers in (1, 50, 2):  # longer, then shorter
        file.write(state(peers))
        assert read(file.fd) == state(peers)


@pytest.mark.parametrize("spoil", ["nothing", "cut", "flip", "other", "long"])
def test_what_is_not_whole_is_none(file: HandoverFile, spoil: str) -> None:
    size = 0
    if spoil != "nothing":
        file.write(state())
        size = os.fstat(file.fd).st_size
    if spoil == "cut":
        os.truncate(file.fd, size - 1)
    elif spoil == "flip":
        byte = os.pread(file.fd, 1, size // 2)
        os.pwrite(file.fd, bytes([byte[0] ^ 1]), size // 2)
    elif spoil == "other":
        os.pwrite(file.fd, os.urandom(size), 0)
    elif spoil == "long":
        os.pwrite(file.fd, b"x", size)
    assert read(file.fd) is None


def test_what_another_version_wrote_is_none(file: HandoverFile, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write(state())
    monkeypatch.setattr(handover, "__version__", "another")
    assert read(file.fd) is None


def test_without_all_of_it_there_is_no_handover(file: HandoverFile) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        whole = {"tun": ours.fileno(), "udp4": theirs.fileno(), "engine": file.fd}
        assert take_over(whole) is None, "an empty state"
        file.write(state())
        for name in whole:
            assert take_over({key: fd for key, fd in whole.items() if key != name}) is None
        engine = take_over(whole)
        assert engine is not None
        engine.halt()
        engine.halt()
        file.write(state()._replace(table=("no table",)))
        assert take_over(whole) is None
