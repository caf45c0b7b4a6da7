"""overlayd's own commands, run on a host of a lab."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from overlayd.lab import Host
from overlayd.lab.host import ROOT
from support.waiting import eventually


def overlayd(
    host: Host, *arguments: str, under: Sequence[str] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the real `overlayd` on the host, with its own configuration file unless the arguments name another. `under`
    is a command that runs it, such as setpriv with fewer privileges."""
    chosen = [] if "--config" in arguments else ["--config", str(host.config_path)]
    variables = [f"{key}={value}" for key, value in {"PYTHONPATH": str(ROOT), **environment}.items()]
    return host.run(*under, "env", *variables, sys.executable, "-m", "overlayd", *chosen, *arguments, check=False)


def overlayctl(host: Host, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the real `overlayctl` on the host, which has wide terminal lines and asks the host's own daemon."""
    variables = [f"PYTHONPATH={ROOT}", f"OVERLAYD_CONTROL_SOCKET={host.socket_path}", "COLUMNS=200"]
    return host.run("env", *variables, sys.executable, "-m", "overlayd.cli.overlayctl", *arguments, check=False)


@contextmanager
def watching_leases(host: Host) -> Iterator[Callable[[], str]]:
    """`overlayctl lease watch` meanwhile; gives a function that returns what it has printed so far."""
    environment = [f"PYTHONPATH={ROOT}", f"OVERLAYD_CONTROL_SOCKET={host.socket_path}"]
    argv = ["env", *environment, sys.executable, "-m", "overlayd.cli.overlayctl", "lease", "watch"]
    with tempfile.TemporaryFile("w+") as output:
        watch = host.popen(*argv, stdout=output, stderr=output)

        def shown() -> str:
            output.seek(0)
            return output.read()

        try:
            yield shown
        finally:
            watch.terminate()
            watch.wait(10)


def one_line(text: str) -> str:
    """The text, which must be one line and no traceback."""
    lines = text.splitlines()
    assert len(lines) == 1, text
    assert "Traceback" not in text
    return lines[0]


def reloaded(host: Host, action: Callable[[], None], *others: Host) -> None:
    """Do what makes the daemon reload (and those of the other hosts), and wait until all have done so well."""
    before = {one: one.status()["reload"]["count"] for one in (host, *others)}
    action()
    for one, count in before.items():
        eventually(
            lambda one=one, count=count: one.status()["reload"]["count"] > count,  # type: ignore[misc]
            f"{one.name} has reloaded; its log ends:\n{one.last_lines()}",
        )
