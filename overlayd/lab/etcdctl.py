"""The content of an etcd, through etcdctl: a second opinion on what overlayd's own client reads and writes."""

from __future__ import annotations

import json
import os
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from overlayd.lab.certificates import Authority, Certificate
from overlayd.lab.namespace import Namespace
from overlayd.lab.spec import LabError

PREFIX = "/coreos.com/network"
"""flannel's default for --etcd-prefix."""
ROOT_USER = ("root", "root-secret-1")
USER = ("overlayd", "lab-secret-2")
"""Name and password of the user that may read and write below the prefix and nowhere else."""


@dataclass(frozen=True, slots=True)
class Tls:
    """The certificates of a cluster and of its clients."""

    authority: Authority
    client: Certificate


class Etcdctl(ABC):
    """Runs etcdctl against a cluster, and reads what it prints."""

    def __init__(self) -> None:
        self.tls: Tls | None = None
        self.auth = False
        """Whether users are asked for their passwords: see `enable_auth`."""

    @property
    @abstractmethod
    def endpoints(self) -> list[str]:
        """The URLs of every member."""

    @property
    @abstractmethod
    def namespace(self) -> Namespace | None:
        """Where etcdctl runs; None for this process's own."""

    def ctl(self, *arguments: str, input: str | None = None, user: tuple[str, str] | None = None) -> str:  # noqa: A002
        """Run etcdctl as root (or as `user`) and return what it prints; raises LabError that quotes its complaint."""
        return self._etcdctl(arguments, input=input, user=user).stdout

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

    def version_of(self, key: str) -> int:
        """How often a key has been written since it was created. The key is there."""
        return int(self.ctl_json("get", "--", key)["kvs"][0]["version"])

    def leases(self) -> set[int]:
        """The numbers of all etcd leases that are alive."""
        return {int(one["id"]) for one in self.ctl_json("lease", "list").get("leases", ())}

    def time_left(self, lease: int) -> int:
        """Seconds until an etcd lease ends unless it is renewed; -1 when it is gone."""
        return int(self.ctl_json("lease", "timetolive", f"{lease:x}")["ttl"])

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

    def environment(
        self, user: tuple[str, str] | None = None, endpoints: Sequence[str] | None = None
    ) -> dict[str, str]:
        """etcdctl's settings: endpoints (by default all), certificates, and the user, by default root."""
        found = {"ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": ",".join(endpoints or self.endpoints)}
        if self.tls is not None:
            files = {"CACERT": self.tls.authority.cafile, "CERT": self.tls.client.cert, "KEY": self.tls.client.key}
            found |= {f"ETCDCTL_{key}": str(path) for key, path in files.items()}
        if user is not None or self.auth:
            found["ETCDCTL_USER"] = ":".join(user or ROOT_USER)
        return found

    def leads(self, url: str) -> bool:
        """Whether the member with this URL is the leader."""
        done = self._etcdctl(["endpoint", "status", "--write-out=json"], endpoints=[url], check=False)
        if done.returncode:
            return False
        status = json.loads(done.stdout)[0]["Status"]
        return bool(status.get("leader") == status["header"]["member_id"])

    def _etcdctl(
        self,
        arguments: Sequence[str],
        *,
        input: str | None = None,  # noqa: A002  # subprocess's word
        user: tuple[str, str] | None = None,
        endpoints: Sequence[str] | None = None,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("ETCDCTL_")}
        argv = ["etcdctl", *arguments]
        done = subprocess.run(
            argv if self.namespace is None else self.namespace.enter(*argv),
            env={**inherited, **self.environment(user, endpoints)},
            input=input,
            capture_output=True,
            text=True,
            timeout=60,
        )
        if check and done.returncode:
            raise LabError(f"`etcdctl {' '.join(arguments)}` failed: {(done.stderr or done.stdout).strip()[-500:]}")
        return done
