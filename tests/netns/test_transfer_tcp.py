"""Bulk TCP through both engines: what comes is what was sent, by sha256, and the kernel finds no wrong checksum in it.

    h1c1 10.1.1.2 -- br0 [h1] eth0 192.0.2.1 ==== wire ==== eth0 192.0.2.2 [h2] br0 -- h2c1 10.1.2.2

Wires: a veth with its offloads, where superpackets cross whole; the same cut into frames of 1500 bytes; and one that
loses, duplicates, reorders and corrupts (`impaired`). `make test-transfer GIB=2` sends as much in every case.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from overlayd.lab import Host, Namespace, hosts
from support.impaired import Wire, impaired_hosts
from support.streams import MB, checksum_errors, exchange, kernel_counters
from support.waiting import eventually
from support.wire import ENGINES, FAMILIES, drops

GIB = float(os.environ.get("OVERLAYD_TRANSFER_GIB", "0"))
"""How much is sent in every case, both directions together; 0 for what SIZES says."""
SIZES = {
    ("native", "offloads"): 96, ("native", "frames"): 32, ("native", "impaired"): 8,
    ("python", "frames"): 8, ("python", "impaired"): 5,
}  # fmt: skip
"""In MB."""
SLOW = 16
"""The readable engine gets this part of GIB."""
HARM = {"lose": 0.01, "duplicate": 0.005, "reorder": 0.01, "corrupt": 0.005, "forge": 0.002, "unsum": 0.002}

pytestmark = pytest.mark.timeout(120 + 300 * GIB)


SPEC = {"mode": "udp", "family": "dual", "underlay": "dual"}


@dataclass(frozen=True)
class Path:
    """Two hosts and what joins them."""

    engine: str
    kind: str
    a: Host
    b: Host

    @property
    def nodes(self) -> tuple[Namespace, ...]:
        return (self.a, self.b, self.a.container(0), self.b.container(0))

    def exchange(self, family: int, streams: int) -> None:
        """As much as is due, in both directions at once."""
        size = SIZES[self.engine, self.kind] * MB
        if GIB:
            size = int(GIB * (1 << 30)) // (SLOW if self.engine == "python" else 1)
        inner, outer = self.a.container(0), self.b.container(0)
        exchange(inner, outer, outer.address(family), streams, size // streams // 2 + 1)


@pytest.fixture(
    scope="module", params=[("native", "offloads"), ("native", "frames"), ("python", "frames")], ids=" over ".join
)
def clean(request: pytest.FixtureRequest) -> Iterator[Path]:
    engine, kind = request.param
    with hosts(2, offloads="on" if kind == "offloads" else "off", settings={"udp": {"engine": engine}}, **SPEC) as (
        a,
        b,
    ):
        yield Path(engine, kind, a, b)


@pytest.fixture(scope="module", params=ENGINES)
def impaired(request: pytest.FixtureRequest) -> Iterator[tuple[Path, Wire]]:
    with impaired_hosts(settings={"udp": {"engine": request.param}}, **SPEC) as (a, b, wire):
        yield Path(request.param, "impaired", a, b), wire


@pytest.fixture(scope="module")
def impaired_overlayd() -> Iterator[tuple[Path, Wire]]:
    with impaired_hosts(settings={"udp": {"engine": "native"}}, wire="overlayd", **SPEC) as (a, b, wire):
        for host in (a, b):
            eventually(lambda host=host: host.status()["peers"][0]["capabilities"] == ["partial_sums", "ecn"])
        yield Path("native", "impaired", a, b), wire


def total(counters: Counter[str], *names: str) -> int:
    """The sum over those counters, of whatever node: "TcpInCsumErrors"."""
    return sum(value for key, value in counters.items() if key.split()[-1] in names)


def overflowed(path: Path) -> int:
    """Datagrams for which the daemons' sockets had no room: the kernel never looked at their checksums."""
    return sum(
        kernel_counters(host)[name] for host in (path.a, path.b) for name in ("UdpRcvbufErrors", "Udp6RcvbufErrors")
    )


@pytest.mark.parametrize("streams", [1, 4, 32])
@pytest.mark.parametrize("family", FAMILIES)
def test_both_ways_at_once(clean: Path, family: int, streams: int) -> None:
    before = checksum_errors(clean.nodes)
    clean.exchange(family, streams)
    assert checksum_errors(clean.nodes) - before == Counter()


