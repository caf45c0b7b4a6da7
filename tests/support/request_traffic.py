"""Traffic that must live through what is done to the machines, and how long it stood still."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from overlayd.lab import Namespace

PATIENCE = 60.0
"""Seconds without an answer after which a connection is taken for dead."""


@dataclass
class Asking:
    """One established TCP connection on which a question is asked every millisecond."""

    answers: int = 0
    pause: float = 0.0
    """The longest time from one answer to the next, in seconds."""
    error: BaseException | None = None
    _turn: threading.Condition = field(default_factory=threading.Condition)

    def more(self) -> None:
        """Return when a question that is asked from now on has been answered."""
        with self._turn:
            wanted = self.answers + 2  # the one that is on its way does not count
            assert self._turn.wait_for(lambda: self.answers >= wanted or self.error is not None, PATIENCE)
        assert self.error is None, self.error


@contextlib.contextmanager
def asking(client: Namespace, server: Namespace, address: str) -> Iterator[Asking]:
    """Ask, for as long as the block lasts; every answer must come, on the one connection."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    asked, stop = Asking(), threading.Event()
    with server.socket(family, socket.SOCK_STREAM) as listener, client.socket(family, socket.SOCK_STREAM) as here:
        listener.bind((address, 0))
        listener.listen()
        here.settimeout(PATIENCE)
        here.connect(listener.getsockname())
        there, _ = listener.accept()
        for end in (here, there):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def answer() -> None:
            with contextlib.suppress(OSError):
                while question := there.recv(1):
                    there.sendall(question)

        def ask() -> None:
            last = time.monotonic()
            try:
                while not stop.is_set():
                    here.sendall(b"?")
                    if here.recv(1) != b"?":
                        raise ConnectionError("the connection ended")
                    now = time.monotonic()
                    with asked._turn:
                        asked.answers += 1
                        asked.pause = max(asked.pause, now - last)
                        asked._turn.notify_all()
                    last = now
                    time.sleep(0.001)
            except OSError as error:
                with asked._turn:
                    asked.error = error
                    asked._turn.notify_all()
            here.close()

        threads = [threading.Thread(target=one) for one in (answer, ask)]
        for thread in threads:
            thread.start()
        try:
            asked.more()
            yield asked
            asked.more()
        finally:
            stop.set()
            for thread in threads:
                thread.join()
            there.close()
