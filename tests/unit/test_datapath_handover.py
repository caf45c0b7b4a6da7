"""What a stand-in is made from: read whole, or not at all."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from ipaddress import ip_address, ip_network

import pytest

from overlayd.core.forward import ForwardingTable, Peer
from overlayd.datapath import handover as standin
from overlayd.datapath.handover import Recipe, Shelf, read, stand_in

native_table = pytest.importorskip("overlayd.datapath.native.table")


def recipe(peers: int = 1) -> Recipe:
    routes = [
        (ip_network(f"10.1.{number}.0/24"), Peer(f"192.0.2.{number}", 8285, 4, f"10.1.{number}.0/24"))
        for number in range(2, 2 + peers)
    ]
    table = ForwardingTable([ip_network("10.1.1.0/24")], [ip_address("10.1.1.0")], 1472, routes)
    made = native_table.NativeTable(lambda _: 0)
    made.replace(table)
    return 64, 0, False, False, False, 1472, made.values(table)


@pytest.fixture
def shelf() -> Iterator[Shelf]:
    made = Shelf()
    yield made
    made.close()


def test_what_is_written_last_is_read(shelf: Shelf) -> None:
    for peers in (1, 50, 2):  # longer, then shorter
        shelf.write(recipe(peers))
        assert read(shelf.fd) == recipe(peers)


@pytest.mark.parametrize("spoil", ["nothing", "cut", "flip", "other", "long"])
def test_what_is_not_whole_is_none(shelf: Shelf, spoil: str) -> None:
    size = 0
    if spoil != "nothing":
        shelf.write(recipe())
        size = os.fstat(shelf.fd).st_size
    if spoil == "cut":
        os.truncate(shelf.fd, size - 1)
    elif spoil == "flip":
        byte = os.pread(shelf.fd, 1, size // 2)
        os.pwrite(shelf.fd, bytes([byte[0] ^ 1]), size // 2)
    elif spoil == "other":
        os.pwrite(shelf.fd, os.urandom(size), 0)
    elif spoil == "long":
        os.pwrite(shelf.fd, b"x", size)
    assert read(shelf.fd) is None


def test_what_another_version_wrote_is_none(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.write(recipe())
    monkeypatch.setattr(standin, "__version__", "another")
    assert read(shelf.fd) is None


def test_without_all_of_it_nobody_stands_in(shelf: Shelf) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        whole = {"tun": ours.fileno(), "udp4": theirs.fileno(), "engine": shelf.fd}
        assert stand_in(whole) is None, "an empty recipe"
        shelf.write(recipe())
        for name in whole:
            assert stand_in({key: fd for key, fd in whole.items() if key != name}) is None
        engine = stand_in(whole)
        assert engine is not None
        engine.halt()
        engine.halt()
        shelf.write((*recipe()[:-1], ("no table",)))
        assert stand_in(whole) is None
