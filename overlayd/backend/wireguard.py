"""wireguard mode: this daemon encrypts. What crosses the underlay is WireGuard's protocol; peers are flannel nodes with
its wireguard backend, and other hosts with overlayd.

    {"PublicIP":"192.0.2.1",...,"BackendType":"wireguard","BackendData":{"PublicKey":"<base64>","Port":51820}}

Its kernel objects are in `backend/tun.py`, its packets in `backend/wireguard_data_path.py`. As in flannel's mode
"separate" there is a tunnel for each underlay family in use, with a port of its own, and one key for both.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from overlayd.backend.base import Backend, Mode
from overlayd.backend.tun import TunBackend
from overlayd.core.address import Address, Family, Network
from overlayd.core.flannel.form import FormatError, Json
from overlayd.core.leases.lease import Lease
from overlayd.core.node import Node
from overlayd.core.settings import values
from overlayd.datapath.wireguard.settings import WireguardSettings
from overlayd.log import log
from overlayd.system.private_key import make_private_key, read_private_key
from overlayd.system.service_manager import ServiceManager

_OVERHEAD = 80
"""Bytes: 40 of IPv6, 8 of UDP, 32 of WireGuard. Over IPv4 it is 20 less; flannel takes 80 off on both, and hosts of one
network need one MTU."""
_KEY_FILE = "wireguard.key"


class WireguardMode(Mode[WireguardSettings]):
    """See `core.mode.ModeSpec`."""

    name = "wireguard"
    summary = "user space, encrypted"
    code = 4
    section = WireguardSettings
    options = (
        ("ListenPort", "port"),
        ("ListenPortV6", "port_v6"),
        ("PSK", "psk"),
        ("PersistentKeepaliveInterval", "persistent_keepalive"),
    )
    keyed = True

    def overhead(self, underlay_family: Family) -> int:
        return _OVERHEAD

    def prepare(self, section: WireguardSettings, state_dir: Path, *, read_only: bool) -> WireguardSettings:
        from overlayd.datapath.wireguard.primitives import PrivateKey  # `cryptography`: not before it is used

        path = state_dir / _KEY_FILE
        if not path.exists() and read_only:
            return section
        made = not path.exists()
        raw = make_private_key(path) if made else read_private_key(path)
        public_key = base64.b64encode(PrivateKey(raw).public).decode()
        if made:
            log.info("private key made; keep its file", file=str(path), public_key=public_key)
        return section.changed(public_key=public_key, key_file=path)

    def lease_fields(self, section: WireguardSettings) -> dict[str, Any]:
        return {"port": section.port, "port_v6": section.port_v6, "public_key": section.public_key}

    def parse_data(self, data: Any, data6: Any, public: tuple[bool, bool]) -> dict[str, Any]:
        given = [_fields(one, name) for one, name in ((data, "BackendData"), (data6, "BackendV6Data"))]
        if public[0] and given[0] is None:
            raise FormatError("BackendData: has no PublicKey, which every wireguard lease needs")
        if public[1] and not public[0] and given == [None, None]:
            raise FormatError("BackendV6Data: has no PublicKey, which every wireguard lease needs")
        keys = {one[0] for one in given if one is not None}
        if not keys:
            return {}
        if len(keys) > 1:
            raise FormatError("BackendV6Data.PublicKey: is not BackendData's; a host has one key")
        v4, v6 = given
        return {
            "public_key": keys.pop(),
            "port": v4[1] if v4 is not None else None,
            "port_v6": v6[1] if v6 is not None else None,
        }

    def lease_data(self, lease: Lease) -> Json:
        data: Json = {}
        if lease.public_ip is not None:
            data["BackendData"] = _data(lease.public_key, lease.port)
        if lease.public_ipv6 is not None:
            data["BackendV6Data"] = _data(lease.public_key, lease.port_v6)
        return data

    def ports(self, node: Node) -> Iterable[int]:
        section = node.section
        assert isinstance(section, WireguardSettings)
        return {section.port if family == 4 else section.port_v6 for family in node.underlay_families}

    def fault(self, node: Node) -> str | None:
        section, written = node.section, node.lease.public_key
        assert isinstance(section, WireguardSettings)
        own = section.public_key
        if own is None or own == written:
            return None
        if written is None:
            return f"leases: the row of this host, {node.lease}, has no key; write public_key: {own}"
        return (
            f"leases: the row of this host, {node.lease}, has public_key {written}, and the key in"
            f" {section.key_file} is {own}: correct the row, or bring the right file back"
        )

    def obstacle(self, node: Node, peer: Lease, subnet: Network, public: Address) -> str | None:
        if peer.public_key is None:
            return f"{subnet} has no public_key in its lease; add it (a start on that host prints it)"
        if peer.public_key == node.lease.public_key:
            return f"{subnet} has this host's own public_key; each host needs its own"
        return None

    def backend(self, node: Node, section: WireguardSettings, manager: ServiceManager) -> Backend:
        from overlayd.backend.wireguard_data_path import WireguardDataPath  # engine, ciphers: not before they are used

        return TunBackend(node, WireguardDataPath(node, section, manager))


WIREGUARD = WireguardMode()


def _data(public_key: str | None, port: int | None) -> Json:
    return {"PublicKey": public_key} | ({"Port": port} if port is not None else {})


def _fields(data: Any, name: str) -> tuple[str, int | None] | None:
    """The key and the port, which older versions of flannel leave out; None where there is no data."""
    if data is None:
        return None
    if not isinstance(data, dict):
        raise FormatError(f"{name}: is not an object")
    given = {key.lower(): content for key, content in data.items()}
    public_key, port = given.get("publickey"), given.get("port")
    if not isinstance(public_key, str):
        raise FormatError(f"{name}: has no PublicKey")
    try:
        values.key(public_key)
    except ValueError as error:
        raise FormatError(f"{name}.PublicKey: {public_key[:60]} {error}") from None
    if port is not None and (type(port) is not int or not 0 <= port <= 65535):
        raise FormatError(f"{name}.Port: {str(port)[:20]} is not a valid port")
    return public_key, port or None
