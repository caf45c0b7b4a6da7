"""Containers for overlayd to attach: network namespaces that nothing else knows of."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_interface
from typing import Any

from overlayd.core.address import Address
from overlayd.core.attach.model import Attachment
from overlayd.core.attach.request import DetachRequest, parse_attach
from overlayd.lab import Host, Namespace, hosts
from overlayd.lab.namespace import NETNS_DIR
from overlayd.system import attach_client
from overlayd.system.control_client import ask

_NUMBERS = itertools.count(1)


class Box(Namespace):
    """A container without a network."""

    def __init__(self) -> None:
        name = f"ovlbox-{os.getpid()}-{next(_NUMBERS)}"
        super().__init__(name, name)
        subprocess.run(["ip", "netns", "add", name], check=True)

    @property
    def path(self) -> str:
        """Of its namespace."""
        return str(NETNS_DIR / self.namespace)

    def end(self) -> None:
        """As a container does that dies: without a word to anybody."""
        subprocess.run(["ip", "netns", "del", self.namespace], check=False, capture_output=True)

    def attach(self, host: Host, **given: Any) -> Attachment:
        """Attach it to that host's overlay."""
        request = parse_attach({"container": self.name, "netns": self.path, **given})
        return attach_client.attach(host.socket_path, request)

    def detach(self, host: Host) -> list[Attachment]:
        """Detach it from that host."""
        return attach_client.detach(host.socket_path, DetachRequest(container=self.name))

    def addresses(self, interface: str = "eth0") -> list[str]:
        """Its own addresses of that interface, with their prefix lengths."""
        found = json.loads(self.run("ip", "-j", "address", "show", "dev", interface).stdout)
        return [f"{one['local']}/{one['prefixlen']}" for one in found[0]["addr_info"] if one["scope"] == "global"]

    def address(self, family: int, interface: str = "eth0") -> Address:
        """Its one address of that family."""
        return next(one.ip for one in map(ip_interface, self.addresses(interface)) if one.version == family)


@contextmanager
def boxes(count: int) -> Iterator[tuple[Box, ...]]:
    """So many containers."""
    with ExitStack() as stack:
        made = []
        for _ in range(count):
            made.append(Box())
            stack.callback(made[-1].end)
        yield tuple(made)


@contextmanager
def bare_hosts(count: int, **spec: Any) -> Iterator[tuple[Host, ...]]:
    """Hosts of both families with nobody's bridge on them: containers are overlayd's to attach."""
    spec = {"family": "dual", "underlay": "dual", "containers": 0, **spec}
    with hosts(count, **spec) as found:
        for one in found:
            one.ip("link delete br0")
        yield tuple(found)


def attachments(host: Host) -> list[dict[str, Any]]:
    """What the daemon has attached."""
    found: list[dict[str, Any]] = ask(host.socket_path, "/v1/attachments")["attachments"]
    return found


def devices(host: Host) -> set[str]:
    """Bridges and host ends on the host."""
    found = json.loads(host.run("ip", "-j", "link", "show", "group", "7304812").stdout)
    names = {one["ifname"] for one in found if one}
    return {one for one in names if one != "ovl0" and not one.startswith(("ovl.", "ovl6."))}
