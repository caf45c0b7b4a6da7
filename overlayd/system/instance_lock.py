"""One daemon for each control socket, for as long as the process lives."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from overlayd.system.errors import HostError


class InstanceLock:
    """A lock file beside the control socket; the kernel frees it when the process ends, however it ends."""

    def __init__(self, control_socket: Path) -> None:
        self._path = control_socket.with_name(control_socket.name + ".lock")
        self._fd = -1

    def __enter__(self) -> None:
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
            raise HostError(f"{self._path}: another overlayd (process {holder}) is running; stop it first") from None
        os.truncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

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
        os.close(self._fd)
