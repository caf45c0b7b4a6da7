"""Devices on which 127.0.0.0/8 is routed like other addresses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from overlayd.core.kernel.kinds.base import Interfaces, Key, RtnetlinkObject, Verb
from overlayd.wire.netlink.localnet import read_route_localnet, set_route_localnet
from overlayd.wire.netlink.message import family_header
from overlayd.wire.netlink.uapi import AF_UNSPEC, IFINFOMSG, RTM_GETLINK


@dataclass(frozen=True, slots=True)
class LocalnetRouting(RtnetlinkObject):
    """route_localnet of one of our devices, which is switched on.

    Answers to what this host sent from 127.0.0.1 to a container get back only so. Without the rules of the published
    ports' table the host's loopback addresses would be open to containers: it comes after them, and goes before.
    """

    rank = 45
    dump = (RTM_GETLINK, (family_header(AF_UNSPEC, IFINFOMSG),))

    link: str

    @property
    def key(self) -> Key:
        return ("localnet", self.link)

    @property
    def parent(self) -> Key:
        return ("link", self.link)

    def encode(self, verb: Verb, indexes: Mapping[str, int], sequence: int) -> bytes:
        return set_route_localnet(indexes[self.link], sequence, on=verb != "delete")

    @classmethod
    def decode(cls, data: bytes, begin: int, end: int, interfaces: Interfaces) -> Self | None:
        index, on = read_route_localnet(data, begin, end) or (0, False)
        return cls(interfaces.ours[index]) if on and index in interfaces.ours else None

    def __str__(self) -> str:
        return f"sysctl net.ipv4.conf.{self.link}.route_localnet=1"
