"""What the hosts of a lab share: its specification, its directory, the lease table and the etcd."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from overlayd.lab import registry
from overlayd.lab.namespace import Echo
from overlayd.lab.state import LabState
from overlayd.system.files import write_atomically


class LabResources:
    """A lab without its hosts, as each of them knows it."""

    def __init__(self, state: LabState, echo: Echo) -> None:
        self.spec = state.spec
        self.name = state.spec.name
        self.directory = state.directory
        self.etcd = registry.describe(state, echo)
        """The lab's own etcd; None with a static table."""

    def write_leases(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Replace the lease table that all hosts share, in one step."""
        text = yaml.safe_dump({"leases": [dict(entry) for entry in entries]}, sort_keys=False)
        write_atomically(self.directory / "leases.yaml", text)

    def leases(self) -> list[dict[str, Any]]:
        """The rows of the lease table."""
        rows: list[dict[str, Any]] = yaml.safe_load((self.directory / "leases.yaml").read_text())["leases"]
        return rows
