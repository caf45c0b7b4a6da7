"""The charts as PNG files, for places that take no HTML."""

from __future__ import annotations

import subprocess
from pathlib import Path

from overlayd.bench.errors import BenchError
from overlayd.bench.report.charts import charts
from overlayd.bench.report.svg import standalone
from overlayd.bench.result import Result
from overlayd.lab.namespace import need_tools

_PIXELS = 960


def write_pngs(result: Result, directory: Path) -> list[Path]:
    """One file for each chart, by day; needs rsvg-convert (Debian: librsvg2-bin). Raises BenchError or LabError."""
    need_tools("rsvg-convert")
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for frames in result.plan.frames:
        for chart in charts(result, frames):
            path = directory / f"{chart.key}-{frames}.png"
            argv = ["rsvg-convert", "--width", str(_PIXELS), "--output", str(path)]
            done = subprocess.run(argv, input=standalone(chart.svg), text=True, capture_output=True)
            if done.returncode:
                raise BenchError(f"rsvg-convert: {path}: {done.stderr.strip()[-300:]}")
            written.append(path)
    return written
