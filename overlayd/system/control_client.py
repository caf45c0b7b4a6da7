"""The client of the control API, for commands that query a running daemon."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from overlayd.core.errors import ReportedError

_TIMEOUT = 10  # seconds


class ControlError(ReportedError):
    """The daemon does not answer; the text says why and what to do."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float | None = _TIMEOUT) -> None:
        super().__init__("overlayd", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask(path: Path, target: str, method: str = "GET") -> dict[str, Any]:
    """The JSON answer of the daemon behind the socket. Raises ControlError."""
    connection = _UnixConnection(path)
    with _explained(path), closing(connection):
        connection.request(method, target)
        response = connection.getresponse()
        body = json.loads(response.read())
    assert isinstance(body, dict)
    return body


def unless_waiting(answer: dict[str, Any], missing: str) -> dict[str, Any]:
    """The answer. Raises ControlError if the daemon still waits for its lease; `missing` says what there is not yet."""
    if answer["state"] == "waiting":
        raise ControlError(f"{missing}: {answer['problems'][0]}")
    return answer


def follow(path: Path, target: str) -> Iterator[dict[str, Any]]:
    """The JSON objects that the daemon sends, line by line, until it ends. Raises ControlError."""
    connection = _UnixConnection(path, timeout=None)
    with _explained(path), closing(connection):
        connection.request("GET", target)
        response = connection.getresponse()
        while line := response.readline():
            yield json.loads(line)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Errors between here and the daemon, as ControlError."""
    try:
        yield
    except FileNotFoundError:
        raise ControlError(
            f"{path}: overlayd is not running here (no control socket); start it, or name its socket with --socket"
        ) from None
    except ConnectionRefusedError:
        raise ControlError(f"{path}: overlayd is not running (nobody listens on its socket); start it") from None
    except PermissionError:
        raise ControlError(f"{path}: permission denied; run as root (sudo overlayctl ...)") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise ControlError(f"{path}: not a valid answer from overlayd: {error}") from None
