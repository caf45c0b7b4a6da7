"""What this host keeps for itself between runs: its identity and the leases last known (`registry.base.Store`)."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

from overlayd.core.address import Network
from overlayd.core.leases.subnet_env import leased_subnets
from overlayd.log import log
from overlayd.system.errors import HostError
from overlayd.system.files import read_text, write_atomically


class StateDir:
    """Files in `directory`: node-id and leases.json. `subnet_file` is where subnet.env is."""

    def __init__(self, directory: Path, subnet_file: Path) -> None:
        self._id, self._leases, self._subnet_file = directory / "node-id", directory / "leases.json", subnet_file
        self._new_id = secrets.token_hex(16)

    def node_id(self) -> str:
        """This node's identity, a random one when there is none yet. Raises HostError.

        Random rather than the machine id: that one is to be kept secret (machine-id(5)), and namespaces share it.
        """
        if self._id.exists():
            found = read_text(self._id).strip()
            if not re.fullmatch(r"[0-9a-f]{32}", found):
                raise HostError(f"{self._id}: not a valid node identity; remove it to get a new one")
            return found
        return self._new_id

    def keep_id(self) -> None:
        """Write the identity, if there was none. Raises HostError."""
        if not self._id.exists():
            write_atomically(self._id, self._new_id + "\n")

    def load(self) -> str | None:
        """The leases last saved; None where there are none."""
        try:
            return read_text(self._leases) if self._leases.exists() else None
        except HostError as error:
            log.warning("saved leases cannot be read", error=str(error))
            return None

    def save(self, text: str) -> None:
        """Save leases; a failure is logged, and the daemon goes on."""
        try:
            write_atomically(self._leases, text, mode=0o600)
        except HostError as error:
            log.warning("leases not saved: a start without etcd will find old ones or none", error=str(error))

    def former_subnets(self) -> tuple[Network, ...]:
        """The subnets that subnet.env names; none where it cannot be read."""
        try:
            return leased_subnets(read_text(self._subnet_file)) if self._subnet_file.exists() else ()
        except (HostError, ValueError):
            return ()
