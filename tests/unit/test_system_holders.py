"""Who a socket belongs to, in words."""

from __future__ import annotations

import os
import pwd
import socket
from ipaddress import ip_address
from pathlib import Path

import pytest

from overlayd.system import holders
from overlayd.wire.netlink.sock_diag import SocketEntry


def entry(inode: int = 0, user: int = 0, cgroup: int = 0) -> SocketEntry:
    return SocketEntry(ip_address("0.0.0.0"), 80, False, user, inode, cgroup)


def test_its_program() -> None:
    with socket.socket() as own:
        found = holders.holder_of(entry(os.fstat(own.fileno()).st_ino))
    assert found == f"{Path('/proc/self/comm').read_text().strip()} (process {os.getpid()})"


def test_its_control_group_where_the_program_cannot_be_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "system.slice/nginx.service").mkdir(parents=True)
    (tmp_path / "cgroup.controllers").touch()
    monkeypatch.setattr(holders, "_CGROUPS", (tmp_path / "none", tmp_path))
    number = (tmp_path / "system.slice/nginx.service").stat().st_ino
    assert holders.holder_of(entry(cgroup=number)) == "nginx.service"
    assert holders.holder_of(entry(cgroup=tmp_path.stat().st_ino)) == "a program of user root"


def test_its_user_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holders, "_CGROUPS", ())
    assert holders.holder_of(entry(user=pwd.getpwnam("nobody").pw_uid)) == "a program of user nobody"
    assert holders.holder_of(entry(user=4_000_000)) == "a program of user 4000000"
