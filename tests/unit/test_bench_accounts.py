"""The kernel's accounts and perf's words, on recorded outputs; and the statistics."""

from __future__ import annotations

import json
import os
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlayd.bench import counters, perf, stacks, stats
from overlayd.bench.counters import Counters
from overlayd.bench.errors import BenchError
from overlayd.bench.perf import Sample
from overlayd.bench.stats import Spread

# Linux 6.18
STAT = """\
cpu  1165458 12 435357 2973003 4132 7 173002 985 0 0
cpu0 582729 6 217678 1486501 2066 3 86501 492 0 0
intr 1 2 3
"""
PROCESS = "26018 (py) thon (x) S 1 26018 26018 0 -1 4194560 13 0 1 0 81 632 3 4 20 0 9 0 5561874 1 2 3 4 5"
"""utime 81, stime 632 ticks."""
SNMP = """\
Ip: Forwarding DefaultTTL InReceives
Ip: 1 64 13000
Tcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens InSegs OutSegs RetransSegs
Tcp: 1 200 120000 -1 12 13 4000 4100 44
"""
NETSTAT = """\
TcpExt: SyncookiesSent TCPSACKReorder TCPRenoReorder TCPTSReorder TCPDSACKRecv TCPOFOQueue TCPDSACKOldSent
TcpExt: 0 5 1 2 43 1281 99
IpExt: InNoRoutes TCPDSACKRecv
IpExt: 0 7000
"""


def test_processor_time_is_in_seconds() -> None:
    ticks = counters.TICKS
    seen = counters.parse_processor(STAT)
    assert (seen.user, seen.system, seen.idle) == (1165470 / ticks, 435357 / ticks, 2977135 / ticks)
    assert (seen.irq, seen.softirq, seen.steal) == (7 / ticks, 173002 / ticks, 985 / ticks)
    assert seen.busy == pytest.approx((1165470 + 435357 + 7 + 173002) / ticks)


def test_a_commands_name_does_not_move_the_fields() -> None:
    assert counters.parse_process(PROCESS) == (81 / counters.TICKS, 632 / counters.TICKS)


def test_tcps_counters_are_its_own_and_summed() -> None:
    assert counters.parse_counters(SNMP, NETSTAT) == {
        "retransmits": 44, "reordering": 8, "dsack": 43, "out_of_order": 1281,
    }  # fmt: skip
    assert counters.parse_counters("", "") == {"retransmits": 0, "reordering": 0, "dsack": 0, "out_of_order": 0}


def test_memory_is_in_mib() -> None:
    assert counters.parse_memory("Name:\tpython\nVmHWM:\t   90000 kB\nVmRSS:\t   68608 kB\n") == 67.0
    assert counters.parse_memory("Name:\tkthreadd\n") == 0.0
    assert counters.memory(os.getpid()) > 1
    assert counters.memory(2**22 + 1) == 0.0


def test_a_look_at_this_process_survives_json() -> None:
    seen = counters.read(os.getpid())
    assert seen.daemon_user + seen.daemon_system > 0
    assert Counters.read(json.loads(json.dumps(seen.mapping()))) == seen
    assert counters.read(None).daemon_user == 0
    for nonsense in ({}, {**seen.mapping(), "more": 1}, {**seen.mapping(), "processor": {}}):
        with pytest.raises((TypeError, KeyError)):
            Counters.read(nonsense)


# --- perf -------------------------------------------------------------------------------------------------------------

# perf 6.1 stat -x,
PERF_STAT = """\
2516,,raw_syscalls:sys_enter,40012345,100.00,,
<not counted>,,syscalls:sys_enter_epoll_wait,0,100.00,,
268,,syscalls:sys_enter_epoll_pwait,40012345,100.00,,
"""
PERF_STAT_DENIED = "Error:\nAccess to performance monitoring and observability operations is limited.\n"
# perf 6.1 record -g; script -F comm,pid,ip,sym,dso
PERF_SCRIPT = """\
swapper     0
    ffffffff821f5a0b pv_native_safe_halt ([kernel.kallsyms])

swapper     0
    ffffffff81e40804 skb_release_data ([kernel.kallsyms])

python 14003
        7f6da9594d9c dict_traverse (/usr/lib/libpython3.11.so.1.0)

iperf3 14091
    ffffffff81b98907 _copy_to_iter ([kernel.kallsyms])

iperf3 14091
        7f6da9594d9c Nwrite (/usr/lib/x86_64-linux-gnu/libiperf.so.0)

Web Content 77 14088
    ffffffff81ffa7e8 tun_get_user ([kernel.kallsyms])

python 14003
    ffffffff821f39e5 tcp_v4_rcv ([kernel.kallsyms])

python 14003
    ffffffff821f39e5 something_new ([kernel.kallsyms])
    ffffffff821ed511 do_syscall_64 ([kernel.kallsyms])
              2bbea3 gc_collect_main (/usr/lib/libpython3.11.so.1.0)
                   2 [unknown] ([unknown])

nebula 14003
              48a5c0 [unknown] (/usr/bin/nebula)

# a remark
"""


