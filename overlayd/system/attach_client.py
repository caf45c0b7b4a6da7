"""What a client of the attach socket does: it enters the container's network namespace, which takes root, opens an
rtnetlink socket there, and passes it to the daemon with a request (`core.attach.request`).

It also sets the container's kernel settings: /proc/sys/net shows those of the namespace that a process is in.
"""

from __future__ import annotations

import array
import ctypes
import json
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from overlayd.core.attach.errors import AttachError
from overlayd.core.attach.model import Attachment
from overlayd.core.attach.request import PACKET_MAX, AttachRequest, DetachRequest, RefreshRequest, parse_answer
from overlayd.core.attach.values import cpu_mask, sysctl_path
from overlayd.system.files import attach_socket

_TIMEOUT = 60  # seconds; the daemon may be busy with many containers
_CLONE_NEWNET = 0x40000000  # linux/sched.h
_SYSCTLS = Path("/proc/sys")
_RPS_DEFAULT = _SYSCTLS / "net/core/rps_default_mask"
_NO_IPV6 = _SYSCTLS / "net/ipv6/conf/default/disable_ipv6"


def attach(control_socket: Path, request: AttachRequest) -> Attachment:
    """Attach a container and set its kernel settings, or change nothing. Raises AttachError."""
    here = [_SYSCTLS.joinpath(sysctl_path(name)).exists() for name, _ in request.sysctls]
    with _connected(control_socket) as daemon, _inside(request.netns) as rtnetlink:
        _check_sysctls(request, here)
        with _ipv6_on(), _rps(request.rps):
            (made,) = _exchange(daemon, request, rtnetlink)
        try:
            for name, value in request.sysctls:
                _set_sysctl(name, value)
        except AttachError:
            with suppress(AttachError):
                detach(control_socket, DetachRequest(container=made.container, interface=made.interface))
            raise
    return made


def detach(control_socket: Path, request: DetachRequest) -> list[Attachment]:
    """Detach a container. Raises AttachError."""
    with _connected(control_socket) as daemon:
        return _exchange(daemon, request)


def refresh(control_socket: Path, netns: str, request: RefreshRequest) -> Attachment:
    """Give a container the addresses and the MTU of now. Raises AttachError."""
    with _connected(control_socket) as daemon, _inside(netns) as rtnetlink, _ipv6_on():
        (renewed,) = _exchange(daemon, request, rtnetlink)
    return renewed


def _exchange(
    daemon: socket.socket, request: AttachRequest | DetachRequest | RefreshRequest, *passed: socket.socket
) -> list[Attachment]:
    descriptors = array.array("i", [one.fileno() for one in passed])
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)] if passed else []
    try:
        daemon.sendmsg([json.dumps(request.json()).encode()], rights)
        answer = daemon.recv(PACKET_MAX)
    except TimeoutError:
        raise AttachError(f"overlayd has not answered in {_TIMEOUT} s", "later") from None
    except OSError as error:
        raise AttachError(f"overlayd does not answer: {error.strerror}", "later") from None
    if not answer:
        raise AttachError("overlayd has ended without an answer; try again", "later")
    return parse_answer(answer)


@contextmanager
def _connected(control_socket: Path) -> Iterator[socket.socket]:
    path = attach_socket(control_socket)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as daemon:
        daemon.settimeout(_TIMEOUT)
        try:
            daemon.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            raise AttachError(
                f"{path}: overlayd is not running here; start it, or name its control socket with --socket", "later"
            ) from None
        except PermissionError:
            raise AttachError(f"{path}: permission denied; run as root (sudo overlayctl ...)", "refused") from None
        except OSError as error:
            raise AttachError(f"{path}: {error.strerror or error}", "refused") from None
        yield daemon


@contextmanager
def _inside(netns: str) -> Iterator[socket.socket]:
    """An rtnetlink socket of that namespace; this thread is in there meanwhile. Raises AttachError."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open("rb") as home:
        try:
            with Path(netns).open("rb") as handle:
                if libc.setns(handle.fileno(), _CLONE_NEWNET):
                    number = ctypes.get_errno()
                    raise OSError(number, os.strerror(number))
        except OSError as error:
            raise AttachError(
                f"network namespace {netns}: {error.strerror}; name a running process, a network namespace or its path",
                "refused",
            ) from None
        try:
            with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as rtnetlink:
                yield rtnetlink
        finally:
            libc.setns(home.fileno(), _CLONE_NEWNET)


@contextmanager
def _ipv6_on() -> Iterator[None]:
    """Have interfaces that are made meanwhile speak IPv6: Docker switches it off in containers without a network."""
    try:
        before = _NO_IPV6.read_text()
    except OSError:  # a kernel without IPv6
        before = "0"
    if before.strip() == "0":
        yield
        return
    _write(_NO_IPV6, "0")
    try:
        yield
    finally:
        _write(_NO_IPV6, before)


@contextmanager
def _rps(listed: str) -> Iterator[None]:
    """Have interfaces that are made meanwhile steer packets to these CPUs. Raises AttachError."""
    if not listed:
        yield
        return
    try:
        before = _RPS_DEFAULT.read_text()
        _write(_RPS_DEFAULT, cpu_mask(listed))
    except FileNotFoundError:
        raise AttachError(
            "rps: this kernel has no default for new interfaces (net.core.rps_default_mask of Linux 6.3);"
            " leave --rps out, and write to rps_cpus of both ends",
            "refused",
        ) from None
    except OSError as error:
        raise AttachError(f"rps: {listed}: {error.strerror}; does this host have these CPUs?") from None
    try:
        yield
    finally:
        _write(_RPS_DEFAULT, before)


def _check_sysctls(request: AttachRequest, here: Sequence[bool]) -> None:
    """Raises AttachError for the first that the container's namespace does not have. `here`: which of them this host's
    has."""
    for (name, _), known in zip(request.sysctls, here, strict=True):
        path = _SYSCTLS / sysctl_path(name)
        if path.is_file() or request.interface in path.parts:
            continue
        why = "is not per network namespace: it can be set for the whole host only" if known else "is not known here"
        raise AttachError(f"sysctl {name} {why}")


def _set_sysctl(name: str, value: str) -> None:
    try:
        _write(_SYSCTLS / sysctl_path(name), value)
    except OSError as error:
        raise AttachError(f"sysctl {name} = {value}: {error.strerror}", "refused") from None


def _write(path: Path, value: str) -> None:
    """Not Path.write_text, which would make a file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)
