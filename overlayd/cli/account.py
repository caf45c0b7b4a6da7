"""What `overlayctl adopt` and `leave` find and do: line by line as it is known, or as one JSON object at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from overlayd.cli.arguments import print_json, report
from overlayd.system.errors import HostError
from overlayd.system.processes import DaemonProcess
from overlayd.system.units import Handover


class Account:
    """Of one run of a command."""

    def __init__(self, *, json: bool, dry_run: bool) -> None:
        self.dry_run = dry_run
        self._json = json
        self._found: dict[str, Any] = {"dry_run": dry_run}

    def say(self, key: str, text: str) -> None:
        """One fact."""
        self._found[key] = text
        self._print(key, text)

    def process(self, name: str, found: DaemonProcess | None) -> None:
        """A daemon that runs, or does not."""
        self._found[name] = {"pid": found.pid, "unit": found.unit} if found is not None else None
        self._print(name, found.whereabouts if found is not None else "is not running")

    def add(self, key: str, text: str, state: str | None = None) -> None:
        """One of several facts."""
        self._found.setdefault(key, []).append(text if state is None else {"name": text, "state": state})
        self._print(key, text if state is None else f"{text}: {state}")

    def steps(self, key: str, steps: Sequence[object]) -> None:
        """What is done in order."""
        self._found[key] = [str(step) for step in steps]
        self._print(key, "" if steps else "nothing to do")
        if not self._json:
            for step in steps:
                print(f"  {step}")

    def end(self, failures: Sequence[str] = (), handover: Handover | None = None, step: str | None = None) -> int:
        """Start the other daemon, unless something has failed, or name the `step` that is left; the exit status."""
        failed = list(failures)
        if not failed and not self.dry_run and handover is not None:
            try:
                handover.finish()
            except HostError as error:
                failed.append(str(error))
        left = step if not (failed or self.dry_run or (handover is not None and handover.successor)) else None
        for text in failed:
            report("overlayctl", text)
        if self._json:
            print_json({**self._found, "next": left, "failures": failed})
        elif self.dry_run:
            print("nothing was changed")
        elif left is not None:
            print(f"next: {left}")
        return 1 if failed else 0

    def _print(self, key: str, text: str) -> None:
        if not self._json:
            print(f"{key:9} {text}".rstrip())
