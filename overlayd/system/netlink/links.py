"""Devices: few, and each with its own ways of being refused."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import cast

from overlayd.core.kernel.diff import Operation
from overlayd.core.kernel.kinds import Link
from overlayd.system import tun
from overlayd.system.errors import HostError
from overlayd.system.files import read_sysctl, write_sysctl
from overlayd.system.netlink.request_socket import RequestSocket
from overlayd.wire.netlink import link as wire
from overlayd.wire.netlink.message import u32
from overlayd.wire.netlink.uapi import IFLA_GROUP

_RPS_DEFAULT = "net/core/rps_default_mask"
_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL)  # how the kernel refuses, on a host without it

_NO_DEVICE = 0x7FFFFFFF  # an interface index that the kernel never gets to


class LinkWriter:
    """A netlink socket of its own."""

    def __init__(self) -> None:
        """Raises OSError."""
        self._socket = RequestSocket()
        self.close = self._socket.close

    def apply(self, step: Operation) -> None:
        """Do one operation on a device; one to be deleted may be gone. Raises HostError."""
        link = cast(Link, step.object)
        try:
            if step.verb == "add":
                self._add(link)
            elif step.verb == "delete":
                self._delete(link)
            else:
                self._change(link, cast(Link, step.old))
        except OSError as error:
            number = error.errno or errno.EIO
            raise HostError(link.explain(number, os.strerror(number))) from None

    def privileged(self) -> bool:
        """Whether this process may change devices; asked with a request that concerns none. Raises OSError."""
        sequence = self._socket.next_sequence()
        try:
            self._socket.request(wire.delete_link(_NO_DEVICE, sequence), sequence)
        except OSError as error:
            return error.errno != errno.EPERM
        return True

    def _add(self, link: Link) -> None:
        """Make a device, whole and ours from its first moment, and bring it up; or leave none."""
        data = link.creation()
        if data is not None:
            sequence = self._socket.next_sequence()
            with _default_rps(link.rps):
                self._socket.request(wire.add_link(link.name, link.driver, data, link.attributes(), sequence), sequence)
        elif _find(link.name) is None:
            tun.create(link.name)
        else:
            raise HostError(link.explain_name())
        try:
            index = _index(link)
            if data is None:
                self._request(index, u32(IFLA_GROUP, wire.LINK_GROUP))
            self._quiet_ipv6(index)
            self._set(index, link)
        except OSError:
            self._delete(link)
            raise

    def _delete(self, link: Link) -> None:
        index = _find(link.name)
        if index is None:
            return
        sequence = self._socket.next_sequence()
        try:
            self._socket.request(wire.delete_link(index, sequence), sequence)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise

    def delete_together(self, links: Iterable[Link]) -> None:
        """Delete devices, if they are there, at the price of one: for each deletion the kernel waits 15 ms
        (synchronize_net). Raises HostError."""
        indexes = [index for link in links if (index := _find(link.name)) is not None]
        if not indexes:
            return
        group, numbers = u32(IFLA_GROUP, wire.CONDEMNED_GROUP), [self._socket.next_sequence() for _ in indexes]
        try:
            moves = (wire.set_link(index, group, number) for index, number in zip(indexes, numbers, strict=True))
            self._socket.exchange(b"".join(moves), numbers)
            sequence = self._socket.next_sequence()
            self._socket.request(wire.delete_group(wire.CONDEMNED_GROUP, sequence), sequence)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise HostError(f"devices of group {wire.CONDEMNED_GROUP}: {os.strerror(error.errno or 0)}") from None

    def _change(self, link: Link, old: Link) -> None:
        index = _index(old)
        try:
            self._set(index, link, old)
        except OSError as error:
            if error.errno != errno.EBUSY or link.name == old.name:
                raise
            self._request(index, b"", up=False)  # before Linux 6.2 only a device that is down gets another name
            self._set(index, link, old)

    def _set(self, index: int, link: Link, old: Link | None = None) -> None:
        """What differs from `old`, and up or down."""
        self._request(index, link.attributes(old), up=link.up)

    def _quiet_ipv6(self, index: int) -> None:
        """No link-local address and so no router solicitations into the overlay; containers' own are not touched."""
        try:
            self._request(index, wire.no_link_local())
        except OSError as error:
            if error.errno not in _NO_IPV6:
                raise

    def _request(self, index: int, attributes: bytes, up: bool | None = None) -> None:
        sequence = self._socket.next_sequence()
        self._socket.request(wire.set_link(index, attributes, sequence, up=up), sequence)


@contextmanager
def _default_rps(mask: str) -> Iterator[None]:
    """Have devices that are made meanwhile steer packets to these CPUs: a device's own file is root's to write. Raises
    HostError."""
    before = read_sysctl(_RPS_DEFAULT) if mask else None
    if before is None:
        yield
        return
    write_sysctl(_RPS_DEFAULT, mask)
    try:
        yield
    finally:
        write_sysctl(_RPS_DEFAULT, before)


def _find(name: str) -> int | None:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return None


def _index(link: Link) -> int:
    index = _find(link.name)
    if index is None:
        raise HostError(f"device {link.name} is gone; it is made again soon")
    return index
