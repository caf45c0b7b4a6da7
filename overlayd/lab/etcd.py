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
import os
import signal as signals
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from overlayd.core.address import Address
from overlayd.lab.certificates import Authority, Certificate
from overlayd.lab.namespace import Namespace, T, need_tools, within
from overlayd.lab.spec import LabError
from overlayd.lab.state import STOP_TIMEOUT, Process, end

PREFIX = "/coreos.com/network"
"""flannel's default for --etcd-prefix."""
READY_TIMEOUT = 30.0
CLIENT_PORT = 2379
PEER_PORT = 2380

ROOT_USER = ("root", "root-secret-1")
USER = ("overlayd", "lab-secret-2")
"""Name and password of the user that may read and write below the prefix and nowhere else."""

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


@dataclass(frozen=True, slots=True)
class Tls:
    """The certificates of a cluster and of its clients."""

    authority: Authority
    client: Certificate


@dataclass
class Etcd:
    """A cluster of one member or more."""

    directory: Path
    """Data, logs and certificates."""
    options: tuple[str, ...] = ()
    """Further command line options for every member."""
    tls: Tls | None = None
    survives: bool = False
    """Whether the members stay up when the process that started them ends."""
    auth: bool = False
    """Whether users are asked for their passwords: see `enable_auth`."""
    started: Callable[[], None] = lambda: None
    """Called after a member's process has been started."""
    members: list[Member] = field(default_factory=list)

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
        """The URLs of every member."""
        return [member.url for member in self.members]

    def settings(self, prefix: str = PREFIX) -> dict[str, Any]:
        """What `etcd:` in overlayd's configuration holds for a client of this cluster."""
        found: dict[str, Any] = {"endpoints": self.endpoints, "prefix": prefix}
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
        for member in self.members:
            member.wait_ready()

    def kill(self) -> None:
        """End every member at once."""
        for member in self.members:
            member.kill()

    def leader(self) -> Member:
        """The member that leads; raises LabError when no member that runs knows one."""
        for member in self.members:
            if member.pid is None:
                continue
            done = self._etcdctl(["endpoint", "status", "--write-out=json"], [member.url], check=False)
            if done.returncode == 0:
                header = json.loads(done.stdout)[0]["Status"]
                if header.get("leader") == header["header"]["member_id"]:
                    return member
        raise LabError("no etcd member leads: " + self.describe())

    def describe(self) -> str:
        """Each member with its pid, for an error's text."""
        return ", ".join(f"{one.name} {one.url} {f'pid {one.pid}' if one.pid else 'down'}" for one in self.members)

    # --- content --------------------------------------------------------------------------------------------------

    def ctl(self, *arguments: str, input: str | None = None, user: tuple[str, str] | None = None) -> str:  # noqa: A002
        """Run etcdctl as root (or as `user`) and return what it prints; raises LabError that quotes its complaint."""
        return self._etcdctl(arguments, self.endpoints, input=input, user=user).stdout

    def ctl_json(self, *arguments: str) -> Any:
        """What etcdctl prints with --write-out=json. Keys and values are base64 there."""
        return json.loads(self.ctl("--write-out=json", *arguments))

    def put(self, key: str, value: str | Mapping[str, Any], lease: int | None = None) -> None:
        """Write a key; a mapping is written as JSON. `lease` is an etcd lease's number, as `grant` gives it."""
        text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        self.ctl("put", *([f"--lease={lease:x}"] if lease else []), "--", key, text)

    def get(self, key: str) -> str | None:
        """The value of a key, or None."""
        lines = self.ctl("get", "--", key).splitlines()
        return lines[1] if len(lines) > 1 else None

    def delete(self, key: str) -> None:
        """Delete a key, which is there."""
        if self.ctl("del", "--", key).strip() != "1":
            raise LabError(f"etcd: no key {key} to delete")

    def below(self, prefix: str) -> dict[str, str]:
        """Every key that begins with `prefix`, and its value, by key. Values hold no line breaks."""
        lines = self.ctl("get", "--prefix", "--", prefix).splitlines()
        return dict(zip(lines[::2], lines[1::2], strict=True))

    def lease_of(self, key: str) -> int:
        """The number of the etcd lease that a key hangs on; 0 for none, as for a reservation. The key is there."""
        return int(self.ctl_json("get", "--", key)["kvs"][0].get("lease", 0))

    def leases(self) -> set[int]:
        """The numbers of all etcd leases that are alive."""
        return {int(one["id"]) for one in self.ctl_json("lease", "list").get("leases", ())}

    def grant(self, ttl: int) -> int:
        """A new etcd lease of `ttl` seconds."""
        return int(self.ctl_json("lease", "grant", str(ttl))["ID"])

    def revoke(self, lease: int) -> None:
        """End an etcd lease, and with it its keys, as if it had expired."""
        self.ctl("lease", "revoke", f"{lease:x}")

    def revision(self) -> int:
        """The store's revision."""
        return int(self.ctl_json("get", "--", "/")["header"]["revision"])

    def compact(self) -> int:
        """Forget all history up to now; returns the revision."""
        revision = self.revision()
        self.ctl("compact", str(revision))
        return revision

    def enable_auth(self, prefix: str = PREFIX) -> None:
        """From now on only ROOT_USER may do everything, and USER what is below the prefix."""
        for name, password in (ROOT_USER, USER):
            self.ctl("user", "add", f"{name}:{password}")
        self.ctl("role", "add", USER[0])
        self.ctl("role", "grant-permission", USER[0], "--prefix=true", "readwrite", f"{prefix}/")
        self.ctl("user", "grant-role", USER[0], USER[0])
        self.ctl("user", "grant-role", "root", "root")
        self.ctl("auth", "enable")
        self.auth = True

    def _etcdctl(
        self,
        arguments: Sequence[str],
        endpoints: Sequence[str],
        *,
        input: str | None = None,  # noqa: A002  # subprocess's word
        user: tuple[str, str] | None = None,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("ETCDCTL_")}
        environment |= {"ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": ",".join(endpoints)}
        if self.tls is not None:
            files = {"CACERT": self.tls.authority.cafile, "CERT": self.tls.client.cert, "KEY": self.tls.client.key}
            environment |= {f"ETCDCTL_{key}": str(path) for key, path in files.items()}
        if user is not None or self.auth:
            environment["ETCDCTL_USER"] = ":".join(user or ROOT_USER)
        argv = ["etcdctl", *arguments]
        where = self.members[0].namespace
        done = subprocess.run(
            where.enter(*argv) if where is not None else argv,
            env=environment,
            input=input,
            capture_output=True,
            text=True,
            timeout=60,
        )
        if check and done.returncode:
            raise LabError(f"`etcdctl {' '.join(arguments)}` failed: {(done.stderr or done.stdout).strip()[-500:]}")
        return done


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
