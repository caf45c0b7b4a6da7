"""What `make` does that nothing else runs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_nightly_runs_every_suite_and_fails_with_one() -> None:
    command = ["make", "-C", str(ROOT), "--no-print-directory", "nightly", "NIGHTLY=no-such-suite help"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [["no-such-suite", "FAILED"], ["help", "ok"]]


def test_every_suite_of_nightly_is_a_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    (suites,) = re.findall(r"^NIGHTLY := (.*)", makefile, re.M)
    assert not set(suites.split()) - set(re.findall(r"^([a-z-]+):", makefile, re.M))
