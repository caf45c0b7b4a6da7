"""Notifications to systemd, and the files that it keeps open between two runs (sd_notify(3), sd_listen_fds(3)).

Datagrams of VARIABLE=VALUE lines on the socket that NOTIFY_SOCKET names. Its file descriptor store holds the TUN and
the sockets open while the daemon is away, so that packets wait in them instead of being lost. Without a service manager
all of it does nothing.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable, MutableMapping

from overlayd.log import log

_FIRST = 3  # SD_LISTEN_FDS_START: where the file descriptors that are passed begin
_TIMEOUT = 2.0  # seconds; systemd reads its socket in microseconds, and a daemon that hangs on it moves no packets
_START_EXTENSION = 30_000_000  # microseconds by which each `starting` extends the start's timeout


class ServiceManager:
    """The one that started us; made with no arguments, none."""

    def __init__(self, address: str = "", watchdog: float | None = None, given: dict[str, int] | None = None) -> None:
        """`address` of its socket (a leading @ is the abstract namespace's), `watchdog` seconds without a
        watchdog notification after which it kills us, and the file descriptors that it kept, by name."""
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.given = dict(given or {})
        """What our former run left and nobody has taken."""
        self._kept = set(self.given)
        self._halt: Callable[[], None] | None = None
        self._warned = False
        self.watchdog = watchdog

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> ServiceManager:
        """As the service manager has set the environment. Its variables are removed: they are not for our children."""
        mine = str(os.getpid())
        variables = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
        found = {name: environ.pop(name, "") for name in variables}
        watchdog = None
        if found["WATCHDOG_USEC"].isdecimal() and found["WATCHDOG_PID"] in ("", mine):
            watchdog = int(found["WATCHDOG_USEC"]) / 1e6 or None
        given: dict[str, int] = {}
        if found["LISTEN_PID"] == mine and found["LISTEN_FDS"].isdecimal():
            fds = range(_FIRST, _FIRST + int(found["LISTEN_FDS"]))
            for fd, name in zip(fds, found["LISTEN_FDNAMES"].split(":"), strict=False):
                os.set_inheritable(fd, False)
                if name in given:  # two of one name: which one is right, nobody can tell
                    os.close(given[name])
                given[name] = fd
        return cls(found["NOTIFY_SOCKET"], watchdog, given)

    def __bool__(self) -> bool:
        """Whether there is one."""
        return bool(self._address)

    # --- notifications ------------------------------------------------------------------------------------------------

    def ready(self, status: str) -> None:
        """The start, or a reload, is done."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """A reload has begun; `ready` ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", "STATUS=reloading")

    def stopping(self) -> None:
        """The end has begun."""
        self._send("STOPPING=1", "STATUS=stopping")

    def starting(self, status: str) -> None:
        """The start goes on: extends its timeout."""
        self._send(f"EXTEND_TIMEOUT_USEC={_START_EXTENSION}", f"STATUS={status}")

    def alive(self) -> None:
        """The watchdog notification; due before `watchdog` seconds have passed since the last one."""
        self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={text}")

    # --- the file descriptor store -----------------------------------------------------------------------------------

    def keep(self, name: str, fd: int) -> None:
        """Hold this open file under the name for our next run, in place of what had the name."""
        former = self.given.pop(name, None)
        if former is not None:
            self._halt_user()
            os.close(former)
        if name in self._kept:
            self._send("FDSTOREREMOVE=1", f"FDNAME={name}")
        self._kept.add(name)
        # FDPOLL=0: systemd would watch it for errors; we look at it when we get it back.
        self._send("FDSTORE=1", f"FDNAME={name}", "FDPOLL=0", fds=[fd])

    def share(self, halt: Callable[[], None]) -> None:
        """What is given is in use; `halt` ends that, and is called before anything is taken or closed."""
        self._halt = halt

    def _halt_user(self) -> None:
        if self._halt is not None:
            self._halt()
            self._halt = None

    def take(self, name: str) -> int | None:
        """What was kept under the name by our former run, once; it is the caller's to close. None where nothing was."""
        self._halt_user()
        return self.given.pop(name, None)

    def forget(self, *names: str) -> None:
        """Close these, or all. When it returns nobody but us has them open, so that they can be opened anew."""
        self._halt_user()
        gone = (set(names) or set(self._kept)) & self._kept
        for name in gone:
            fd = self.given.pop(name, None)
            if fd is not None:
                os.close(fd)
            self._send("FDSTOREREMOVE=1", f"FDNAME={name}")
        self._kept -= gone
        if gone:
            self._barrier()

    def forget_unused(self) -> list[str]:
        """Close what our former run left and nobody has taken; the names."""
        names = sorted(self.given)
        if names:
            self.forget(*names)
        return names

    def _barrier(self) -> None:
        """Wait until all that was sent has been read (sd_notify_barrier): the other end closes what it gets then."""
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        try:
            sent = self._send("BARRIER=1", fds=[theirs])
        finally:
            os.close(theirs)
        with os.fdopen(ours, "rb"):
            waiting = select.poll()
            waiting.register(ours, 0)
            if sent and not waiting.poll(_TIMEOUT * 1000):
                self._warn(f"no answer in {_TIMEOUT:g} s")

    def _send(self, *lines: str, fds: list[int] | None = None) -> bool:
        if not self._address:
            return False
        text = "\n".join(" ".join(line.split("\n")) for line in lines)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(_TIMEOUT)
                sock.connect(self._address)
                socket.send_fds(sock, [text.encode()], fds or [])
        except OSError as error:
            self._warn(str(error))
            return False
        return True

    def _warn(self, seen: str) -> None:
        if not self._warned:
            self._warned = True
            log.warning("service manager cannot be notified", address=self._address.replace("\0", "@"), error=seen)
