"""A TUN whose open file was kept over a restart: taken back with what waits in it, or refused and closed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

import pytest

from overlayd.lab import Host, hosts
from overlayd.lab.namespace import within
from overlayd.system.errors import HostError
from overlayd.system.tun import Tun

VNET_HEADER = 10  # bytes of struct virtio_net_hdr
CLOSED = "Bad file descriptor"


@pytest.fixture
def host() -> Iterator[Host]:
    with hosts(1, mode="udp", start=False) as one:
        yield one[0]


def attached(host: Host, name: str = "t0", vnet_header: bool = True) -> int:
    """A file as a store has it: attached to a device, its first opener gone."""

    def make() -> int:
        tun = Tun(name, vnet_header)
        tun.persist(True)
        kept = os.dup(tun.fileno())
        tun.close()
        return kept

    return within(host.namespace, make)


def test_it_comes_back_with_the_packets_that_wait(host: Host) -> None:
    kept = attached(host)
    host.ip("link set t0 up", "addr add 10.9.0.1/24 dev t0")
    assert not host.ping("10.9.0.2", timeout=0.1), "nobody reads the device"
    tun = Tun("t0", vnet_header=True, kept=kept)
    waiting = []
    with suppress(BlockingIOError):
        while True:
            waiting.append(os.read(tun.fileno(), 2048)[VNET_HEADER:])
    assert b"\x0a\x09\x00\x01\x0a\x09\x00\x02" in [packet[12:20] for packet in waiting], "10.9.0.1 to 10.9.0.2"
    with pytest.raises(HostError, match="TUN t0: Device or resource busy; another process is attached to it"):
        within(host.namespace, lambda: Tun("t0", vnet_header=True))
    tun.close()
    within(host.namespace, lambda: Tun("t0", vnet_header=True)).close()


@pytest.mark.parametrize(
    ("name", "vnet_header", "seen"),
    [
        ("t1", True, "it is t0 with flags 0x5001, not 0x5001"),
        ("t0", False, "it is t0 with flags 0x5001, not 0x1001"),
    ],
)
def test_another_device_is_refused(host: Host, name: str, vnet_header: bool, seen: str) -> None:
    kept = attached(host)
    with pytest.raises(HostError, match=f"TUN {name}: the file that was kept is not attached to it: {seen}"):
        Tun(name, vnet_header, kept)
    with pytest.raises(OSError, match=CLOSED):
        os.fstat(kept)


def test_a_device_that_was_deleted_is_refused(host: Host) -> None:
    kept = attached(host)
    host.ip("link del t0")
    with pytest.raises(HostError, match="not attached to it: File descriptor in bad state"):
        Tun("t0", True, kept)
    with pytest.raises(OSError, match=CLOSED):
        os.fstat(kept)


def test_an_open_file_knows_whether_its_device_is_still_there(host: Host) -> None:
    tun = Tun("t0", vnet_header=True, kept=attached(host))
    assert tun.attached
    host.ip("link del t0", "tuntap add t0 mode tun")
    assert not tun.attached, "of one of the same name it is none either"
    tun.close()


def test_a_file_that_is_no_tun_is_refused() -> None:
    kept = os.open("/dev/null", os.O_RDWR)
    with pytest.raises(HostError, match="not attached to it: Inappropriate ioctl for device"):
        Tun("t0", True, kept)
    with pytest.raises(OSError, match=CLOSED):
        os.fstat(kept)
