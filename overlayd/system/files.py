"""Files: read with a bound, written atomically; and the kernel's switches under /proc/sys."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from overlayd.system.errors import HostError

_LIMIT = 64 * 1024 * 1024  # bytes; a table of 100,000 leases is 10 MB


def read_text(path: Path) -> str:
    """The file's text. Raises HostError with the remedy when it cannot be read or is absurdly large."""
    try:
        with path.open("rb") as file:
            data = file.read(_LIMIT + 1)
        if len(data) > _LIMIT:
            raise HostError(f"{path}: larger than {_LIMIT >> 20} MiB; is it the right file?")
        return data.decode()
    except UnicodeDecodeError:
        raise HostError(f"{path}: is not UTF-8 text; is it the right file?") from None
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}; check the path and its permissions") from None


def read_if_any(path: Path) -> str | None:
    """The file's text; None where there is none. Raises HostError as `read_text` does."""
    return read_text(path) if path.exists() else None


def write_atomically(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace the file as a whole: a reader sees the old text or the new one. Raises HostError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w") as file:
                file.write(text)
            Path(name).chmod(mode)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}; check the directory and its permissions") from None


def check_writable(path: Path) -> None:
    """Raises HostError where `write_atomically` would fail: the directory, or the first one of its parents that there
    is, is not this process's to write to."""
    directory = path.parent
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    if not directory.is_dir():
        raise HostError(f"{path}: {directory} is not a directory; check the path")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise HostError(f"{path}: {directory} cannot be written; check the directory and its permissions")


def remove(path: Path) -> None:
    """Remove the file, if there is one. Raises HostError."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise HostError(
            f"{path}: cannot be removed: {error.strerror}; check the directory and its permissions"
        ) from None


def attach_socket(control_socket: Path) -> Path:
    """Where the daemon that has this control socket listens for containers to attach."""
    return control_socket.with_name(f"{control_socket.stem}-attach{control_socket.suffix}")


def read_sysctl(name: str) -> str | None:
    """The value of net.ipv4.ip_forward and the like (with slashes: net/ipv4/ip_forward); None where there is none."""
    try:
        return Path("/proc/sys", name).read_text().strip()
    except OSError:
        return None


def is_sysctl_writable(name: str) -> bool:
    """Whether `write_sysctl` may succeed: /proc/sys may be read-only in a container."""
    try:
        # access(2) would ignore CAP_NET_ADMIN, by which a user other than root may write.
        os.close(os.open(Path("/proc/sys", name), os.O_WRONLY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def write_sysctl(name: str, value: str) -> None:
    """Set a kernel switch. Raises HostError."""
    try:
        Path("/proc/sys", name).write_text(value)
    except OSError as error:
        raise HostError(
            f"{name.replace('/', '.')} = {value}: {error.strerror}; set it with sysctl -w as root"
        ) from None
