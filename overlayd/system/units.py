"""systemd's units of daemons: which there are, and how one takes another's place."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

from overlayd.system.errors import HostError


def known(unit: str) -> bool:
    """Whether systemd has a unit of that name."""
    return subprocess.run(["systemctl", "cat", unit], capture_output=True, check=False).returncode == 0


def systemctl(*arguments: str) -> None:
    """Raises HostError with what systemctl says."""
    done = subprocess.run(["systemctl", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise HostError(f"systemctl {' '.join(arguments)}: {lines[0] if lines else done.returncode}")


@dataclass(frozen=True)
class Handover:
    """From a unit that runs to another one, now and at each boot."""

    unit: str
    """Stopped first, as `processes.DaemonProcess.stop` does."""
    successor: str | None
    """None where there is no such unit: then nothing is started."""

    @property
    def commands(self) -> list[str]:
        """All of it, as an operator would type it."""
        return [f"systemctl stop {self.unit}", *(" ".join(("systemctl", *words)) for words in self._rest())]

    def finish(self) -> None:
        """What comes after the stop. Raises HostError."""
        for words in self._rest():
            systemctl(*words)

    def _rest(self) -> list[tuple[str, ...]]:
        start = [("enable", "--now", self.successor)] if self.successor is not None else []
        return [("disable", self.unit), *start]
