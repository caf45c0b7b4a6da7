"""A continuous ping of which no request may be lost."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from overlayd.core.address import Address
from overlayd.lab import Namespace
from support.waiting import eventually


class Pings:
    """Echo requests fifty times a second."""

    def __init__(self, node: Namespace, address: Address | str) -> None:
        self._output = tempfile.NamedTemporaryFile("w+")  # noqa: SIM115  # closed in lost()
        argv = ["ping", "-n", "-i", "0.02", str(address)]
        self._process = node.popen(*argv, stdout=self._output, stderr=subprocess.STDOUT)
        self.expect_more()

    def answered(self) -> list[int]:
        """The sequence numbers answered so far."""
        text = Path(self._output.name).read_text()
        return [int(number) for number in re.findall(r"bytes from .*icmp_seq=(\d+)", text)]

    def expect_more(self) -> None:
        """Wait for five more answers."""
        enough = len(self.answered()) + 5
        eventually(lambda: len(self.answered()) >= enough, "five more answers to the continuous ping")

    def lost(self) -> list[int]:
        """End it, with a few more answers so that nothing is in flight; the requests that were never answered."""
        self.expect_more()
        self.end()
        answered = self.answered()
        self._output.close()
        return sorted(set(range(1, max(answered) + 1)) - set(answered))

    def end(self) -> None:
        """End it. Safe to call twice."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(10)


@contextlib.contextmanager
def pinging(node: Namespace, address: Address | str) -> Iterator[None]:
    """No echo request may be lost while the block runs."""
    pings = Pings(node, address)
    try:
        yield
        lost = pings.lost()
    finally:
        pings.end()
    assert lost == [], f"{len(lost)} echo requests were not answered"
