"""What the other life tests share: dumps of a host's kernel state, continuous pings, and waiting for what must come.

The tests in here hold the dump to account: one that did not see a change would let every comparison pass.
"""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from overlayd.core.address import Address
from overlayd.lab import Host, LabError, Namespace, hosts
from overlayd.lab.host import ROOT

MODES = ("udp", "vxlan", "host-gw")
TIMEOUT = 15.0

Dump = dict[str, str]


def eventually(condition: Callable[[], object], what: str, timeout: float = TIMEOUT) -> None:
    """Poll until the condition holds; fails the test with `what` when it does not come to hold."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not after {timeout:g} s: {what}")
        time.sleep(0.05)


# --- the commands -----------------------------------------------------------------------------------------------------


def overlayd(host: Host, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the real `overlayd` on the host, with its own configuration file unless the arguments name another."""
    chosen = [] if "--config" in arguments else ["--config", str(host.config_path)]
    variables = [f"{key}={value}" for key, value in {"PYTHONPATH": str(ROOT), **environment}.items()]
    return host.run("env", *variables, sys.executable, "-m", "overlayd", *chosen, *arguments, check=False)


def overlayctl(host: Host, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the real `overlayctl` on the host, which has wide terminal lines and asks the host's own daemon."""
    variables = [f"PYTHONPATH={ROOT}", f"OVERLAYD_CONTROL_SOCKET={host.socket_path}", "COLUMNS=200"]
    return host.run("env", *variables, sys.executable, "-m", "overlayd.cli.overlayctl", *arguments, check=False)


def one_line(text: str) -> str:
    """The text, which must be one line and no traceback."""
    lines = text.splitlines()
    assert len(lines) == 1, text
    assert "Traceback" not in text
    return lines[0]


# --- dumps ------------------------------------------------------------------------------------------------------------

_COMMANDS = (
    "ip -d link",
    "ip -d addr",
    "ip route show table all",
    "ip -6 route show table all",
    "ip rule",
    "ip -6 rule",
    "ip neigh",
    "ip -6 neigh",
    "bridge fdb",
    "nft list ruleset",
    "iptables-save",
    "ip6tables-save",
)
_VOLATILE = (
    (r"( scope link) tentative", r"\1"),  # until the kernel has looked for its double
    (r"\b\w+_timer +[\d.]+|topology_change(_detected)? \d", "TIMER"),
    (r"counter packets \d+ bytes \d+", "counter"),
    (r"\[\d+:\d+\]", "[COUNTERS]"),
    (r"(expires|age|used) \S+", ""),
)


def dump(host: Namespace, *, ifindex: bool = True) -> Dump:
    """The kernel state of a host by the command that shows it, without what changes by itself.

    Timers and counters are taken out, and so are neighbours and FDB entries that were learned, not set. Without
    `ifindex`, so are interface indexes: a device that was made anew is the same.
    """
    found = {}
    for command in _COMMANDS:
        text = host.run(*command.split()).stdout
        for pattern, replacement in _VOLATILE:
            text = re.sub(pattern, replacement, text)
        lines = [line.rstrip() for line in text.splitlines()]
        if "neigh" in command:
            lines = sorted(line for line in lines if "PERMANENT" in line)
        elif "fdb" in command:
            lines = sorted(line for line in lines if "permanent" in line)
        elif "save" in command:
            lines = [line for line in lines if not line.startswith("#") or "incompatible" in line]
        elif "route" in command:
            lines.sort()
        if not ifindex:
            lines = [re.sub(r"^\d+: ", "", line) for line in lines]
        found[command] = "\n".join(lines)
    return found


def assert_same(before: Dump, after: Dump) -> None:
    """Fail with the lines that came and went."""
    found = []
    for command, text in before.items():
        old, new = text.splitlines(), after[command].splitlines()
        found += [f"{command}: - {line}" for line in old if line not in new]
        found += [f"{command}: + {line}" for line in new if line not in old]
        if old != new and not found:
            found.append(f"{command}: in another order:\n{text}\n=>\n{after[command]}")
    assert not found, "\n".join(["the host's state differs:", *found])


def devices(host: Namespace) -> set[str]:
    """The names of the host's devices, apart from those that the lab made."""
    names = re.findall(r"^\d+: ([^:@]+)", host.run("ip", "link").stdout, re.MULTILINE)
    return {name for name in names if name not in ("lo", "eth0", "br0") and not re.fullmatch(r"c\d+", name)}


def index_of(host: Namespace, device: str) -> int:
    """The device's interface index."""
    return int(host.run("ip", "-o", "link", "show", device).stdout.split(":")[0])


# --- what goes on meanwhile -------------------------------------------------------------------------------------------


class Pings:
    """Echo requests fifty times a second."""

    def __init__(self, node: Namespace, address: Address | str) -> None:
        self._output = tempfile.NamedTemporaryFile("w+")  # noqa: SIM115  # closed in lost()
        argv = ["ping", "-n", "-i", "0.02", str(address)]
        self._process = node.popen(*argv, stdout=self._output, stderr=subprocess.STDOUT)
        self.expect_more()

    def answered(self) -> list[int]:
        """The sequence numbers answered so far."""
        text = Path(self._output.name).read_text()
        return [int(number) for number in re.findall(r"bytes from .*icmp_seq=(\d+)", text)]

    def expect_more(self) -> None:
        """Wait for five more answers."""
        enough = len(self.answered()) + 5
        eventually(lambda: len(self.answered()) >= enough, "five more answers to the continuous ping")

    def lost(self) -> list[int]:
        """End it, with a few more answers so that nothing is in flight; the requests that were never answered."""
        self.expect_more()
        self.end()
        answered = self.answered()
        self._output.close()
        return sorted(set(range(1, max(answered) + 1)) - set(answered))

    def end(self) -> None:
        """End it. Safe to call twice."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(10)


@contextlib.contextmanager
def pinging(node: Namespace, address: Address | str) -> Iterator[None]:
    """No echo request may be lost while the block runs."""
    pings = Pings(node, address)
    try:
        yield
        lost = pings.lost()
    finally:
        pings.end()
    assert lost == [], f"{len(lost)} echo requests were not answered"


@contextlib.contextmanager
def route_events(host: Namespace) -> Iterator[list[str]]:
    """The lines of `ip monitor route` for the block, complete when it has ended."""
    events: list[str] = []
    with tempfile.NamedTemporaryFile("w+") as output:
        process = host.popen("ip", "monitor", "route", stdout=output)
        try:
            _mark(host, output.name, "203.0.113.1")
            yield events
            _mark(host, output.name, "203.0.113.2")  # what was before it has been written
        finally:
            process.terminate()
            process.wait(10)
        events += [line for line in Path(output.name).read_text().splitlines() if "203.0.113." not in line]


def _mark(host: Namespace, output: str, address: str) -> None:
    def seen() -> bool:
        host.ip(f"route replace blackhole {address} table 999", f"route del blackhole {address} table 999")
        return address in Path(output).read_text()

    eventually(seen, "ip monitor shows a route that was made")


def reloaded(host: Host, action: Callable[[], None], *others: Host) -> None:
    """Do what makes the daemon reload (and those of the other hosts), and wait until all have done so well."""
    before = {one: one.status()["reload"]["count"] for one in (host, *others)}
    action()
    for one, count in before.items():
        eventually(
            lambda one=one, count=count: one.status()["reload"]["count"] > count,  # type: ignore[misc]
            f"{one.name} has reloaded; its log ends:\n{one.last_lines()}",
        )


# --- the dump itself --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with hosts(2, mode="none", underlay="dual") as (one, _):
        yield one


@pytest.mark.parametrize(
    ("make", "undo", "command"),
    [
        ("ip link add x type bridge", "ip link del x", "ip -d link"),
        ("ip link set eth0 mtu 1400", "ip link set eth0 mtu 1500", "ip -d link"),
        ("ip addr add 10.9.9.9/32 dev lo", "ip addr del 10.9.9.9/32 dev lo", "ip -d addr"),
        ("ip route add unreachable 10.9.0.0/16", "ip route del unreachable 10.9.0.0/16", "ip route show table all"),
        ("ip route add 10.9.0.0/16 dev eth0 table 7", "ip route flush table 7", "ip route show table all"),
        ("ip -6 route add fd99::/64 dev eth0", "ip -6 route del fd99::/64", "ip -6 route show table all"),
        ("ip rule add pref 7 lookup 7", "ip rule del pref 7", "ip rule"),
        (
            "ip neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev eth0 nud permanent",
            "ip neigh del 192.0.2.9 dev eth0",
            "ip neigh",
        ),
        ("bridge fdb add 02:00:00:00:00:09 dev eth0 self", "bridge fdb del 02:00:00:00:00:09 dev eth0", "bridge fdb"),
        ("nft add table inet x", "nft delete table inet x", "nft list ruleset"),
    ],
)
def test_a_dump_shows_each_kind_of_change(host: Host, make: str, undo: str, command: str) -> None:
    before = dump(host)
    host.run(*make.split())
    try:
        with pytest.raises(AssertionError, match=re.escape(f"{command}: ")):
            assert_same(before, dump(host))
    finally:
        host.run(*undo.split())
    assert_same(before, dump(host))


def test_a_dump_shows_rules_of_iptables(host: Host) -> None:
    host.run("iptables", "-P", "FORWARD", "ACCEPT")
    before = dump(host)
    host.run("iptables", "-A", "FORWARD", "-s", "10.9.0.0/16", "-j", "ACCEPT")
    with pytest.raises(AssertionError, match=r"iptables-save: \+ -A FORWARD"):
        assert_same(before, dump(host))
    host.run("iptables", "-F", "FORWARD")
    assert_same(before, dump(host))


def test_a_lost_ping_is_noticed(host: Host) -> None:
    def broken_for_a_moment() -> None:
        with pinging(host, "192.0.2.2"):
            host.run("iptables", "-A", "INPUT", "-p", "icmp", "-j", "DROP")
            assert not host.ping("192.0.2.2", timeout=0.1)
            host.run("iptables", "-F", "INPUT")

    with pytest.raises(AssertionError, match="echo requests were not answered"):
        broken_for_a_moment()
    with pinging(host, "192.0.2.2"):
        pass


def test_a_deleted_route_is_noticed(host: Host) -> None:
    with route_events(host) as events:
        host.ip("route add unreachable 10.9.0.0/16", "route del unreachable 10.9.0.0/16")
    assert [line.split()[0] for line in events] == ["unreachable", "Deleted"]


def test_devices_are_those_that_the_lab_did_not_make(host: Host) -> None:
    assert devices(host) == set()
    host.ip("link add x type bridge")
    assert devices(host) == {"x"}
    assert index_of(host, "x") > index_of(host, "eth0")
    host.ip("link del x")
    with pytest.raises(LabError, match="x"):
        index_of(host, "x")
