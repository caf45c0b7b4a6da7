"""One member of a real etcd: a process that can be killed, paused, and started again on the same data."""

from __future__ import annotations

import http.client
import json
import signal as signals
import ssl
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from overlayd.core.address import Address
from overlayd.lab.etcdctl import Tls
from overlayd.lab.namespace import Namespace, T, within
from overlayd.lab.spec import LabError
from overlayd.lab.state import STOP_TIMEOUT, Process, end

READY_TIMEOUT = 30.0
CLIENT_PORT = 2379
PEER_PORT = 2380

_POLL = 0.02


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a member is reached."""

    address: Address
    client_port: int = CLIENT_PORT
    peer_port: int = PEER_PORT

    def url(self, scheme: str, port: int) -> str:
        """The URL of one of its ports."""
        host = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return f"{scheme}://{host}:{port}"


class Member:
    """One etcd process, which can be killed, paused, and started again on the same data."""

    def __init__(
        self,
        name: str,
        endpoint: Endpoint,
        namespace: Namespace | None,
        log_path: Path,
        command: Callable[[Member], list[str]],
        *,
        survives: bool,
        started: Callable[[], None],
    ) -> None:
        """`command` is what runs it. One that does not survive ends with the thread that starts it. `started` is called
        after each start."""
        self.name = name
        self.endpoint = endpoint
        self.namespace = namespace
        """Where it runs; None for this process's own."""
        self.process: Process | None = None
        self.log_path = log_path
        self.tls: Tls | None = None
        """What its clients show and ask for; None where it speaks plain HTTP."""
        self._command, self._survives, self._started = command, survives, started
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """What clients connect to."""
        return self.endpoint.url(self._scheme, self.endpoint.client_port)

    @property
    def peer_url(self) -> str:
        """What other members connect to."""
        return self.endpoint.url(self._scheme, self.endpoint.peer_port)

    @property
    def _scheme(self) -> str:
        return "http" if self.tls is None else "https"

    @property
    def pid(self) -> int | None:
        """Its pid while it runs."""
        return self.process.pid if self.process is not None and self.process.alive else None

    def start(self, wait: bool = True) -> None:
        """Start it on the data it has, if it has any, and wait until it is ready. Raises LabError with its log."""
        if self.pid is not None:
            raise LabError(f"{self.name}: etcd is already running (pid {self.pid}); stop it first")
        argv = self._command(self)
        if not self._survives:
            argv = ["setpriv", "--pdeathsig", "KILL", *argv]  # no etcd outlives the tests that started it
        if self.namespace is not None:
            argv = self.namespace.enter(*argv)
        with self.log_path.open("ab") as log:
            self._child = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=self._survives
            )
        self.process = Process.of(self._child.pid)
        self._started()
        if wait:
            self.wait_ready()

    def stop(self) -> None:
        """End it in good order, paused or not; its data stay."""
        if self.process is not None:
            self.process.signal(signals.SIGCONT)
            end([self.process])
        self.settle()

    def kill(self) -> None:
        """End it at once; its data stay."""
        if self.process is not None:
            self.process.signal(signals.SIGKILL)
            end([self.process])
        self.settle()

    def pause(self) -> None:
        """SIGSTOP: connections stay open, and nothing answers any more when this returns."""
        assert self.process is not None
        self.process.signal(signals.SIGSTOP)
        tasks, deadline = Path(f"/proc/{self.process.pid}/task"), time.monotonic() + STOP_TIMEOUT
        while time.monotonic() < deadline and any(" T " not in (one / "stat").read_text() for one in tasks.iterdir()):
            time.sleep(0.001)  # a signal that was sent is not yet obeyed

    def resume(self) -> None:
        """SIGCONT."""
        assert self.process is not None
        self.process.signal(signals.SIGCONT)

    def settle(self) -> None:
        """Collect the process, which has ended or been killed."""
        if self._child is not None:
            self._child.wait(STOP_TIMEOUT)
            self._child = None
        self.process = None

    def health(self) -> bool:
        """Whether GET /health answers that it serves, which requires a leader."""

        def ask() -> bool:
            connection = self._connection()
            try:
                connection.request("GET", "/health")
                return bool(json.loads(connection.getresponse().read())["health"] == "true")
            except (OSError, ValueError, KeyError, http.client.HTTPException):
                return False
            finally:
                connection.close()

        return self.inside(ask)

    def wait_ready(self, timeout: float = READY_TIMEOUT) -> None:
        """Wait until it serves. Raises LabError with the end of its log."""
        deadline = time.monotonic() + timeout
        while not self.health():
            ended = self.pid is None
            if ended or time.monotonic() > deadline:
                how = "ended" if ended else f"does not serve after {timeout:g} s"
                lines = self.log_path.read_text(errors="replace").splitlines()[-6:]
                raise LabError("\n  ".join([f"{self.name}: etcd {how}: {self.log_path}", *lines]))
            time.sleep(_POLL)

    def inside(self, action: Callable[[], T]) -> T:
        """The result of `action` in the member's namespace."""
        return action() if self.namespace is None else within(self.namespace.namespace, action)

    def _connection(self) -> http.client.HTTPConnection:
        address, port = str(self.endpoint.address), self.endpoint.client_port
        if self.tls is None:
            return http.client.HTTPConnection(address, port, timeout=2)
        context = ssl.create_default_context(cafile=str(self.tls.authority.cafile))
        context.load_cert_chain(self.tls.client.cert, self.tls.client.key)
        return http.client.HTTPSConnection(address, port, timeout=2, context=context)
