"""systemd's journal, by its native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL): entries of fields."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Mapping
from pathlib import Path

SOCKET = Path("/run/systemd/journal/socket")
_VALUE_MAX = 8192  # bytes; an entry is one datagram, and one that is too long is lost as a whole


def is_standard_error() -> bool:
    """Whether this process's standard error goes to the journal (JOURNAL_STREAM, systemd.exec(5))."""
    try:
        found = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class Journal:
    """A socket to journald. Never blocks: a journal that is behind loses entries, not packets."""

    def __init__(self, path: Path = SOCKET) -> None:
        self._path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)

    def send(self, fields: Mapping[str, str]) -> bool:
        """Whether there is a journal to take the entry. Names are upper case letters, digits and underscores."""
        try:
            self._socket.sendto(b"".join(encode(name, value) for name, value in fields.items()), self._path)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True


def encode(name: str, value: str) -> bytes:
    """One field; a value of several lines has its length in front."""
    data = value.encode(errors="replace")[:_VALUE_MAX]
    if b"\n" not in data:
        return b"%s=%s\n" % (name.encode(), data)
    return b"%s\n%s%s\n" % (name.encode(), struct.pack("<Q", len(data)), data)
