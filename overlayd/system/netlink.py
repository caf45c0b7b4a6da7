"""The kernel's devices, addresses, neighbours, FDB and routes. Only this file speaks pyroute2.

How overlayd knows what is its own:
    a device      by its group (IFLA_GROUP), which `ip link show group` lists
    a route       by its protocol, which `ip route show proto` lists
    the rest      by the device it is on
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any, ParamSpec, TypeVar

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from overlayd.core.diff import Operation
from overlayd.core.state import (
    Address,
    FdbEntry,
    KernelObject,
    KernelState,
    Link,
    Neighbour,
    Route,
    Vxlan,
    state_of,
)
from overlayd.core.underlay import HostInterface
from overlayd.system import tun
from overlayd.system.errors import HostError
from overlayd.wire import rtnetlink

LINK_GROUP = 0x6F766C
"""IFLA_GROUP of our devices ("ovl" in ASCII): set when the kernel makes a device, so none is ever without it."""

_IFF_UP, _IFF_LOOPBACK = 0x1, 0x8
_RTN_UNREACHABLE = 7
_RT_TABLE_MAIN = 254
_RTNH_F_ONLINK = 4
_NUD_PERMANENT = 0x80
_NTF_SELF = 0x02
_IN6_ADDR_GEN_MODE_NONE = 1
_IFA_F_NODAD = 0x02

_SOL_NETLINK, _NETLINK_CAP_ACK = 270, 10  # linux/netlink.h

P = ParamSpec("P")
T = TypeVar("T")

_BATCH = 150
"""Messages in one send: their acknowledgements fit the receive buffer."""
_RECEIVE_BUFFER = 4 * 1024 * 1024


class Netlink:
    """A connection to the kernel's rtnetlink. Use it as an asynchronous context manager.

    pyroute2's own asynchronous form cannot run on uvloop, whose datagram transports take IP only. So one thread of our
    own speaks netlink, a job at a time; the event loop, and with it the packets of udp mode, never waits for a dump.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="netlink")
        self._route: IPRoute
        self._socket: socket.socket
        self._sequence = 0

    async def __aenter__(self) -> Netlink:
        await self._do(self._open)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._do(self._close)
        self._thread.shutdown()

    async def _do(self, job: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Run a job on the netlink thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, partial(job, *arguments, **named))

    def _open(self) -> None:
        self._route = IPRoute()
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)  # an error does not quote the request
        self._socket.settimeout(10)
        self._socket.bind((0, 0))

    def _close(self) -> None:
        self._route.close()
        self._socket.close()

    async def interfaces(self) -> list[HostInterface]:
        """Every interface of the host with its addresses, in the kernel's order."""
        return await self._do(self._interfaces)

    async def egress(self, destination: str) -> int | None:
        """The index of the interface through which the kernel would send to this address; None where it would not."""
        return await self._do(self._egress, destination)

    async def read(self) -> KernelState:
        """All devices, addresses, neighbours, FDB entries and routes that are overlayd's."""
        return await self._do(self._read)

    async def statistics(self, name: str) -> dict[str, int]:
        """The kernel's counters of a device: rx_packets, rx_bytes, rx_dropped and so on. Empty without the device."""
        return await self._do(self._statistics, name)

    async def one(self, step: Operation) -> None:
        """Do one operation on a device or an address. Raises HostError."""
        await self._do(self._one, step)

    async def batch(self, operations: Sequence[Operation]) -> list[tuple[Operation, str]]:
        """Do operations on routes, neighbours and FDB entries, in order, packed many to a send.

        Gives back those that the kernel refused, each with the reason; the others are done.
        """
        return await self._do(self._batch, operations)

    # --- reading ---------------------------------------------------------------------------------------------------

    def _interfaces(self) -> list[HostInterface]:
        addresses: dict[int, list[Any]] = {}
        for message in self._route.get_addr():
            attributes = dict(message["attrs"])
            # A point-to-point address names its own end IFA_LOCAL, the other end IFA_ADDRESS.
            own = attributes.get("IFA_LOCAL", attributes.get("IFA_ADDRESS"))
            addresses.setdefault(message["index"], []).append(ip_interface(f"{own}/{message['prefixlen']}"))
        found = []
        for message in self._route.get_links():
            attributes = dict(message["attrs"])
            found.append(
                HostInterface(
                    name=attributes["IFLA_IFNAME"],
                    index=message["index"],
                    mtu=attributes.get("IFLA_MTU", 0),
                    up=bool(message["flags"] & _IFF_UP),
                    loopback=bool(message["flags"] & _IFF_LOOPBACK),
                    ours=attributes.get("IFLA_GROUP") == LINK_GROUP,
                    addresses=tuple(addresses.get(message["index"], ())),
                )
            )
        return found

    def _egress(self, destination: str) -> int | None:
        try:
            reply = self._route.route("get", dst=destination)
        except NetlinkError:
            return None
        return next((dict(message["attrs"]).get("RTA_OIF") for message in reply), None)

    def _read(self) -> KernelState:
        names: dict[int, str] = {}
        ours: dict[int, str] = {}
        objects: list[KernelObject] = []
        for message in self._route.get_links():
            attributes = dict(message["attrs"])
            names[message["index"]] = attributes["IFLA_IFNAME"]
            if attributes.get("IFLA_GROUP") == LINK_GROUP:
                ours[message["index"]] = attributes["IFLA_IFNAME"]
                objects.append(_link(message, attributes))
        if ours:
            objects += self._read_attached(ours)
        for family in (socket.AF_INET, socket.AF_INET6):
            for message in self._route.get_routes(family=family):
                if message["proto"] == rtnetlink.ROUTE_PROTOCOL and message["table"] == _RT_TABLE_MAIN:
                    objects.append(_route(message, names, ours))
        return state_of(objects)

    def _read_attached(self, ours: dict[int, str]) -> list[KernelObject]:
        objects: list[KernelObject] = []
        for message in self._route.get_addr():
            attributes = dict(message["attrs"])
            address = ip_interface(f"{attributes['IFA_ADDRESS']}/{message['prefixlen']}")
            if message["index"] in ours and not address.is_link_local:  # link-local ones are the kernel's own
                objects.append(Address(ours[message["index"]], address))
        for family in (socket.AF_INET, socket.AF_INET6):
            for message in self._route.get_neighbours(family=family):
                if message["ifindex"] in ours and message["state"] & _NUD_PERMANENT:
                    attributes = dict(message["attrs"])
                    if "NDA_LLADDR" in attributes:
                        ip = ip_address(attributes["NDA_DST"])
                        objects.append(Neighbour(ours[message["ifindex"]], ip, attributes["NDA_LLADDR"]))
        entries: dict[tuple[str, str], FdbEntry] = {}
        for message in self._route.fdb("dump"):
            attributes = dict(message["attrs"])
            if message["ifindex"] in ours and message["state"] & _NUD_PERMANENT and "NDA_DST" in attributes:
                entry = FdbEntry(ours[message["ifindex"]], attributes["NDA_LLADDR"], ip_address(attributes["NDA_DST"]))
                entries[entry.link, entry.mac] = entry
        return [*objects, *entries.values()]

    def _statistics(self, name: str) -> dict[str, int]:
        try:
            reply = self._route.link("get", ifname=name)
        except NetlinkError:
            return {}
        return dict(dict(reply[0]["attrs"]).get("IFLA_STATS64", {})) if reply else {}

    # --- writing ---------------------------------------------------------------------------------------------------

    def _one(self, step: Operation) -> None:
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
        """Make a device, whole and ours from its first moment, and bring it up."""
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
            self._set(index, link)
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

    def _set(self, index: int, link: Link) -> None:
        request: dict[str, Any] = {"mtu": link.mtu, "state": "up" if link.up else "down"}
        if link.mac is not None:
            request["address"] = link.mac
        if link.txqueuelen is not None:
            request["txqlen"] = link.txqueuelen
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
            raise HostError(f"device {name} is gone; it is made again at the next comparison")
        return int(found[0])

    def _batch(self, operations: Sequence[Operation]) -> list[tuple[Operation, str]]:
        refused: list[tuple[Operation, str]] = []
        indexes = self._indexes()
        for start in range(0, len(operations), _BATCH):
            chunk = operations[start : start + _BATCH]
            messages: list[bytes] = []
            waiting: dict[int, Operation] = {}
            for step in chunk:
                self._sequence = self._sequence + 1 & 0xFFFFFFFF or 1
                message = _encode(step, indexes, self._sequence)
                if message is None:
                    if step.verb != "delete":  # what hung on a device that is gone is gone too
                        refused.append((step, "its device is gone; it is made again at the next comparison"))
                    continue
                messages.append(message)
                waiting[self._sequence] = step
            if messages:
                for step, number in self._exchange(b"".join(messages), waiting):
                    if not (step.verb == "delete" and number in (errno.ESRCH, errno.ENOENT, errno.ENODEV)):
                        refused.append((step, _explain(step, number)))
        return refused

    def _indexes(self) -> dict[str, int]:
        links = self._route.get_links()
        return {dict(message["attrs"])["IFLA_IFNAME"]: message["index"] for message in links}

    def _exchange(self, packed: bytes, waiting: dict[int, Operation]) -> list[tuple[Operation, int]]:
        """Send messages and read an acknowledgement for each; the kernel works while `send` runs."""
        try:
            self._socket.send(packed)
            failed = []
            while waiting:
                for sequence, number in rtnetlink.read_acks(self._socket.recv(1 << 16)):
                    step = waiting.pop(sequence, None)
                    if step is not None and number:
                        failed.append((step, number))
        except OSError as error:
            return [(step, error.errno or errno.EIO) for step in waiting.values()]
        return failed