@pytest.mark.parametrize("streams", [1, 4, 32])
@pytest.mark.parametrize("family", FAMILIES)
def test_both_ways_at_once_over_a_bad_cable(impaired: tuple[Path, Wire], family: int, streams: int) -> None:
    path, wire = impaired
    before, overflows = checksum_errors(path.nodes), overflowed(path)
    with wire.harming(**HARM) as harmed:
        path.exchange(family, streams)
    assert all(harmed[ill] for ill in HARM), f"not harmed enough to say anything: {harmed}"
    assert not [what for what in harmed if what.startswith("refused")], harmed

    # What the outer checksum can catch, it does: the daemon never sees it. The kernel looks when the daemon reads.
    outer = ("UdpInCsumErrors", "Udp6InCsumErrors")
    eventually(lambda: total(checksum_errors(path.nodes) - before, *outer) + overflowed(path) - overflows
               >= harmed["corrupt"], "the outer checksums", timeout=5)  # fmt: skip
    found = checksum_errors(path.nodes) - before
    assert total(found, *outer) <= harmed["corrupt"]
    # What it cannot catch was passed on as it came, and the inner checksum caught it: nothing repaired it on the way.
    bodies = harmed["forge body"] + harmed["unsum body"]
    passed_on = total(found, "TcpInCsumErrors")
    assert 0 < passed_on <= harmed["forge"] + harmed["unsum"], (found, harmed)
    assert passed_on >= 0.7 * bodies - (overflowed(path) - overflows), (found, harmed)


@pytest.mark.parametrize("streams", [1, 32])
@pytest.mark.parametrize("family", FAMILIES)
def test_both_ways_at_once_over_a_bad_cable_in_overlayds_wire(
    impaired_overlayd: tuple[Path, Wire], family: int, streams: int
) -> None:
    """The outer checksum is the only one on the way: what it catches never reaches a container."""
    path, wire = impaired_overlayd
    before = checksum_errors(path.nodes)
    harm = {ill: chance for ill, chance in HARM.items() if ill not in ("forge", "unsum")}
    with wire.harming(**harm) as harmed:
        path.exchange(family, streams)
    assert all(harmed[ill] for ill in harm), f"not harmed enough to say anything: {harmed}"
    found = checksum_errors(path.nodes) - before
    assert total(found, "UdpInCsumErrors", "Udp6InCsumErrors") > 0
    assert total(found, "TcpInCsumErrors") == 0
    for host in (path.a, path.b):
        assert "partial_sums" in host.status()["peers"][0]["capabilities"], "losses did not end the way"


@pytest.mark.parametrize("ill", ["forge", "unsum"])
@pytest.mark.parametrize("family", FAMILIES)
def test_corruption_under_a_right_outer_checksum_is_left_to_the_inner_one(
    impaired: tuple[Path, Wire], family: int, ill: str
) -> None:
    """The flip of a bit of the TCP header can make the kernel drop the packet before it looks at the checksum: a data
    offset beyond the end of the packet. So the count may be a little below that of flips, but never above."""
    path, wire = impaired
    before, dropped = checksum_errors(path.nodes), drops(path.a) + drops(path.b)
    with wire.harming(**{ill: 0.02}) as harmed:
        path.exchange(family, 1)
    found = checksum_errors(path.nodes) - before
    dropped = drops(path.a) + drops(path.b) - dropped
    bodies = harmed[f"{ill} body"]
    assert bodies > 50
    assert total(found, "UdpInCsumErrors", "Udp6InCsumErrors") == 0, "the outer checksums were right"
    passed_on = sum(found[f"{node.name} TcpInCsumErrors"] for node in path.nodes[2:])
    assert 0.9 * bodies <= passed_on <= harmed[ill], (found, harmed)
    # And the inner headers: what the checks of the engine let through, the IPv4 header's own checksum shows the kernel.
    # IPv6 has none over hop limit, flow label and the like, and its addresses are under the inner checksum as well.
    if family == 4:
        assert dropped.total() + total(found, "IpExtInCsumErrors") == harmed[f"{ill} header"], (found, dropped, harmed)
