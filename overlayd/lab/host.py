"""The hosts and containers of a lab: what tests, the demo and benchmarks work with.

A host runs the real overlayd, `python -m overlayd --config .../h1/overlayd.yaml`, in its namespace and in a session of
its own. Ready means that the control socket answers GET /v1/status with "state": "ready".
"""

from __future__ import annotations

import os
import signal as signals
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import yaml

from overlayd.backend.modes import prepared
from overlayd.core.address import Address, Family, Network
from overlayd.lab.namespace import Echo, Namespace
from overlayd.lab.resources import LabResources
from overlayd.lab.spec import ContainerPlan, HostPlan, LabError, merged, settings_of
from overlayd.lab.state import STOP_TIMEOUT, LabState, Process
from overlayd.system.control_client import ControlError, ask
from overlayd.system.files import write_atomically

READY_TIMEOUT = 15.0
_POLL = 0.02
ROOT = Path(__file__).resolve().parents[2]
"""Where `import overlayd` finds this package."""


class Container(Namespace):
    """A container: a namespace whose `eth0` hangs on its host's bridge."""

    def __init__(self, plan: ContainerPlan, host: Host, echo: Echo) -> None:
        super().__init__(plan.name, plan.namespace, echo)
        self.host = host
        self._plan = plan

    def address(self, family: Family | None = None) -> Address:
        """The container's address, IPv4 if it has one or else IPv6; raises LabError if it has none of that family."""
        for interface in self._plan.addresses:
            if family in (None, interface.version):
                return interface.ip
        raise LabError(f"{self.name}: has no IPv{family} address; build the lab with family dual")


