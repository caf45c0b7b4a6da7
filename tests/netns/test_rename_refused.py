"""A kernel that renames no device that is up (before Linux 6.2): what it forgets while the device is down comes back.

[h1] eth0 192.0.2.1/24 ======== eth0 [h2], flannel.1 by hand on h1; the refusal is the one thing that is not real
"""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
from ipaddress import IPv4Address, IPv4Network, ip_interface
from types import SimpleNamespace
from typing import Any

import pytest

from overlayd.core.kernel.kinds import FdbEntry, LinkAddress, Neighbour, Route, state_of
from overlayd.lab import Host, hosts
from overlayd.reconcile.reconciler import Reconciler
from overlayd.system.kernel import Kernel
from overlayd.system.netlink.links import LinkWriter
from overlayd.wire.netlink.message import attributes
from overlayd.wire.netlink.uapi import IFLA_IFNAME
from support.kernel import device, inside, reading

MAC, PEER_MAC = "06:47:0f:9c:01:2a", "06:47:0f:9c:02:2b"
FLANNEL = (
    f"link add flannel.1 address {MAC} mtu 1450 type vxlan id 1 dev eth0 local 192.0.2.1 dstport 8472 nolearning",
    "addr add 10.1.1.0/32 dev flannel.1",
    "link set flannel.1 up",
    f"neigh replace 10.1.2.0 lladdr {PEER_MAC} dev flannel.1 nud permanent",
    "route add 10.1.2.0/24 via 10.1.2.0 dev flannel.1 onlink",
)


def is_up(index: int) -> bool:
    """IFF_UP, by SIOCGIFFLAGS."""
    name = socket.if_indextoname(index).encode()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        return bool(struct.unpack_from("H", fcntl.ioctl(sock, 0x8913, struct.pack("16s16x", name)), 16)[0] & 1)


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The devices whose renaming was refused."""
    found: list[int] = []
    request = LinkWriter._request

    def refuse(self: LinkWriter, index: int, given: bytes, up: bool | None = None) -> None:
        if any(kind == IFLA_IFNAME for kind, _ in attributes(given, 0, len(given))) and is_up(index):
            found.append(index)
            raise OSError(errno.EBUSY, "Device or resource busy")
        request(self, index, given, up)

    monkeypatch.setattr(LinkWriter, "_request", refuse)
    return found


def shown(host: Host) -> list[str]:
    commands = (
        "ip route",
        "ip neigh show nud permanent",
        "ip -br link show type vxlan",
        "bridge fdb show dev flannel.1",
    )
    return [host.run(*command.split(), check=False).stdout for command in commands]


def test_flannels_device_becomes_overlayds_and_back(refused: list[int]) -> None:
    with hosts(2, mode="none", containers=0) as (host, _):
        host.ip(*FLANNEL)
        host.run("bridge", "fdb", "add", PEER_MAC, "dev", "flannel.1", "dst", "192.0.2.2", "self", "permanent")
        before, vtep = shown(host), IPv4Address("10.1.2.0")
        objects = [
            device(host),
            LinkAddress("ovl.1", ip_interface("10.1.1.0/32")),
            Neighbour("ovl.1", vtep, PEER_MAC),
            FdbEntry("ovl.1", PEER_MAC, IPv4Address("192.0.2.2")),
            Route(IPv4Network("10.1.2.0/24"), "ovl.1", vtep, onlink=True, own_link=True),
        ]
        node: Any = SimpleNamespace(
            underlay=SimpleNamespace(name="eth0"), lease=SimpleNamespace(key="10.1.1.0-24"), families=(4,)
        )
        provider: Any = SimpleNamespace(objects=lambda now: objects)

        async def adopt(kernel: Kernel) -> list[str]:
            reconciler = Reconciler(kernel)
            reconciler.use(node, [provider])
            return [str(failure) for failure in await reconciler.compare()]

        assert inside(host, adopt) == []
        assert len(refused) == 1
        assert reading(host) == state_of(objects)

        async def leave(kernel: Kernel) -> list[str]:
            reconciler = Reconciler(kernel)
            await reconciler.give_back()
            return [str(failure) for failure in reconciler.failures]

        assert inside(host, leave) == []
        assert len(refused) == 2
        assert shown(host) == before
