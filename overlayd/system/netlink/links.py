"""Devices and addresses: few, and each with its own ways of being refused."""

from __future__ import annotations

import errno
import os
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from overlayd.core.kernel.diff import Operation
from overlayd.core.kernel.kinds import Address, Link, Vxlan
from overlayd.system import tun
from overlayd.system.errors import HostError

LINK_GROUP = 0x6F766C
"""IFLA_GROUP of our devices ("ovl" in ASCII): the kernel sets it as it makes a vxlan device, so none is without it."""

_IN6_ADDR_GEN_MODE_NONE = 1
_IFA_F_NODAD = 0x02


class LinkWriter:
    """Writes through one connection."""

    def __init__(self, route: IPRoute) -> None:
        self._route = route

    def one(self, step: Operation) -> None:
        """Do one operation on a device or an address. Raises HostError."""
        thing = step.object
        if isinstance(thing, Address):
            self._address(step, thing)
        elif isinstance(thing, Link):
            if step.verb == "add":
                self._add_link(thing)
            elif step.verb == "delete":
                self._delete_link(thing)
            else:
                assert isinstance(step.old, Link)
                self._change_link(thing, step.old)

    def _add_link(self, link: Link) -> None:
        """Make a device, whole and ours from its first moment, and bring it up; or leave none."""
        index = None
        try:
            if link.vxlan is None:
                self._refuse_foreign(link)
                tun.create(link.name)
                index = self._index(link.name)
                self._route.link("set", index=index, IFLA_GROUP=LINK_GROUP)
            else:
                self._route.link("add", **_vxlan_request(link, link.vxlan), IFLA_GROUP=LINK_GROUP)
                index = self._index(link.name)
            self._quiet_ipv6(index)
            self._set(index, link)
        except NetlinkError as error:
            if index is not None:
                self._route.link("del", index=index)
            raise HostError(_explain_link(link, error)) from None

    def _refuse_foreign(self, link: Link) -> None:
        if self._route.link_lookup(ifname=link.name):
            raise HostError(f"device {link.name} exists and is not overlayd's: remove it (ip link del {link.name})")

    def _change_link(self, link: Link, old: Link) -> None:
        """Change what can be changed in place: MTU, MAC, queue length, learning, up."""
        try:
            index = self._index(link.name)
            if link.vxlan is not None and old.vxlan is not None and link.vxlan.learning != old.vxlan.learning:
                request = {"kind": "vxlan", "vxlan_id": link.vxlan.vni, "vxlan_learning": int(link.vxlan.learning)}
                self._route.link("set", index=index, **request)
            self._set(index, link, old)
        except NetlinkError as error:
            raise HostError(_explain_link(link, error)) from None

    def _delete_link(self, link: Link) -> None:
        """Delete a device; one that is gone already is no error."""
        try:
            found = self._route.link_lookup(ifname=link.name)
            if found:
                self._route.link("del", index=found[0])
        except NetlinkError as error:
            if error.code != errno.ENODEV:
                raise HostError(_explain_link(link, error)) from None

    def _set(self, index: int, link: Link, old: Link | None = None) -> None:
        """What differs from `old` and nothing else: the kernel drops a device's neighbours for a MAC that it had."""
        request: dict[str, Any] = {"state": "up" if link.up else "down"}
        for key, field in (("mtu", "mtu"), ("address", "mac"), ("txqlen", "txqueuelen")):
            wanted = getattr(link, field)
            if wanted is not None and (old is None or wanted != getattr(old, field)):
                request[key] = wanted
        self._route.link("set", index=index, **request)

    def _quiet_ipv6(self, index: int) -> None:
        """No link-local address and so no router solicitations into the overlay; containers' own are not touched."""
        mode = {"attrs": [["AF_INET6", {"attrs": [["IFLA_INET6_ADDR_GEN_MODE", _IN6_ADDR_GEN_MODE_NONE]]}]]}
        try:
            self._route.link("set", index=index, IFLA_AF_SPEC=mode)
        except NetlinkError as error:
            if error.code not in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL):  # a host without IPv6
                raise

    def _address(self, step: Operation, thing: Address) -> None:
        try:
            index = self._index(thing.link)
            extra: dict[str, Any] = {}
            if step.verb != "delete" and thing.address.version == 6:
                extra["flags"] = _IFA_F_NODAD  # nobody else can have it: the lease says so
            self._route.addr(
                "del" if step.verb == "delete" else "replace",
                index=index,
                address=str(thing.address.ip),
                prefixlen=thing.address.network.prefixlen,
                **extra,
            )
        except NetlinkError as error:
            raise HostError(f"{step}: {os.strerror(error.code)}") from None

    def _index(self, name: str) -> int:
        found = self._route.link_lookup(ifname=name)
        if not found:
            raise HostError(f"device {name} is gone; it is made again soon")
        return int(found[0])


def _vxlan_request(link: Link, vxlan: Vxlan) -> dict[str, Any]:
    request: dict[str, Any] = {
        "ifname": link.name,
        "kind": "vxlan",
        "mtu": link.mtu,
        # Set before the device exists for anybody, so that no MAC policy of the host changes it.
        "address": link.mac,
        "vxlan_id": vxlan.vni,
        "vxlan_port": vxlan.port,
        "vxlan_link": vxlan.underlay,
        "vxlan_learning": int(vxlan.learning),
        "vxlan_local" if vxlan.local.version == 4 else "vxlan_local6": str(vxlan.local),
    }
    if vxlan.gbp:
        request["vxlan_gbp"] = True
    return request


def _explain_link(link: Link, error: NetlinkError) -> str:
    text = os.strerror(error.code)
    if error.code == errno.EPERM:
        return f"device {link.name}: {text}; overlayd needs CAP_NET_ADMIN (run it as root or from its unit)"
    if error.code == errno.EEXIST:
        if link.vxlan is not None:
            return (
                f"device {link.name}: {text}; either a device of that name is not overlayd's, or another device has"
                f" VNI {link.vxlan.vni} on UDP port {link.vxlan.port} (see ip -d link show type vxlan)"
            )
        return f"device {link.name}: {text}; it is not overlayd's: remove it"
    if error.code == errno.EADDRINUSE and link.vxlan is not None:
        return f"device {link.name}: {text}; another program has UDP port {link.vxlan.port} (see ss -lunp)"
    return f"device {link.name}: {text} ({link})"
