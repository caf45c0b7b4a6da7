"""What flannel's data do not say of a lease: which node holds it, whatever its address. Our own record in etcd.

    PREFIX/overlayd/hosts/192.0.2.1               {"id":"...","session":"...","subnet":"10.5.52.0-24","port":8472}

It stands where flannel does not look; its key is the node's public IP.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from overlayd.core.flannel.form import FormatError, Json, parse_object
from overlayd.core.flannel.lease import parse_key


@dataclass(frozen=True, slots=True)
class HostRecord:
    """Which node has a public IP, and with it a lease."""

    id: str
    """The node's identity, kept on its disk."""
    session: str
    """One run of its daemon: tells a node from its clone while both run."""
    subnet: str
    """The key of its lease."""
    name: str = ""
    port: int | None = None
    """The UDP port that it listens on; flannel's values do not say."""
    probe: int | None = None
    """The UDP port on which it answers probes."""


def parse_host(value: str) -> HostRecord:
    """Our record behind a public IP. Raises FormatError."""
    given = parse_object(value)
    ports = {}
    for key in ("port", "probe"):
        port = ports[key] = given.get(key)
        if port is not None and (type(port) is not int or not 1 <= port <= 65535):
            raise FormatError(f"{key}: is no port")
    name = given.get("name", "")
    if not isinstance(name, str) or (name and not re.fullmatch(r"[A-Za-z0-9._-]{1,253}", name)):
        raise FormatError("name: is no host name")
    words = {}
    for key in ("id", "session", "subnet"):
        word = given.get(key)
        if not isinstance(word, str) or not re.fullmatch(r"[A-Za-z0-9.:&_-]{1,120}", word):
            raise FormatError(f"{key}: is missing or no word")
        words[key] = word
    parse_key(words["subnet"])
    return HostRecord(**words, name=name, port=ports["port"], probe=ports["probe"])


def host_text(record: HostRecord) -> str:
    """The value of our record."""
    value: Json = {"id": record.id, "session": record.session, "subnet": record.subnet}
    if record.name:
        value["name"] = record.name
    if record.port is not None:
        value["port"] = record.port
    if record.probe is not None:
        value["probe"] = record.probe
    return json.dumps(value, separators=(",", ":"))
