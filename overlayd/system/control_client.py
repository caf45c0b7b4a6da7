"""The client of the control API, for commands that ask a running daemon."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

_TIMEOUT = 10  # seconds


class ControlError(Exception):
    """The daemon cannot be asked; the text says why and what to do."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("overlayd", timeout=_TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_TIMEOUT)
        self.sock.connect(str(self._path))


def ask(path: Path, target: str, method: str = "GET") -> dict[str, Any]:
    """The JSON that the daemon behind the socket answers. Raises ControlError."""
    connection = _UnixConnection(path)
    try:
        connection.request(method, target)
        response = connection.getresponse()
        body = json.loads(response.read())
    except FileNotFoundError:
        raise ControlError(
            f"{path}: overlayd does not run here (no control socket); start it, or name its socket with --socket"
        ) from None
    except ConnectionRefusedError:
        raise ControlError(f"{path}: overlayd does not run (the socket is a dead daemon's); start it") from None
    except PermissionError:
        raise ControlError(f"{path}: permission denied; ask as root (sudo overlayctl ...)") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise ControlError(f"{path}: no sensible answer from overlayd: {error}") from None
    finally:
        connection.close()
    assert isinstance(body, dict)
    return body
