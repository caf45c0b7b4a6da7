"""perf's figures: how often a daemon wakes up and calls the kernel, and where the processors' time goes.

Needs perf (Debian: linux-perf), tracefs and the right to use them; without, those figures are left out and the result
says why. Samples come from a timer (cpu-clock): what runs with interrupts off is seen where they come on again.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from overlayd.bench.errors import BenchError
from overlayd.bench.stacks import Node, fold

_SYSCALLS = "raw_syscalls:sys_enter"
_WAITS = ("syscalls:sys_enter_epoll_wait", "syscalls:sys_enter_epoll_pwait")
_HERTZ = 997  # no multiple of anything that happens every millisecond
_HEAD = re.compile(r"^\s*(?P<command>.*\S)\s+(?P<pid>\d+)\s*$")
_FRAME = re.compile(r"^\s*[0-9a-f]+\s+(?P<symbol>.+) \((?P<object>.*)\)$")

DAEMON, LOAD = "daemon, user space", "load programs, user space"
OTHER = "kernel, other"
KINDS: tuple[tuple[str, str], ...] = (
    ("copying", r"copy|memcpy|memmove|memset|clear_page|rep_movs"),
    ("checksums", r"csum|checksum"),
    ("TUN", r"tun_|tap_"),
    ("VXLAN", r"vxlan|gro_cell|udp_tunnel"),
    ("segmenting and coalescing", r"gso|gro_|_gro|skb_segment|segment"),
    ("firewall hooks", r"nf_|nft_|conntrack"),
    ("bridge and veth", r"br_|veth|__dev_forward|macvlan|ipvlan"),
    ("TCP", r"tcp"),
    ("UDP", r"udp"),
    ("IP and routes", r"^ip|_ip_|^__ip|fib_|neigh|arp_|rt6|dst_|inet"),
    ("waking and switching", r"sched|wake|switch|ep_|epoll|poll|select|futex|ttwu|dequeue_|enqueue_|update_curr|idle"),
    ("sockets", r"sock|__sys_|sys_send|sys_recv|sendm|recvm|msghdr|datagram|readv|writev|vfs_|iov"),
    ("packet buffers and memory", r"skb|alloc|free|kmem|slab|page|folio"),
    ("softirqs and devices", r"softirq|net_rx|napi|netif|dev_|backlog|qdisc|irq_|irqentry|xmit"),
    ("locks", r"spin|lock|mutex|rcu"),
    ("system call entry", r"syscall|entry_|exit_to_user|fentry|fexit"),
)
"""Kinds of kernel work and the symbols that are of the kind, the first match counting; what is left is OTHER."""


@cache
def unusable() -> str:
    """Why perf cannot be used here, with the remedy; empty when it can."""
    if shutil.which("perf") is None:
        return "perf not found: apt install linux-perf"
    try:
        stat([1], 0.01)
    except BenchError as error:
        return str(error)
    return ""


def stat(pids: Iterable[int], seconds: float) -> tuple[float, float]:
    """System calls and waits (epoll) of these processes, both a second. Raises BenchError."""
    events = ",".join((_SYSCALLS, *_WAITS))
    chosen = ",".join(map(str, pids))
    argv = ["perf", "stat", "-x", ",", "-e", events, "-p", chosen, "--", "sleep", f"{seconds:g}"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + 30)
    if done.returncode:
        raise BenchError(f"perf stat: {done.stderr.strip()[-200:]}")
    counts = parse_stat(done.stderr)
    return counts.get(_SYSCALLS, 0) / seconds, sum(counts.get(event, 0) for event in _WAITS) / seconds


def parse_stat(text: str) -> dict[str, int]:
    """Counts by event of `perf stat -x,`; events that were not counted are 0. Raises BenchError without any event."""
    counts: dict[str, int] = {}
    for line in text.splitlines():
        fields = line.split(",")
        if len(fields) > 3 and ":" in fields[2]:
            counts[fields[2]] = int(fields[0]) if fields[0].isdigit() else 0
    if not counts:
        raise BenchError(f"perf stat: no counts in its output: {text.strip()[-200:]!r}")
    return counts


@dataclass(frozen=True, slots=True)
class Sample:
    """What one processor did at one moment."""

    command: str
    pid: int
    frames: tuple[tuple[str, str], ...]
    """Symbol and object of each function, the innermost first."""

    @property
    def idle(self) -> bool:
        """Whether the processor had nothing to do."""
        symbol, where = self.frames[0]
        return self.command == "swapper" and is_kernel(where) and bool(re.search(r"halt|idle|mwait", symbol))


def profile(daemons: Collection[int], seconds: float) -> tuple[dict[str, float], Node]:
    """Where all processors' time goes in that time: seconds by kind, and the folded stacks. Raises BenchError."""
    with tempfile.TemporaryDirectory() as directory:
        data = str(Path(directory, "perf.data"))
        record = ["perf", "record", "-q", "-a", "-g", "-e", "cpu-clock", "-F", str(_HERTZ), "-o", data]
        script = ["perf", "script", "-i", data, "-F", "comm,pid,ip,sym,dso"]
        for argv in ([*record, "--", "sleep", f"{seconds:g}"], script):
            done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + 60)
            if done.returncode:
                raise BenchError(f"{' '.join(argv[:2])}: {done.stderr.strip()[-200:]}")
    samples = parse_script(done.stdout)
    kinds = {kind: round(count / _HERTZ, 4) for kind, count in classify(samples, daemons).most_common()}
    return kinds, fold(stack_of(one, daemons) for one in samples if not one.idle)


def parse_script(text: str) -> list[Sample]:
    """The samples in `perf script -F comm,pid,ip,sym,dso`: each a line, then its frames; other lines are skipped."""
    found: list[tuple[str, int, list[tuple[str, str]]]] = []
    for line in text.splitlines():
        if frame := _FRAME.match(line):
            if found:
                found[-1][2].append((frame["symbol"], frame["object"]))
        elif head := _HEAD.match(line):
            found.append((head["command"], int(head["pid"]), []))
    return [Sample(command, pid, tuple(frames)) for command, pid, frames in found if frames]


def is_kernel(where: str) -> bool:
    """Whether that object is the kernel or a module of it."""
    return where in ("[kernel.kallsyms]", "[kernel]", "[vdso]") or where.endswith(".ko")


def classify(samples: Iterable[Sample], daemons: Collection[int]) -> Counter[str]:
    """Samples by the kind of their innermost function; those of idle processors are left out."""
    counts: Counter[str] = Counter()
    for sample in samples:
        symbol, where = sample.frames[0]
        if not is_kernel(where):
            counts[DAEMON if sample.pid in daemons else LOAD] += 1
        elif not sample.idle:
            counts[next((kind for kind, pattern in KINDS if re.search(pattern, symbol)), OTHER)] += 1
    return counts


def stack_of(sample: Sample, daemons: Collection[int]) -> list[str]:
    """The stack from its program to the innermost function; user space, which has no frame pointers, is one frame."""
    name = "daemon" if sample.pid in daemons else sample.command.partition("/")[0]  # ksoftirqd/0
    user = ["user space"] if not all(is_kernel(where) for _, where in sample.frames) else []
    return [name, *user, *(symbol for symbol, where in reversed(sample.frames) if is_kernel(where))]
