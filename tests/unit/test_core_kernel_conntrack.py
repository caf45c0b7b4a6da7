"""Which UDP connections are stale once ports have moved."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from overlayd.core.kernel.conntrack import MovedPorts
from overlayd.core.kernel.diff import Operation
from overlayd.core.kernel.firewall import port_element
from overlayd.wire.netlink.conntrack import ConntrackEntry, Endpoint


def moved(*words: str, protocol: str = "udp") -> MovedPorts:
    """+10.1.1.2 adds the element for all addresses, -10.1.1.2@192.0.2.1 deletes that of one."""
    steps = []
    for word in words:
        target, _, address = word[1:].partition("@")
        own = ip_address(address) if address else None
        element = port_element(protocol, own, 5353, ip_address(target), 53)
        steps.append(Operation("add" if word[0] == "+" else "delete", element))
    return MovedPorts(steps)


@pytest.mark.parametrize(
    ("words", "to", "answering", "stale"),
    [
        (["+10.1.1.2"], "192.0.2.1", "192.0.2.1", True),  # ended at the host itself until now
        (["+10.1.1.2"], "192.0.2.1", "10.1.1.2", False),  # goes there already
        (["+10.1.1.2"], "8.8.8.8", "8.8.8.8", False),  # of a container, to the same port elsewhere
        (["+10.1.1.2"], "192.0.2.1", "172.17.0.2", False),  # somebody else's translation
        (["+10.1.1.2@192.0.2.5"], "192.0.2.1", "192.0.2.1", False),
        (["+10.1.1.2@192.0.2.5"], "192.0.2.5", "192.0.2.5", True),
        (["-10.1.1.2"], "192.0.2.1", "10.1.1.2", True),
        (["-10.1.1.2"], "192.0.2.1", "10.1.1.3", False),
        (["-10.1.1.2"], "192.0.2.1", "192.0.2.1", False),
        (["-10.1.1.2@192.0.2.5"], "192.0.2.1", "10.1.1.2", False),
        (["-10.1.1.2", "+10.1.1.3"], "192.0.2.1", "10.1.1.2", True),
        (["-10.1.1.2", "+10.1.1.3"], "192.0.2.1", "10.1.1.3", False),
        (["-10.1.1.2", "+10.1.1.2@192.0.2.1"], "192.0.2.1", "10.1.1.2", False),
        (["-10.1.1.2", "+10.1.1.2@192.0.2.1"], "192.0.2.5", "10.1.1.2", True),
        (["+fd00::2"], "192.0.2.1", "192.0.2.1", False),
        (["+fd00::2"], "2001:db8::1", "2001:db8::1", True),
    ],
)
def test_which_connections_are_stale(words: list[str], to: str, answering: str, stale: bool) -> None:
    there = ip_address(to)
    answers = Endpoint(ip_address(answering), 5353 if answering == to else 53)
    entry = ConntrackEntry(Endpoint(there, 5353), answers, 2, b"")
    local = {ip_address("192.0.2.1"), ip_address("192.0.2.5"), ip_address("2001:db8::1")}
    assert moved(*words).is_stale(entry, local.__contains__) is stale


def test_which_ports_are_looked_at() -> None:
    assert moved("+10.1.1.2", "-fd00::2", "-10.1.1.3@192.0.2.1").by_version() == {4: {5353}, 6: {5353}}
    assert moved("+10.1.1.2", "-10.1.1.3", protocol="tcp").by_version() == {}
