"""A real etcd for tests, the lab and benchmarks: one member on loopback, or several in namespaces of their own.

    with loopback() as etcd:                    # with hosts(3, registry="etcd") as ...: the lab builds its own
        etcd.put("/key", "value")
        etcd.members[0].kill()
        etcd.members[0].start()                 # on the data it had

Members are Debian's etcd, without fsync: a lab outlives no power cut. `etcdctl` runs in the namespace of the first one.
"""

from __future__ import annotations

import contextlib
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from overlayd.lab.certificates import Authority, Certificate
from overlayd.lab.etcd_member import Endpoint, Member
from overlayd.lab.etcdctl import PREFIX, USER, Etcdctl, Tls
from overlayd.lab.namespace import Namespace, need_tools
from overlayd.lab.spec import LabError


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
        self._options = tuple(options)
        self._survives = survives
        self._started = started
        self.members: list[Member] = []

    def add(self, name: str, endpoint: Endpoint, namespace: Namespace | None = None) -> Member:
        """Plan another member; call it for all of them before `use_tls`, and before the first one starts."""
        log_path = self.directory / f"{name}.log"
        member = Member(name, endpoint, namespace, log_path, self._argv, survives=self._survives, started=self._started)
        self.members.append(member)
        return member

    def use_tls(self, *, make: bool = True) -> None:
        """TLS between members and towards clients, both with certificates that are checked. Raises LabError.

        Without `make` the certificates are those that an earlier call made.
        """
        authority = Authority(self.directory / "tls")
        if make:
            authority.create()
            for member in self.members:
                authority.issue(member.name, [member.endpoint.address])
            authority.issue("client")
        self.tls = Tls(authority, Certificate.at(authority.directory, "client"))
        for member in self.members:
            member.tls = self.tls

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

    def _argv(self, member: Member) -> list[str]:
        """What runs a member."""
        argv = ["etcd", "--name", member.name, "--data-dir", str(self.directory / f"{member.name}.data")]
        argv += ["--listen-client-urls", member.url, "--advertise-client-urls", member.url]
        argv += ["--listen-peer-urls", member.peer_url, "--initial-advertise-peer-urls", member.peer_url]
        argv += ["--initial-cluster", ",".join(f"{one.name}={one.peer_url}" for one in self.members)]
        argv += ["--unsafe-no-fsync", "--logger", "zap", "--log-outputs", "stderr", "--log-level", "warn"]
        if self.tls is not None:
            authority, own = self.tls.authority, Certificate.at(self.tls.authority.directory, member.name)
            for which in ("", "peer-"):
                argv += [f"--{which}cert-file", str(own.cert), f"--{which}key-file", str(own.key)]
                argv += [f"--{which}trusted-ca-file", str(authority.cafile), f"--{which}client-cert-auth"]
        return [*argv, *self._options]

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
def loopback(*options: str, tls: bool = False) -> Iterator[Etcd]:
    """An etcd of one member on free ports of 127.0.0.1, which is gone after the block. Needs no privileges."""
    with tempfile.TemporaryDirectory(prefix="overlayd-etcd-") as directory:
        etcd = Etcd(Path(directory), options)
        etcd.add("etcd", Endpoint(ip_address("127.0.0.1"), *_free_ports(2)))
        if tls:
            etcd.use_tls()
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