class Host(Namespace):
    """A host: underlay interface `eth0`, bridge `br0`, containers, and a daemon that can be started and stopped."""

    def __init__(
        self, plan: HostPlan, lab: LabResources, state: LabState, config: Mapping[str, Any], echo: Echo
    ) -> None:
        super().__init__(plan.name, plan.namespace, echo)
        self.lab = lab
        self.plan = plan
        self.containers = tuple(Container(one, self, echo) for one in plan.containers)
        self.ready_after: float | None = None
        """Seconds from the start of the daemon's process until it was ready, the last time that it was started."""
        self.directory = state.directory / plan.name
        self.config_path = self.directory / "overlayd.yaml"
        self.socket_path = self.directory / "overlayd.sock"
        self.subnet_file = self.directory / "subnet.env"
        self.config: dict[str, Any] = merged(
            {
                **({"leases_file": "../leases.yaml"} if lab.etcd is None else {"node_name": plan.name}),
                "state_dir": str(self.directory / "state"),
                "control_socket": str(self.socket_path),
                "subnet_file": str(self.subnet_file),
            },
            config,
        )
        """What the lab writes to config_path; `write_config(merged(host.config, {...}))` changes a part."""
        self._state = state
        self._daemon: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0

    def container(self, index: int) -> Container:
        """The container with this index, 0 being the first."""
        return self.containers[index]

    def lease_entry(self) -> dict[str, str]:
        """The host's row in the lease table, with its key where the mode has one; the key is made now."""
        settings = settings_of(self.lab.spec).changed(state_dir=self.config["state_dir"])
        key = settings.spec.lease_fields(prepared(settings).section).get("public_key")
        return self.plan.lease_entry() | ({"public_key": key} if key is not None else {})

    @property
    def subnets(self) -> tuple[Network, ...]:
        """The host's one or two subnets, IPv4 first."""
        return self.plan.lease.subnets

    @property
    def subnet(self) -> Network:
        """The host's subnet, the IPv4 one if there is one."""
        return self.subnets[0]

    @property
    def ipv4_subnet(self) -> IPv4Network | None:
        """The host's IPv4 subnet, if it has one."""
        return self.plan.lease.subnet

    @property
    def public_ip(self) -> Address:
        """The host's underlay address, the IPv4 one if there is one."""
        return self.plan.underlay[0].ip

    def public(self, family: Family) -> Address | None:
        """The host's underlay address of that family, if it has one."""
        return self.plan.lease.public(family)

    # --- the daemon -----------------------------------------------------------------------------------------------

    def write_config(self, mapping: Mapping[str, Any]) -> None:
        """Replace the configuration file; the daemon reads it at its start and on SIGHUP."""
        self.directory.mkdir(parents=True, exist_ok=True)
        write_atomically(self.config_path, yaml.safe_dump(dict(mapping), sort_keys=False))

    @property
    def process(self) -> Process | None:
        """The daemon's process while it runs, also when another process started it."""
        if self._daemon is not None:
            self._daemon.poll()  # collects it if it has ended
        recorded = self._state.daemons.get(self.name)
        return recorded if recorded and recorded.alive else None

    @property
    def pid(self) -> int | None:
        """The daemon's pid while it runs."""
        process = self.process
        return process.pid if process else None

    def start(self, wait: bool = True, environment: Mapping[str, str] | None = None, under: Sequence[str] = ()) -> None:
        """Start the daemon, and wait until it is ready. Raises LabError with its last log lines if that fails.

        `under` is a command that runs the daemon, such as setpriv with fewer privileges.
        """
        if self.pid is not None:
            raise LabError(f"{self.name}: overlayd is already running (pid {self.pid}); stop it first")
        argv = self.enter(*under, sys.executable, "-m", "overlayd", "--config", str(self.config_path))
        # The file decides: settings in this process's own environment are not for the lab's daemons.
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("OVERLAYD_")}
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        self._echo(" ".join(argv) + " &")
        self.ready_after = None
        with self.log_path.open("ab") as log:
            self._started_at = time.monotonic()
            self._daemon = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**inherited, **(environment or {}), "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
            )
        process = Process.of(self._daemon.pid)
        if process is not None:
            self._state.daemons[self.name] = process
            self._state.save()
        if wait:
            wait_ready([self])

    def stop(self, signal: int = signals.SIGTERM, timeout: float = STOP_TIMEOUT) -> int | None:
        """End the daemon and return its exit status (-N for signal N; None if another process started it).

        It is killed when it has not ended after `timeout` seconds.
        """
        process = self.process
        if process is not None:
            process.signal(signal)
            deadline = time.monotonic() + timeout
            while self.process is not None and time.monotonic() < deadline:
                time.sleep(0.005)
            process.signal(signals.SIGKILL)
        status = self._daemon.wait() if self._daemon is not None else None
        self._daemon = None
        if self._state.daemons.pop(self.name, None) is not None:
            self._state.save()
        return status

    def restart(self) -> int | None:
        """Stop, start and wait until ready; returns the exit status of the stopped daemon."""
        status = self.stop()
        self.start()
        return status

    def settle(self) -> None:
        super().settle()
        if self._daemon is not None:
            self._daemon.wait()
            self._daemon = None
        self._state.daemons.pop(self.name, None)

    @property
    def log_path(self) -> Path:
        """Where the daemon's output goes, of all its runs."""
        return self.directory / "overlayd.log"

    def log(self) -> str:
        """The log of all the daemon's runs."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def status(self) -> dict[str, Any]:
        """The daemon's answer to GET /v1/status. Raises LabError when it does not answer."""
        try:
            return ask(self.socket_path, "/v1/status")
        except ControlError as error:
            raise LabError(f"{self.name}: no status: {error}; see {self.log_path}") from None

    def check_ready(self) -> bool:
        """Whether the daemon is ready; raises LabError with its last log lines if it has ended."""
        if self.pid is None:
            code = self._daemon.returncode if self._daemon is not None else None
            how = "is not running" if code is None else f"ended with status {code} before it was ready"
            raise LabError(f"{self.name}: overlayd {how}:\n{self.last_lines()}")
        try:
            ready = self.status().get("state") == "ready"
        except LabError:
            return False
        if ready and self.ready_after is None:
            self.ready_after = time.monotonic() - self._started_at
        return ready

    def last_lines(self, count: int = 12) -> str:
        """The end of the log, for an error's text."""
        return "\n".join(f"  {line}" for line in self.log().splitlines()[-count:]) or f"  (nothing in {self.log_path})"


def wait_ready(hosts: Sequence[Host], timeout: float | None = None) -> None:
    """Wait until every daemon is ready; raises LabError with the log of one that ended or took too long.

    The default is READY_TIMEOUT and a second for each host, since they share the machine's cores while they start.
    """
    waiting = list(hosts)
    timeout = READY_TIMEOUT + len(waiting) if timeout is None else timeout
    deadline = time.monotonic() + timeout
    while waiting := [host for host in waiting if not host.check_ready()]:
        if time.monotonic() > deadline:
            host = waiting[0]
            raise LabError(f"{host.name}: overlayd is not ready after {timeout:g} s:\n{host.last_lines()}")
        time.sleep(_POLL)
