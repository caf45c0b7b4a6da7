"""Our own record of a lease in etcd, beside flannel's data: which node holds it, whatever its address.

    PREFIX/overlayd/hosts/192.0.2.1               {"id":"...","session":"...","subnet":"10.5.52.0-24","port":8472}

flannel does not read these keys. The key is the node's public IP.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from overlayd.core.flannel.form import FormatError, Json, parse_object
from overlayd.core.flannel.lease import parse_key


@dataclass(frozen=True, slots=True)
class HostRecord:
    """The node that has a public IP, and its lease."""

    id: str
    """The node's identity, from its disk."""
    session: str
    """Random for each run of its daemon: distinguishes a node from its clone."""
    subnet: str
    """The key of its lease."""
    name: str = ""
    port: int | None = None
    """The UDP port of its data path; flannel's values do not have it."""
    probe: int | None = None
    """The UDP port on which it answers probes."""


def parse_host(value: str) -> HostRecord:
    """The record that a value is. Raises FormatError."""
    given = parse_object(value)
    ports = {}
    for key in ("port", "probe"):
        port = ports[key] = given.get(key)
        if port is not None and (type(port) is not int or not 1 <= port <= 65535):
            raise FormatError(f"{key}: is not a valid port")
    name = given.get("name", "")
    if not isinstance(name, str) or (name and not re.fullmatch(r"[A-Za-z0-9._-]{1,253}", name)):
        raise FormatError("name: is not a valid host name")
    words = {}
    for key in ("id", "session", "subnet"):
        word = given.get(key)
        if not isinstance(word, str) or not re.fullmatch(r"[A-Za-z0-9.:&_-]{1,120}", word):
            raise FormatError(f"{key}: is missing or not a valid word")
        words[key] = word
    parse_key(words["subnet"])
    return HostRecord(**words, name=name, port=ports["port"], probe=ports["probe"])


def host_text(record: HostRecord) -> str:
    """The value of a record."""
    value: Json = {"id": record.id, "session": record.session, "subnet": record.subnet}
    if record.name:
        value["name"] = record.name
    if record.port is not None:
        value["port"] = record.port
    if record.probe is not None:
        value["probe"] = record.probe
    return json.dumps(value, separators=(",", ":"))
