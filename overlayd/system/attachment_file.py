"""The attachments of this host on its disk (`core.attach.state`), so that they outlive the daemon and not the boot."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from overlayd.core.attach import state
from overlayd.core.attach.errors import AttachError
from overlayd.core.attach.table import AttachmentTable
from overlayd.log import log
from overlayd.system.errors import HostError
from overlayd.system.files import read_text, write_atomically

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class AttachmentFile:
    """attachments.json in the state directory."""

    def __init__(self, directory: Path, *, read_only: bool = False, boot_id: Path = _BOOT_ID) -> None:
        self._path, self._read_only, self._boot_id = directory / "attachments.json", read_only, boot_id

    def load(self) -> AttachmentTable:
        """The attachments of this boot. A file that cannot be read is logged; one that is damaged is put aside, too."""
        try:
            return state.load(read_text(self._path), self._boot) if self._path.exists() else AttachmentTable()
        except (HostError, OSError) as error:
            log.error("attached containers are not known: they lose their network", error=str(error))
        except AttachError as error:
            remedy = "attach them again"
            log.error(
                "attached containers are not known: they lose their network",
                error=f"{self._path}: {error}",
                remedy=remedy,
            )
            if not self._read_only:
                self._path.replace(self._path.with_suffix(".invalid"))
        return AttachmentTable()

    def save(self, attachments: AttachmentTable) -> None:
        """Replace the file. Raises HostError. Not synced: no attachment outlives a crash of the machine."""
        write_atomically(self._path, state.dump(self._boot, attachments), mode=0o600)

    @cached_property
    def _boot(self) -> str:
        try:
            return self._boot_id.read_text().strip()
        except OSError as error:
            raise HostError(f"{self._boot_id}: {error.strerror}; is /proc mounted?") from None
