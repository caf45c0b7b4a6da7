"""Labs as a whole: up, down, load, and `hosts()`, the context manager that tests open.

    with hosts(2, mode="vxlan") as (a, b):
        assert a.container(0).ping(b.container(0).address())

How a lab comes up:

1. its name is claimed and lab.json written, with the lock held
2. namespaces and cables
3. its etcd, if it has one
4. files, then daemons

After a failure or an interrupt it is taken down again; the next `up` reaps what a killed process left.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any

from overlayd.lab import registry
from overlayd.lab import state as states
from overlayd.lab.host import Container, Host, wait_ready
from overlayd.lab.namespace import Echo, Namespace, need_root, need_tools, silent
from overlayd.lab.resources import LabResources
from overlayd.lab.spec import LabError, LabSpec, configuration, plan, plan_etcd
from overlayd.lab.state import LabState, Process
from overlayd.lab.topology import build, has_cable
from overlayd.system.files import write_atomically

Progress = Callable[[str], None]

_counter = itertools.count(1)


class Lab(LabResources):
    """A lab that is up, or was. As a context manager it goes down at the end of the block."""

    def __init__(self, state: LabState, echo: Echo = silent) -> None:
        """Describe the lab of that state, touching nothing; get one from `Lab.up` or `Lab.load`."""
        super().__init__(state, echo)
        self._state = state
        config: Mapping[str, Any] = configuration(self.spec)
        if self.etcd is not None:
            config = registry.host_configuration(config, self.etcd)
        self.hosts = tuple(Host(one, self, state, config, echo) for one in plan(self.spec))
        self.switch = None if has_cable(self.spec) else Namespace("switch", self.spec.namespace("switch"), echo)

    @classmethod
    def up(cls, spec: LabSpec, *, owned: bool = False, progress: Progress = silent, echo: Echo = silent) -> Lab:
        """Build the lab and start its daemons. Raises LabError, and leaves nothing behind then.

        An owned lab ends with this process: after a kill, the next `up` on this machine takes it down. `progress` gets
        a line before each step, `echo` every command that is run.
        """
        need_root()
        need_tools("ip", "nsenter", *(() if spec.offloads == "on" else ("ethtool",)))
        me = Process.of(os.getpid())
        state = LabState(spec, owner=me)  # owned while it is being built: a kill must not leave half of it
        lab = cls(state, echo)
        _claim(state)
        try:
            progress(f"namespaces and cables of {spec.hosts} hosts with {spec.containers} containers each")
            build(spec, [host.plan for host in lab.hosts], plan_etcd(spec), echo)
            for host in lab.hosts:
                host.write_config(host.config)
            if lab.etcd is None:
                lab.write_leases([host.lease_entry() for host in lab.hosts])
            else:
                progress(f"etcd: {', '.join(f'{one.name} on {one.url}' for one in lab.etcd.members)}")
                registry.start(lab.etcd, spec)
                for host in lab.hosts:
                    write_atomically(host.subnet_file, host.plan.subnet_env)
            if spec.mode != "none" and spec.start:
                lab.start(progress)
            if not owned:
                state.owner = None
                state.save()
        except BaseException:
            lab.down()
            raise
        return lab

    @classmethod
    def load(cls, name: str, echo: Echo = silent) -> Lab:
        """The lab of that name, which any process may have built. Raises LabError when it is not up."""
        state = LabState.load(name)
        if state is None:
            others = ", ".join(states.names()) or "none"
            raise LabError(f"lab {name!r} is not up (up: {others}): overlayctl lab up --name {name}")
        return cls(state, echo)

    @staticmethod
    def end(name: str) -> bool:
        """Take a lab down, also one of which only parts are left; returns whether there was anything."""
        need_root()
        with states.locked():
            existed = name in states.names() or bool(states.namespaces(name))
            states.remove(name)
        return existed

    def start(self, progress: Progress = silent) -> None:
        """Start every host's daemon, all at once, and wait until they are ready."""
        progress(f"overlayd in {self.spec.mode} mode on {', '.join(host.name for host in self.hosts)}")
        for host in self.hosts:
            host.start(wait=False)
        wait_ready(self.hosts)

    def down(self) -> None:
        """End every process of the lab and remove all that it made; may be called again."""
        Lab.end(self.name)
        for node in self.nodes():
            node.settle()
        for member in self.etcd.members if self.etcd is not None else ():
            member.settle()

    def nodes(self) -> Iterator[Host | Container]:
        """Every host, each followed by its containers."""
        for host in self.hosts:
            yield host
            yield from host.containers

    def find(self, name: str) -> Host | Container | Namespace:
        """The host, container, switch or etcd member of that name. Raises LabError that lists the names there are."""
        everything: list[Host | Container | Namespace] = [*self.nodes(), *([self.switch] if self.switch else [])]
        members = self.etcd.members if self.etcd is not None else ()
        everything += [one.namespace for one in members if one.namespace is not None]
        for one in everything:
            if one.name == name:
                return one
        raise LabError(f"{name}: lab {self.name!r} has {', '.join(one.name for one in everything)}")

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()


def _claim(state: LabState) -> None:
    name = state.spec.name
    with states.locked():
        states.reap_locked()
        if name in states.names():
            raise LabError(f"lab {name!r} is already up: overlayctl lab down --name {name}")
        if leftovers := states.namespaces(name):
            raise LabError(f"namespace {leftovers[0]} already exists: overlayctl lab down --name {name}")
        state.directory.mkdir(mode=0o755)
        state.save()


def unique_name() -> str:
    """A lab name that no other process uses: its pid and a count."""
    return f"t{os.getpid()}-{next(_counter)}"


@contextlib.contextmanager
def hosts(count: int = 2, *, echo: Echo = silent, **spec: Any) -> Iterator[tuple[Host, ...]]:
    """The hosts of a lab that lives as long as the block; the keywords are LabSpec's. Raises LabError."""
    spec.setdefault("name", unique_name())
    with Lab.up(LabSpec(hosts=count, **spec), owned=True, echo=echo) as lab:
        yield lab.hosts


def reap() -> list[str]:
    """Take down the labs whose owners are gone; returns their names."""
    need_root()
    return states.reap()
