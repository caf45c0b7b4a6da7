"""The kernel's counters, read before and after a run: processor time, TCP, memory. Parsers are pure.

Processor time is counted in ticks (10 ms) and attributed to who runs when one falls: over a second it is good to a few
percent. What the kernel does for a packet in a softirq is charged to the process that it interrupts, or to ksoftirqd.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
BUSY = 0.2
"""A machine of which more than this is in use is busy with something else: figures from it are unreliable."""
_IDLE_WINDOW = 0.2

_COUNTERS = {
    "retransmits": ("RetransSegs",),
    "reordering": ("TCPSACKReorder", "TCPRenoReorder", "TCPTSReorder"),
    "dsack": ("TCPDSACKRecv",),
    "out_of_order": ("TCPOFOQueue",),
}
"""Of a namespace, from /proc/net/snmp and /proc/net/netstat. The sender's: segments sent again; events at which it saw
that the network reorders; duplicates that the receiver reported (DSACK, RFC 2883), that is retransmits in vain. The
receiver's: segments that came before their time."""


@dataclass(frozen=True, slots=True)
class Processor:
    """Seconds of all processors together since the machine came up."""

    user: float
    system: float
    irq: float
    softirq: float
    steal: float
    idle: float

    @property
    def busy(self) -> float:
        """Seconds not idle, without what the hypervisor took."""
        return self.user + self.system + self.irq + self.softirq


@dataclass(frozen=True, slots=True)
class Counters:
    """An endpoint's counters at one moment; a run is the difference of two."""

    at: float
    """Seconds of the machine's monotonic clock."""
    processor: Processor
    daemon_user: float = 0.0
    daemon_system: float = 0.0
    """Seconds that the endpoint's overlayd has used; 0 where there is none."""
    tcp: dict[str, int] = field(default_factory=dict)

    def mapping(self) -> dict[str, object]:
        """As JSON takes it; `Counters.read` is the inverse."""
        return asdict(self)

    @classmethod
    def read(cls, data: dict[str, object]) -> Counters:
        """From `mapping`. Raises TypeError or KeyError for anything else."""
        given = dict(data)
        return cls(processor=Processor(**given.pop("processor")), **given)  # type: ignore[arg-type]


def parse_processor(stat: str) -> Processor:
    """The first line of /proc/stat (proc(5)): user nice system idle iowait irq softirq steal ..."""
    user, nice, system, idle, iowait, irq, softirq, steal = (
        int(word) / TICKS for word in stat.split("\n", 1)[0].split()[1:9]
    )
    return Processor(user + nice, system, irq, softirq, steal, idle + iowait)


def parse_process(stat: str) -> tuple[float, float]:
    """Seconds of user and of system time in /proc/PID/stat, of all threads."""
    fields = stat.rpartition(")")[2].split()  # the command in front may hold spaces and brackets
    return int(fields[11]) / TICKS, int(fields[12]) / TICKS


def parse_counters(*texts: str) -> dict[str, int]:
    """The sums that _COUNTERS names, from the texts of /proc/net/snmp and netstat: pairs of lines, names and values."""
    values: dict[str, int] = {}
    for text in texts:
        lines = text.splitlines()
        for names, numbers in zip(lines[::2], lines[1::2], strict=False):
            if names.split(":")[0] in ("Tcp", "TcpExt"):
                values |= dict(zip(names.split()[1:], map(int, numbers.split()[1:]), strict=True))
    return {name: sum(values.get(key, 0) for key in keys) for name, keys in _COUNTERS.items()}


def parse_memory(status: str) -> float:
    """Resident MiB in /proc/PID/status."""
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS")), 0.0)


def read(pid: int | None) -> Counters:
    """The counters now: the machine's, those of the process, TCP's of the namespace that this thread is in."""
    # Not /proc/net: that is the namespace of the process, and a thread may have left it.
    net = Path("/proc/thread-self/net")
    tcp = parse_counters((net / "snmp").read_text(), (net / "netstat").read_text())
    user = system = 0.0
    if pid is not None:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            user, system = parse_process(Path(f"/proc/{pid}/stat").read_text())
    return Counters(time.monotonic(), parse_processor(Path("/proc/stat").read_text()), user, system, tcp)


def memory(pid: int) -> float:
    """Resident MiB of the process; 0.0 when it is gone."""
    try:
        return parse_memory(Path(f"/proc/{pid}/status").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return 0.0


def busy() -> float:
    """The share of all processors' time (0..1) that was used, or taken by the hypervisor, in the last moment."""

    def sample() -> Processor:
        return parse_processor(Path("/proc/stat").read_text())

    before = sample()
    time.sleep(_IDLE_WINDOW)
    after = sample()
    used = after.busy + after.steal - before.busy - before.steal
    total = used + after.idle - before.idle
    return min(1.0, max(0.0, used / total)) if total > 0 else 0.0


def wait_idle(busy: Callable[[], float], patience: float) -> float:
    """Wait until no more than BUSY is in use, for `patience` seconds at most; the share in use then."""
    end = time.monotonic() + patience
    while (share := busy()) > BUSY and time.monotonic() < end:
        pass  # busy() takes its time
    return share
