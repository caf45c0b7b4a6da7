"""No burst allocates memory: malloc and its like are counted, in a process of its own, around thousands of bursts."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("overlayd.datapath.native._native", reason="the native engine is not built: needs a C compiler")

HERE = Path(__file__).parent
BURSTS = 1000
APART = ("python", "native that polls")  # one burst of the latter carries what another would have to


def test_a_burst_allocates_nothing(tmp_path: Path) -> None:
    counter = tmp_path / "allocations.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-o", counter, HERE / "allocations.c"], check=True)
    run = subprocess.run(
        [sys.executable, __file__],
        env={
            **os.environ,
            "PYTHONMALLOC": "default",
            "LD_PRELOAD": str(counter),
            "PYTHONPATH": os.pathsep.join((str(HERE.parent), *sys.path)),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    in_bursts, in_others = map(int, run.stdout.split())
    assert in_others >= BURSTS, "coalesce() allocates by design: the counter counts"
    assert in_bursts == 0


def measure() -> None:
    """Print what was allocated in bursts of all kinds of packets, and in as many calls of coalesce()."""
    from support.native import native
    from support.rig import KINDS, Rig, inbound_flow, small, superpacket

    count = ctypes.c_ulong.in_dll(ctypes.CDLL(None), "allocations")
    rigs = [Rig(kind.split()[0], **options) for kind, options in KINDS.items() if kind not in APART]
    one, flow = superpacket(os.urandom(20000)), inbound_flow(5, 500)
    in_bursts = in_others = 0
    for _ in range(BURSTS):
        for rig in rigs:
            engine = rig.engine._native
            if rig.vnet:
                rig.send_tun(one.packet, one.vnet)
            for data in (small(1), small(2, destination="10.1.9.9"), small(3, "10.9.9.9"), b"noise"):
                rig.send_tun(data)  # sent, refused with an answer, refused
            for data in (*flow, small(1, "10.1.2.3", "10.1.1.2"), small(2, "10.9.9.9", "10.1.1.2"), b"noise"):
                rig.peer.sendto(data, rig.local.getsockname())
            before = count.value
            sent = engine.outbound()
            received = engine.inbound(4)
            in_bursts += count.value - before
            assert sent % native.ATTENTION == 4 + rig.vnet
            assert received % native.ATTENTION > 0
            assert len(engine.punted()) == 1
            rig.read_tun()
            rig.read_peer()
        before = count.value
        native.coalesce([])
        in_others += count.value - before
    for rig in rigs:
        rig.close()
    print(in_bursts, in_others)


if __name__ == "__main__":
    measure()
