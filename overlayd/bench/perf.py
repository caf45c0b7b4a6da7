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
from functools import cache
from pathlib import Path

from overlayd.bench.errors import BenchError

_SYSCALLS = "raw_syscalls:sys_enter"
_WAITS = ("syscalls:sys_enter_epoll_wait", "syscalls:sys_enter_epoll_pwait")
_HERTZ = 997  # no multiple of anything that happens every millisecond
_SAMPLE = re.compile(r"^\s*(?P<command>.*\S)\s+(?P<pid>\d+)\s+[0-9a-f]+\s+(?P<symbol>.+) \((?P<object>.*)\)$")

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


def profile(daemons: Collection[int], seconds: float) -> dict[str, float]:
    """Where all processors' time goes while that lasts: seconds by kind. Raises BenchError."""
    with tempfile.TemporaryDirectory() as directory:
        data = str(Path(directory, "perf.data"))
        record = ["perf", "record", "-q", "-a", "-e", "cpu-clock", "-F", str(_HERTZ), "-o", data]
        script = ["perf", "script", "-i", data, "-F", "comm,pid,ip,sym,dso"]
        for argv in ([*record, "--", "sleep", f"{seconds:g}"], script):
            done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + 60)
            if done.returncode:
                raise BenchError(f"{' '.join(argv[:2])}: {done.stderr.strip()[-200:]}")
    counts = classify(parse_script(done.stdout), daemons)
    return {kind: round(count / _HERTZ, 4) for kind, count in counts.most_common()}


def parse_script(text: str) -> list[tuple[str, int, str, str]]:
    """Command, pid, symbol, object of every sample in `perf script -F comm,pid,ip,sym,dso`; other lines are skipped."""
    found = (_SAMPLE.match(line) for line in text.splitlines())
    return [(one["command"], int(one["pid"]), one["symbol"], one["object"]) for one in found if one]


def classify(samples: Iterable[tuple[str, int, str, str]], daemons: Collection[int]) -> Counter[str]:
    """Samples by kind; those of idle processors are left out."""
    counts: Counter[str] = Counter()
    for command, pid, symbol, where in samples:
        kernel = where in ("[kernel.kallsyms]", "[kernel]", "[vdso]") or where.endswith(".ko")
        if not kernel:
            counts[DAEMON if pid in daemons else LOAD] += 1
        elif not (command == "swapper" and re.search(r"halt|idle|mwait", symbol)):
            counts[next((kind for kind, pattern in KINDS if re.search(pattern, symbol)), OTHER)] += 1
    return counts
