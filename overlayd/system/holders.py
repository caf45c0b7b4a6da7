"""Who a socket belongs to, in words: as much of it as this process is allowed to see.

nginx (process 812)           its program, to root
nginx.service                 its control group, to anybody
a program of user www-data    else
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from overlayd.wire.netlink.sock_diag import SocketEntry

_CGROUPS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
_MOST = 20_000  # control groups that are looked at


def holder_of(entry: SocketEntry) -> str:
    """The socket's holder. Looks through /proc and the control groups: tens of milliseconds on a busy host."""
    return _program(entry.inode) or _unit(entry.cgroup) or f"a program of user {_user(entry.user)}"


def _program(inode: int) -> str | None:
    wanted = f"socket:[{inode}]"
    for directory in Path("/proc").glob("[0-9]*/fd"):
        with suppress(OSError):  # it has ended, or is none of our business
            if any(_points_to(wanted, one) for one in directory.iterdir()):
                name = (directory.parent / "comm").read_text().strip()
                return f"{name} (process {directory.parent.name})"
    return None


def _points_to(wanted: str, link: Path) -> bool:
    try:
        return os.readlink(link) == wanted  # noqa: PTH115  # a Path made of it costs as much as the call
    except OSError:
        return False


def _unit(cgroup: int) -> str | None:
    """The name of the control group with this id, which is its directory's inode; None of the root."""
    for _, path in zip(range(_MOST), _control_groups(), strict=False):
        with suppress(OSError):
            if path.stat().st_ino == cgroup:
                return path.name
    return None


def _control_groups() -> Iterator[Path]:
    root = next((one for one in _CGROUPS if (one / "cgroup.controllers").exists()), None)
    for directory, names, _ in os.walk(root) if root is not None else ():
        yield from (Path(directory, name) for name in names)


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
