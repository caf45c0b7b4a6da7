"""A host's kernel state as text, to be compared; and the changes of its routes while something goes on."""

from __future__ import annotations

import contextlib
import hashlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from overlayd.lab import Host, Namespace
from support.waiting import eventually

Dump = dict[str, str]


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
    (r"\t\telements = \{[^}]* expires [^}]*\}\n", ""),  # noted of packets, for some seconds
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


def claims(host: Host) -> Dump:
    """Everything of a host and of its lab's etcd that a start claims or changes: the kernel state, switches, the files
    of the host's directory, etcd's revision, which grows with every write, and its leases."""
    switches = host.run("sysctl", "-a", "--pattern", r"^net\..*(forward|accept_|rp_filter|addr_gen)").stdout
    files = "\n".join(f"{path} {_content(path)}" for path in sorted(host.directory.rglob("*")))
    found = {**dump(host), "sysctl": switches, "files": files}
    if (etcd := host.lab.etcd) is not None:
        revision = etcd.ctl_json("get", "--", "/")["header"]["revision"]
        found["etcd"] = f"revision {revision}\nleases {sorted(etcd.leases())}\n{etcd.below('/')}"
    return found


def _content(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no file"


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
