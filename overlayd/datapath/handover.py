"""Handover: packets keep moving while a start imports, reads and compares, on the engine that the previous run left.

    run        the engine's state (its table, how its TUN was opened, ...) is kept in a memory file, beside the TUN and
               the sockets, in the service manager's fd store
    killed     packets wait in the TUN and in the sockets
    next run   before anything slow: a native engine is made from that state, on those files, in a thread of its own
    ready      the thread ends between two bursts, and the daemon's own engine goes on

Python and its libraries take some 300 ms to import, this module a few. Nothing heavy may be imported here.
"""

from __future__ import annotations

import marshal
import os
import select
import sys
import threading
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from overlayd import __version__

TUN, STATE = "tun", "engine"
SOCKETS = {4: "udp4", 6: "udp6"}
"""The names of the files in the fd store."""

_SWITCH_INTERVAL = 0.0005  # seconds after which an import yields to packets; Python's default is 0.005
_CHECK = 4  # bytes of CRC-32 before the state: a file that was being written when the end came is ignored


class HandoverState(NamedTuple):
    """Plain values from which the next run makes the same engine."""

    run_segments: int
    poll_us: int
    vnet_header: bool
    coalesce_tcp: bool
    coalesce_udp: bool
    mtu: int
    table: Any
    """The arguments of native.Table.changed that make an empty table the whole one."""


class HandoverFile:
    """The memory file that holds a HandoverState."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("overlayd-engine", os.MFD_CLOEXEC)

    def write(self, state: HandoverState) -> None:
        """Replace its contents."""
        data = marshal.dumps((__version__, sys.version, tuple(state)))
        os.pwrite(self.fd, zlib.crc32(data).to_bytes(_CHECK, "big") + data, 0)
        os.truncate(self.fd, _CHECK + len(data))

    def close(self) -> None:
        """Close it here; it lives on where else it is open."""
        os.close(self.fd)


def read(fd: int) -> HandoverState | None:
    """The state in such a file; None if it is incomplete, or another version wrote it."""
    try:
        data = os.pread(fd, os.fstat(fd).st_size, 0)
        if zlib.crc32(data[_CHECK:]).to_bytes(_CHECK, "big") != data[:_CHECK]:
            return None
        version, python, values = marshal.loads(data[_CHECK:])  # noqa: S302  # our own: version and checksum match
        return HandoverState(*values) if (version, python) == (__version__, sys.version) else None
    except (OSError, ValueError, TypeError, EOFError):
        return None


class Handover:
    """The previous run's engine in a thread, until `halt`."""

    def __init__(self, state: HandoverState, files: Mapping[str, int]) -> None:
        """On these open files, which stay the caller's. Raises ImportError and ValueError."""
        from overlayd.datapath.native import _native as native

        self._sockets = {files[name]: family for family, name in SOCKETS.items() if name in files}
        self._tun = files[TUN]
        self._engine = native.Engine(files.get("udp4", -1), files.get("udp6", -1), state.run_segments, state.poll_us)
        self._engine.replace_table(native.Table(state.mtu).changed(*state.table))
        self._engine.replace_tun(self._tun, state.vnet_header, state.coalesce_tcp, state.coalesce_udp)
        self._wake = os.eventfd(0)
        sys.setswitchinterval(_SWITCH_INTERVAL)
        self._thread: threading.Thread | None = threading.Thread(target=self._run, name="handover", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        poll = select.poll()
        for fd in (self._wake, self._tun, *self._sockets):
            poll.register(fd, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == self._wake:
                    return
                if fd in self._sockets:
                    self._engine.inbound(self._sockets[fd])
                elif self._engine.outbound() < 0:  # the device is gone
                    poll.unregister(fd)

    def halt(self) -> None:
        """Return when the last burst is done. Safe to call twice."""
        if self._thread is not None:
            os.eventfd_write(self._wake, 1)
            self._thread.join()
            self._thread = None
            os.close(self._wake)


def take_over(files: Mapping[str, int]) -> Handover | None:
    """The previous run's engine on the files from the fd store; None if they are not enough for one."""
    if STATE not in files or TUN not in files or not files.keys() & SOCKETS.values():
        return None
    state = read(files[STATE])
    if state is None:
        return None
    try:
        return Handover(state, files)
    except (ImportError, ValueError, TypeError):
        return None
