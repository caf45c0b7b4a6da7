"""The machine that is measured on, for the result file."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

from overlayd import __version__
from overlayd.bench import perf, tools
from overlayd.bench.endpoint import Local, ThisHost
from overlayd.bench.errors import BenchError
from overlayd.bench.result import Environment, Machine


def environment(peer: Machine | None = None) -> Environment:
    """This machine's, now; half a second of load on loopback finds the generator's limit."""
    return Environment(
        machine=this_machine(),
        peer=peer,
        congestion_control=tools.congestion_control(ThisHost()),
        udp_limit=_udp_limit(),
        perf=perf.unusable(),
    )


def _udp_limit() -> float | None:
    here = Local(ThisHost())
    try:
        with here.serving("udp"):
            return round(tools.blast(here, "127.0.0.1", 64, 0.3).received / 1e3, 1)
    except BenchError:  # another benchmark has the port; labs have ports of their own
        return None


def this_machine() -> Machine:
    """Hardware and versions."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    lines = (line.partition(":") for line in cpuinfo.splitlines())
    model = next((value.strip() for key, _, value in lines if key.strip() in ("model name", "Model")), "unknown")
    memory = int(Path("/proc/meminfo").read_text().split()[1]) // 1024
    return Machine(
        kernel=platform.release(),
        architecture=platform.machine(),
        cpu=model,
        cores=os.cpu_count() or 1,
        memory_mib=memory,
        hypervisor="hypervisor" in cpuinfo,
        python=f"{platform.python_implementation()} {platform.python_version()}",
        overlayd=__version__,
        iperf3=_iperf3_version(),
    )


def _iperf3_version() -> str:
    if shutil.which("iperf3") is None:
        return ""
    said = subprocess.run(["iperf3", "--version"], capture_output=True, text=True, check=False).stdout.split()
    return said[1] if len(said) > 1 else ""
