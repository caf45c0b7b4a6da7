"""Two machines: `overlayctl bench serve` on one, and the endpoint that represents it on the other.

They speak over one TCP connection, a JSON object on each line, a question and its answer:

    {"do": "hello"}                        {"format": ..., "machine": {...}}
    {"do": "start", "tool": "udp",         {}; the tool's server listens there
     "congestion": "cubic", "address": "10.1.2.1"}
    {"do": "stop"}                         {}; and no longer
    {"do": "counters"}, {"do": "busy"}     counters; {"busy": 0.02}

An answer with "error" gives the reason. The server runs only the tools of endpoint.py, for one session at a time, and
only while `bench serve` runs; whoever reaches its port can have it receive load. A session that is silent for IDLE
seconds is ended.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from overlayd.bench.counters import Counters
from overlayd.bench.endpoint import Daemon, Local, ThisHost
from overlayd.bench.environment import this_machine
from overlayd.bench.errors import BenchError
from overlayd.bench.result import Machine
from overlayd.lab import LabError
from overlayd.system.control_client import ControlError, ask

PORT = 5209
FORMAT = "overlayd-bench-peer/2"
IDLE = 300.0
_LINE = 4096  # bytes; no question is longer
_TIMEOUT = 20.0  # seconds for an answer


def daemon_here(path: Path) -> Daemon | None:
    """The overlayd of this machine, if one answers at that control socket."""
    try:
        return Daemon(int(ask(path, "/v1/status")["pid"]), path)
    except ControlError:
        return None


# --- the server -------------------------------------------------------------------------------------------------------


def listen(address: str = "", port: int = PORT) -> socket.socket:
    """A listening socket at the address; without one for both families, or IPv4 alone where there is no IPv6."""
    dual = not address and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual or ":" in address else socket.AF_INET
    return socket.create_server((address, port), family=family, dualstack_ipv6=dual)


def serve(listener: socket.socket, stop: socket.socket, socket_path: Path, log: Callable[[str], None]) -> None:
    """Answer one session after the other until `stop` is readable, or an exception comes; then none is left."""
    session, whose, current = threading.Thread(), "", listener
    try:
        while stop not in select.select([listener, stop], [], [])[0]:
            connection, peer = listener.accept()
            address = peer[0].removeprefix("::ffff:")  # IPv4 as a socket for both families has it
            if session.is_alive():
                log(f"{address}: refused, {whose} is measuring")
                with contextlib.suppress(OSError), connection:
                    connection.sendall(_line({"error": f"{whose} is measuring; try again when it has finished"}))
                continue
            whose, current = address, connection
            session = threading.Thread(target=_session, args=(connection, whose, socket_path, log), daemon=True)
            session.start()
    finally:
        if session.is_alive():
            with contextlib.suppress(OSError):
                current.shutdown(socket.SHUT_RDWR)
            session.join()  # it ends its tool


def _session(connection: socket.socket, whose: str, socket_path: Path, log: Callable[[str], None]) -> None:
    log(f"{whose}: measuring")
    connection.settimeout(IDLE)
    endpoint = Local(ThisHost(), daemon_here(socket_path))
    ended = "ended"
    with connection, connection.makefile("rb") as lines, contextlib.ExitStack() as running:
        try:
            while line := lines.readline(_LINE):
                connection.sendall(_line(_answer(endpoint, running, line)))
        except OSError as error:
            ended = f"ended: {error}"
    log(f"{whose}: {ended}")


def _answer(endpoint: Local, running: contextlib.ExitStack, line: bytes) -> dict[str, Any]:
    """The answer to one question; no content of it raises."""
    try:
        question = json.loads(line)
        verb = question["do"]
        if verb == "hello":
            return {"format": FORMAT, "machine": this_machine().model_dump()}
        if verb == "counters":
            return endpoint.counters().mapping()
        if verb == "busy":
            return {"busy": endpoint.busy()}
        running.close()  # one tool at a time
        if verb == "start":
            tool, congestion, address = (str(question[key]) for key in ("tool", "congestion", "address"))
            running.enter_context(endpoint.serving(tool, congestion, address))
            return {}
        return {} if verb == "stop" else {"error": f"do: {verb!r} is not one of hello, counters, busy, start, stop"}
    except (BenchError, LabError) as error:
        return {"error": str(error)}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return {"error": f"not a valid question: {error!r}"}


def _line(answer: dict[str, Any]) -> bytes:
    return json.dumps(answer).encode() + b"\n"


# --- the client -------------------------------------------------------------------------------------------------------


class Session:
    """A connection to a machine that serves. Ends with the block. Every method raises BenchError."""

    def __init__(self, address: str, port: int = PORT) -> None:
        self.address = address
        try:
            self._connection = socket.create_connection((address, port), timeout=_TIMEOUT)
        except OSError as error:
            raise BenchError(
                f"{address}: {error}; run `overlayctl bench serve` there, and allow TCP port {port}"
            ) from None
        self._lines = self._connection.makefile("rb")
        hello = self.ask(do="hello")
        try:
            if hello["format"] != FORMAT:
                raise BenchError(
                    f"{address}: speaks {hello['format']!r}, not {FORMAT}; install the same version of overlayd on both"
                )
            self.machine = Machine(**hello["machine"])
        except (KeyError, TypeError, ValidationError):
            raise BenchError(f"{address}: port {port} is not overlayctl bench serve's: {hello}") from None

    def ask(self, **question: str) -> dict[str, Any]:
        """The answer to a question."""
        try:
            self._connection.sendall(_line(dict(question)))
            answer = json.loads(self._lines.readline())
        except (OSError, ValueError) as error:
            raise BenchError(f"{self.address}: bench serve does not answer: {error}") from None
        if not isinstance(answer, dict):
            raise BenchError(f"{self.address}: bench serve answers {answer!r}")
        if "error" in answer:
            raise BenchError(f"{self.address}: {answer['error']}")
        return answer

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._connection.close()


class Remote:
    """An endpoint on the other machine, at one of its addresses."""

    def __init__(self, session: Session, address: str) -> None:
        self.name = address
        self._session = session

    @contextlib.contextmanager
    def serving(self, tool: str, congestion: str = "") -> Iterator[None]:
        """Raises BenchError with the other side's error when the server does not come up."""
        self._session.ask(do="start", tool=tool, congestion=congestion, address=self.name)
        try:
            yield
        finally:
            self._session.ask(do="stop")

    def counters(self) -> Counters:
        try:
            return Counters.read(self._session.ask(do="counters"))
        except (TypeError, KeyError) as error:
            raise BenchError(f"{self.name}: sent invalid counters: {error!r}") from None

    def busy(self) -> float:
        try:
            return float(self._session.ask(do="busy")["busy"])
        except (TypeError, KeyError, ValueError) as error:
            raise BenchError(f"{self.name}: sent an invalid load: {error!r}") from None
