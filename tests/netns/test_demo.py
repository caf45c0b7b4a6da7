"""The demo as a person runs it, shortened: every mode works and every figure is there."""

from __future__ import annotations

import json
import subprocess
import sys

from overlayd.lab.host import ROOT
from overlayd.lab.state import names


def test_every_mode_has_every_figure() -> None:
    before = names()
    argv = [sys.executable, "-m", "overlayd.cli.overlayctl", "demo", "--rounds", "1", "--seconds", "1", "--json"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [mode["mode"] for mode in result["modes"]] == ["host-gw", "vxlan", "udp"]
    for mode in result["modes"]:
        assert mode["error"] is None
        for figure in ("up_seconds", "ping_ms", "tcp_bits_per_second", "transactions_per_second", "p50_us", "p99_us"):
            assert mode[figure], (mode["mode"], figure)
            assert min(mode[figure]) > 0, (mode["mode"], figure)
    assert names() == before, "the demo leaves no lab behind"