def _encode(step: Operation, indexes: dict[str, int], sequence: int) -> bytes | None:
    """The message for one step; None when the device that it names is not there."""
    thing = step.object
    assert isinstance(thing, Route | Neighbour | FdbEntry)
    index = indexes.get(thing.link) if thing.link is not None else None
    if index is None and thing.link is not None:
        return None
    if isinstance(thing, Route):
        if step.verb == "delete":
            return rtnetlink.delete_route(thing.destination, index, sequence)
        return rtnetlink.add_route(
            thing.destination, index, thing.gateway, thing.onlink, sequence, replace=step.verb == "change"
        )
    assert index is not None
    if isinstance(thing, Neighbour):
        if step.verb == "delete":
            return rtnetlink.delete_neighbour(index, thing.ip, sequence)
        return rtnetlink.put_neighbour(index, thing.ip, thing.mac, sequence)
    if step.verb == "delete":
        return rtnetlink.delete_fdb(index, thing.mac, thing.vtep, sequence)
    return rtnetlink.put_fdb(index, thing.mac, thing.vtep, sequence)


def _link(message: Any, attributes: dict[str, Any]) -> Link:
    info = dict(dict(attributes.get("IFLA_LINKINFO", {"attrs": []}))["attrs"])
    kind = info.get("IFLA_INFO_KIND")
    vxlan = None
    if kind == "vxlan":
        data = dict(info["IFLA_INFO_DATA"]["attrs"])
        local = data.get("IFLA_VXLAN_LOCAL") or data.get("IFLA_VXLAN_LOCAL6") or "0.0.0.0"
        vxlan = Vxlan(
            vni=data.get("IFLA_VXLAN_ID", 0),
            port=data.get("IFLA_VXLAN_PORT", 0),
            local=ip_address(local),
            underlay=data.get("IFLA_VXLAN_LINK", 0),
            learning=bool(data.get("IFLA_VXLAN_LEARNING", 0)),
            gbp="IFLA_VXLAN_GBP" in data,
        )
    return Link(
        name=attributes["IFLA_IFNAME"],
        mtu=attributes["IFLA_MTU"],
        up=bool(message["flags"] & _IFF_UP),
        mac=attributes.get("IFLA_ADDRESS") if kind == "vxlan" else None,
        txqueuelen=attributes.get("IFLA_TXQLEN") if kind == "tun" else None,
        vxlan=vxlan,
    )


def _route(message: Any, names: dict[int, str], ours: dict[int, str]) -> Route:
    attributes = dict(message["attrs"])
    version = 4 if message["family"] == socket.AF_INET else 6
    default = "0.0.0.0" if version == 4 else "::"
    destination = ip_network(f"{attributes.get('RTA_DST', default)}/{message['dst_len']}")
    if message["type"] == _RTN_UNREACHABLE:
        return Route(destination)
    via = attributes.get("RTA_GATEWAY") or (attributes.get("RTA_VIA") or {}).get("addr")
    index = attributes.get("RTA_OIF", 0)
    return Route(
        destination,
        link=names.get(index, f"#{index}"),
        gateway=ip_address(via) if via else None,
        onlink=bool(message["flags"] & _RTNH_F_ONLINK),
        own_link=index in ours,
    )


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


def _explain(step: Operation, number: int) -> str:
    text = os.strerror(number)
    if number == errno.EEXIST:
        return f"{text}: a route to {step.object.destination} that overlayd did not make is there; remove it"  # type: ignore[union-attr]
    if number == errno.EPERM:
        return f"{text}: overlayd needs CAP_NET_ADMIN"
    if number == errno.ENETUNREACH:
        return f"{text}: the gateway is not on the link"
    return text
