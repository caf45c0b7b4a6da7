"""One daemon for each control socket, for as long as the process lives."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from overlayd.system.errors import HostError, InUseError
from overlayd.system.files import check_writable


class InstanceLock:
    """A lock file beside the control socket; the kernel frees it when the process ends, however it ends. One that ends
    by itself removes the file."""

    def __init__(self, control_socket: Path) -> None:
        self._path = control_socket.with_name(control_socket.name + ".lock")
        self._fd = -1

    def __enter__(self) -> None:
        self._lock()
        while not self._in_place:  # who held it has removed the file between our opening and our locking it
            os.close(self._fd)
            self._lock()
        os.truncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def _lock(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise HostError(f"{self._path}: {error.strerror}; check the directory, or set control_socket") from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(self._fd, 32).decode(errors="replace").strip() or "?"
            os.close(self._fd)
            raise self._refusal(holder) from None

    def _refusal(self, holder: object) -> HostError:
        return InUseError(f"{self._path}: another overlayd (process {holder}) is running; stop it first")

    def check(self) -> None:
        """Raises HostError where it could not be taken; changes nothing."""
        if (holder := self.holder()) is not None:
            raise self._refusal(holder)
        check_writable(self._path)

    @property
    def _in_place(self) -> bool:
        """Whether the file that is locked is the one that others find."""
        try:
            return os.path.samestat(self._path.stat(), os.fstat(self._fd))
        except OSError:
            return False

    def holder(self) -> int | None:
        """The process that holds it; None while nobody does. Raises HostError."""
        try:
            with self._path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return None
        except BlockingIOError:
            return int(self._path.read_text() or 0)
        except OSError as error:
            raise HostError(f"{self._path}: {error.strerror}") from None
        return None

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._path.unlink()  # while it is locked: nobody else has one of that name
        os.close(self._fd)
