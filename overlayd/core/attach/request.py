"""What is asked on the attach socket, and what is answered: one JSON object each, in one packet each.

    {"call": "attach", "container": "c1", "interface": "eth0", "netns": "/run/netns/c1", ...}    and a descriptor
    {"call": "detach", "container": "c1", "interface": "eth0"}      without an interface: all of the container's
    {"call": "refresh", "container": "c1", "interface": "eth0"}                                  and a descriptor

    {"attachments": [...]}
    {"error": "address 10.1.1.7 is taken by ...", "kind": "taken"}

The descriptor is an rtnetlink socket that was opened in the container's network namespace.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, get_args

from overlayd.core.address import Address
from overlayd.core.attach import values
from overlayd.core.attach.errors import AttachError, Kind
from overlayd.core.attach.model import DEFAULT_NETWORK, MODES, PORTS_MAX, Attachment, Json, Mode, PublishedPort

PACKET_MAX = 1 << 17
"""Bytes of a request or an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachRequest:
    """Attach a container by an interface that it does not have yet."""

    container: str
    interface: str
    netns: str
    mode: Mode = "bridge"
    network: str = DEFAULT_NETWORK
    addresses: tuple[Address, ...] = ()
    """The wanted ones; of a family without one the daemon chooses."""
    mac: str | None = None
    ports: tuple[PublishedPort, ...] = ()
    sysctls: tuple[tuple[str, str], ...] = ()
    """Which the client sets; here to be shown."""
    rps: str = ""

    def json(self) -> Json:
        """As it is sent."""
        return {
            "call": "attach",
            "container": self.container,
            "interface": self.interface,
            "netns": self.netns,
            "mode": self.mode,
            "network": self.network,
            "addresses": [str(one) for one in self.addresses],
            "mac": self.mac,
            "ports": [one.json() for one in self.ports],
            "sysctls": dict(self.sysctls),
            "rps": self.rps,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class DetachRequest:
    """Detach a container, by one interface or all."""

    container: str
    interface: str | None = None

    def json(self) -> Json:
        """As it is sent."""
        return {"call": "detach", "container": self.container, "interface": self.interface}


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshRequest:
    """Give an attachment addresses of this host's lease, and the overlay's MTU, as they are now."""

    container: str
    interface: str

    def json(self) -> Json:
        """As it is sent."""
        return {"call": "refresh", "container": self.container, "interface": self.interface}


Request = AttachRequest | DetachRequest | RefreshRequest


def parse_request(data: bytes) -> Request:
    """The request in a packet. Raises AttachError."""
    given = _object(data, "request")
    call = values.choice(given.get("call"), "call", ("attach", "detach", "refresh"))
    rest = {key: value for key, value in given.items() if key != "call"}
    if call == "attach":
        return parse_attach(rest)
    found = values.mapping(rest, call, ("container", "interface"))
    container = values.name(found.get("container"), "container")
    if call == "refresh":
        return RefreshRequest(container=container, interface=values.interface(found.get("interface")))
    interface = values.optional(found.get("interface"), values.interface)
    return DetachRequest(container=container, interface=interface)


def parse_attach(given: object) -> AttachRequest:
    """The request that a client makes of what it was told. Raises AttachError."""
    found = values.mapping(
        given,
        "attach",
        ("container", "interface", "netns", "mode", "network", "addresses", "mac", "ports", "sysctls", "rps"),
    )
    return AttachRequest(
        container=values.name(found.get("container"), "container"),
        interface=values.interface(found.get("interface", "eth0")),
        netns=values.path(found.get("netns"), "netns"),
        mode=values.choice(found.get("mode", "bridge"), "mode", MODES),  # type: ignore[arg-type]
        network=values.name(found.get("network", DEFAULT_NETWORK), "network"),
        addresses=values.addresses(found.get("addresses", [])),
        mac=values.optional(found.get("mac"), values.mac),
        ports=tuple(map(PublishedPort.of, values.items(found.get("ports", []), "ports", PORTS_MAX))),
        sysctls=values.sysctls(found.get("sysctls", {})),
        rps=values.cpus(found.get("rps", "")),
    )


def answer(attachments: Iterable[Attachment]) -> bytes:
    """The packet that says what was attached, detached or refreshed."""
    return json.dumps({"attachments": [one.json() for one in attachments]}).encode()


def refusal(error: AttachError) -> bytes:
    """The packet that says why not."""
    return json.dumps({"error": str(error), "kind": error.kind}).encode()


def parse_answer(data: bytes) -> list[Attachment]:
    """The attachments in an answer. Raises AttachError: what the daemon says, or that it says something else."""
    found = _object(data, "answer")
    if "error" in found:
        kind: Any = found.get("kind")
        raise AttachError(str(found["error"]), kind if kind in get_args(Kind) else "refused")
    return [Attachment.of(one) for one in values.items(found.get("attachments"), "attachments", PACKET_MAX)]


def _object(data: bytes, what: str) -> Json:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise AttachError(f"{what}: not JSON ({len(data)} bytes)") from None
    if not isinstance(found, dict):
        raise AttachError(f"{what}: not an object")
    return found
