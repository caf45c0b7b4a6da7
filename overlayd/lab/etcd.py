"""A real etcd for tests, the lab and benchmarks: one member on loopback, or several in namespaces of their own.

    with loopback() as etcd:                    # with hosts(3, registry="etcd") as ...: the lab builds its own
        etcd.put("/key", "value")
        etcd.members[0].kill()
        etcd.members[0].start()                 # on the data it had

Members are Debian's etcd, without fsync: a lab outlives no power cut. `etcdctl` runs in the namespace of the first one.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import signal as signals
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from overlayd.core.address import Address
from overlayd.lab.certificates import Authority, Certificate
from overlayd.lab.etcdctl import PREFIX, USER, Etcdctl, Tls
from overlayd.lab.namespace import Namespace, T, need_tools, within
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

    def __init__(self, name: str, endpoint: Endpoint, cluster: Etcd, namespace: Namespace | None) -> None:
        self.name = name
        self.endpoint = endpoint
        self.namespace = namespace
        """Where it runs; None for this process's own."""
        self.process: Process | None = None
        self.log_path = cluster.directory / f"{name}.log"
        self._cluster = cluster
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """What clients connect to."""
        return self.endpoint.url(self._cluster.scheme, self.endpoint.client_port)

    @property
    def peer_url(self) -> str:
        """What other members connect to."""
        return self.endpoint.url(self._cluster.scheme, self.endpoint.peer_port)

    @property
    def pid(self) -> int | None:
        """Its pid while it runs."""
        return self.process.pid if self.process is not None and self.process.alive else None

    def start(self, wait: bool = True) -> None:
        """Start it on the data it has, if it has any, and wait until it is ready. Raises LabError with its log."""
        if self.pid is not None:
            raise LabError(f"{self.name}: etcd runs already, as pid {self.pid}; stop it first")
        argv = self._argv()
        if not self._cluster.survives:
            argv = ["setpriv", "--pdeathsig", "KILL", *argv]  # no etcd outlives the tests that started it
        if self.namespace is not None:
            argv = self.namespace.enter(*argv)
        with self.log_path.open("ab") as log:
            self._child = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=self._cluster.survives
            )
        self.process = Process.of(self._child.pid)
        self._cluster.started()
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
        """SIGSTOP: connections stay open, and nothing answers any more."""
        assert self.process is not None
        self.process.signal(signals.SIGSTOP)

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
        """Whether GET /health says that it serves, which takes a leader."""

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
        tls = self._cluster.tls
        if tls is None:
            return http.client.HTTPConnection(address, port, timeout=2)
        context = ssl.create_default_context(cafile=str(tls.authority.cafile))
        context.load_cert_chain(tls.client.cert, tls.client.key)
        return http.client.HTTPSConnection(address, port, timeout=2, context=context)

    def _argv(self) -> list[str]:
        cluster = self._cluster
        argv = ["etcd", "--name", self.name, "--data-dir", str(cluster.directory / f"{self.name}.data")]
        argv += ["--listen-client-urls", self.url, "--advertise-client-urls", self.url]
        argv += ["--listen-peer-urls", self.peer_url, "--initial-advertise-peer-urls", self.peer_url]
        argv += ["--initial-cluster", ",".join(f"{one.name}={one.peer_url}" for one in cluster.members)]
        argv += ["--unsafe-no-fsync", "--logger", "zap", "--log-outputs", "stderr", "--log-level", "warn"]
        if cluster.tls is not None:
            authority, own = cluster.tls.authority, Certificate.at(cluster.tls.authority.directory, self.name)
            for which in ("", "peer-"):
                argv += [f"--{which}cert-file", str(own.cert), f"--{which}key-file", str(own.key)]
                argv += [f"--{which}trusted-ca-file", str(authority.cafile), f"--{which}client-cert-auth"]
        return [*argv, *cluster.options]


class Etcd(Etcdctl):
    """A cluster of one member or more, and through `Etcdctl` what is in it."""

    def __init__(
        self,
        directory: Path,
        options: Sequence[str] = (),
        *,
        survives: bool = False,
        started: Callable[[], None] = lambda: None,
    ) -> None:
        """Plan a cluster whose data, logs and certificates are in `directory`; `options` are further ones for etcd.

        Members that do not survive end with the thread that starts them. `started` is called after each start.
        """
        super().__init__()
        self.directory = directory
        self.options = tuple(options)
        self.survives = survives
        self.started = started
        self.members: list[Member] = []

    def add(self, name: str, endpoint: Endpoint, namespace: Namespace | None = None) -> Member:
        """Plan another member; call it for all of them before the first one starts."""
        member = Member(name, endpoint, self, namespace)
        self.members.append(member)
        return member

    def use_tls(self, *, make: bool = True) -> None:
        """TLS between members and towards clients, both with certificates that are checked. Raises LabError.

        Without `make` the certificates are those that an earlier call made.
        """
        authority = Authority(self.directory / "tls")
        if make:
            authority.found()
            for member in self.members:
                authority.issue(member.name, [member.endpoint.address])
            authority.issue("client")
        self.tls = Tls(authority, Certificate.at(authority.directory, "client"))

    @property
    def scheme(self) -> str:
        """http or https."""
        return "http" if self.tls is None else "https"

    @property
    def endpoints(self) -> list[str]:
        return [member.url for member in self.members]

    @property
    def namespace(self) -> Namespace | None:
        return self.members[0].namespace

    def settings(self, prefix: str = PREFIX) -> dict[str, Any]:
        """What `etcd:` in overlayd's configuration holds for a client of this cluster."""
        found: dict[str, Any] = {"endpoints": ",".join(self.endpoints), "prefix": prefix}
        if self.tls is not None:
            files = {
                "cafile": self.tls.authority.cafile,
                "certfile": self.tls.client.cert,
                "keyfile": self.tls.client.key,
            }
            found |= {key: str(path) for key, path in files.items()}
        if self.auth:
            found |= dict(zip(("username", "password"), USER, strict=True))
        return found

    # --- processes ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start every member at once and wait until all serve. Raises LabError."""
        need_tools("etcd", "etcdctl", "setpriv")
        self.directory.mkdir(parents=True, exist_ok=True)
        for member in self.members:
            member.start(wait=False)
        self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until every member that runs serves, which takes a leader. Raises LabError."""
        for member in self.members:
            if member.pid is not None:
                member.wait_ready()

    def kill(self) -> None:
        """End every member at once."""
        for member in self.members:
            member.kill()

    def leader(self) -> Member:
        """The member that leads; raises LabError when no member that runs knows one."""
        for member in self.members:
            if member.pid is not None and self.leads(member.url):
                return member
        raise LabError("no etcd member leads: " + self.describe())

    def describe(self) -> str:
        """Each member with its pid, for an error's text."""
        return ", ".join(f"{one.name} {one.url} {f'pid {one.pid}' if one.pid else 'down'}" for one in self.members)


@contextlib.contextmanager
def loopback(*options: str) -> Iterator[Etcd]:
    """An etcd of one member on free ports of 127.0.0.1, which is gone after the block. Needs no privileges."""
    with tempfile.TemporaryDirectory(prefix="overlayd-etcd-") as directory:
        etcd = Etcd(Path(directory), options)
        etcd.add("etcd", Endpoint(ip_address("127.0.0.1"), *_free_ports(2)))
        try:
            etcd.start()
            yield etcd
        finally:
            etcd.kill()


def _free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody uses now; all are held at once, so that they differ."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]