def test_perfs_counts() -> None:
    assert perf.parse_stat(PERF_STAT) == {
        "raw_syscalls:sys_enter": 2516,
        "syscalls:sys_enter_epoll_wait": 0,
        "syscalls:sys_enter_epoll_pwait": 268,
    }


@pytest.mark.parametrize("text", ["", PERF_STAT_DENIED])
def test_perf_without_counts_is_told_with_its_words(text: str) -> None:
    with pytest.raises(BenchError, match="perf stat: no counts in its output"):
        perf.parse_stat(text)


def test_samples_are_sorted_by_who_and_what() -> None:
    samples = perf.parse_script(PERF_SCRIPT)
    assert len(samples) == 9
    assert samples[5] == Sample("Web Content 77", 14088, (("tun_get_user", "[kernel.kallsyms]"),))
    assert perf.stack_of(samples[7], {14003}) == ["daemon", "user space", "do_syscall_64", "something_new"]
    assert perf.stack_of(samples[3], {14003}) == ["iperf3", "_copy_to_iter"]
    assert perf.classify(samples, {14003}) == Counter(
        {
            perf.DAEMON: 2,
            perf.LOAD: 1,
            "copying": 1,
            "TUN": 1,
            "TCP": 1,
            "packet buffers and memory": 1,
            perf.OTHER: 1,
        }
    )


@pytest.mark.parametrize(
    ("symbol", "kind"),
    [
        ("csum_partial_copy_generic", "copying"), ("do_csum", "checksums"), ("vxlan_xmit", "VXLAN"),
        ("skb_segment", "segmenting and coalescing"), ("dev_gro_receive", "segmenting and coalescing"),
        ("nft_do_chain", "firewall hooks"), ("br_handle_frame", "bridge and veth"), ("udp_queue_rcv_skb", "UDP"),
        ("fib_table_lookup", "IP and routes"), ("try_to_wake_up", "waking and switching"),
        ("kmem_cache_alloc", "packet buffers and memory"), ("handle_softirqs", "softirqs and devices"),
        ("_raw_spin_unlock_irqrestore", "locks"), ("do_syscall_64", "system call entry"),
    ],
)  # fmt: skip
def test_kinds_of_kernel_work(symbol: str, kind: str) -> None:
    assert list(perf.classify([Sample("x", 1, ((symbol, "[kernel.kallsyms]"),))], ())) == [kind]


def test_stacks_are_folded_into_a_tree_without_what_is_too_small() -> None:
    tree = stacks.fold([["a", "b"]] * 300 + [["a", "c"]] * 99 + [["d"]])
    (a,) = tree["children"]
    assert (tree["samples"], a["name"], a["samples"]) == (400, "a", 399)
    assert [(one["name"], one["samples"]) for one in a["children"]] == [("b", 300), ("c", 99)]
    both = stacks.merge([tree, stacks.fold([["a", "c"]] * 300)])
    assert [(one["name"], one["samples"]) for one in both["children"][0]["children"]] == [("c", 399), ("b", 300)]


# --- statistics -------------------------------------------------------------------------------------------------------


def test_a_spread_is_median_least_and_most() -> None:
    assert Spread.of([3, 1, 2]) == Spread(2, 1, 3, 3)
    assert Spread.of([4, 1]) == Spread(2.5, 1, 4, 2)


def test_ratios_are_of_the_same_round() -> None:
    assert stats.ratios([2, 4, None, 8, 1], [1, 8, 3, None, 0]) == [2, 0.5]
    assert stats.ratios([1.0], []) == []


def test_worse_is_beyond_every_round() -> None:
    before = Spread.of([10, 11, 12])
    assert stats.worse(Spread.of([8, 9.9]), before)
    assert not stats.worse(Spread.of([8, 10]), before)
    assert stats.worse(Spread.of([12.1, 20]), before, more_is_better=False)
    assert not stats.worse(Spread.of([1, 2]), before, more_is_better=False)


@given(st.lists(st.floats(0.1, 1e9), min_size=1, max_size=20))
def test_nothing_is_worse_than_itself(values: list[float]) -> None:
    seen = Spread.of(values)
    assert seen.low <= seen.median <= seen.high
    assert not stats.worse(seen, seen)
    assert not stats.worse(seen, seen, more_is_better=False)
