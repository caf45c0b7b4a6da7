"""The demo as a person runs it, shortened: every mode works and every figure is there."""

from __future__ import annotations

import json
import subprocess
import sys

from overlayd.backend.modes import SETTINGS
from overlayd.lab.host import ROOT
from overlayd.lab.state import names


def test_every_mode_has_every_figure() -> None:
    argv = [sys.executable, "-m", "overlayd.cli.overlayctl", "demo", "--rounds", "1", "--seconds", "1", "--json"]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        out, errors = demo.communicate(timeout=100)
    assert demo.returncode == 0, errors
    result = json.loads(out)
    assert sorted(mode["mode"] for mode in result["modes"]) == sorted(SETTINGS.modes)
    for mode in result["modes"]:
        assert mode["error"] is None
        for figure in ("up_seconds", "ping_ms", "tcp_bits_per_second", "transactions_per_second", "p50_us", "p99_us"):
            assert mode[figure], (mode["mode"], figure)
            assert min(mode[figure]) > 0, (mode["mode"], figure)
    assert not [name for name in names() if name.startswith(f"t{demo.pid}-")], "the demo leaves no lab behind"
