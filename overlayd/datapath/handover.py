"""Packets go on while a start imports, reads and compares: the former run's engine, made anew from what it left.

    run        the engine's recipe (its table, how its TUN was opened, ...) is kept in a file in memory, beside the TUN
               and the sockets, by the service manager
    killed     packets wait in the TUN and in the sockets
    next run   before anything that takes long: a native engine from the recipe, on those files, in a thread of its own
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
from typing import Any

from overlayd import __version__

TUN, RECIPE = "tun", "engine"
SOCKETS = {4: "udp4", 6: "udp6"}
"""The names under which files are kept."""

_POLLED = 0.0005  # seconds after which an import lets packets have their turn; Python's default is 0.005
_CHECK = 4  # bytes of CRC-32 before the recipe: one that was being written when the end came is none

Recipe = tuple[int, int, bool, bool, bool, int, Any]
"""run_segments and poll_us; vnet_header, join_tcp and join_udp; the MTU, and what makes a native.Table a whole one."""


class Shelf:
    """The file in memory that holds a recipe."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("overlayd-engine", os.MFD_CLOEXEC)

    def write(self, recipe: Recipe) -> None:
        """Replace what is in it."""
        data = marshal.dumps((__version__, sys.version, recipe))
        os.pwrite(self.fd, zlib.crc32(data).to_bytes(_CHECK, "big") + data, 0)
        os.truncate(self.fd, _CHECK + len(data))

    def close(self) -> None:
        """Let go of it; who else has it open keeps it."""
        os.close(self.fd)


def read(fd: int) -> Recipe | None:
    """What is in such a file; None for one that was not finished, or that another version wrote."""
    try:
        data = os.pread(fd, os.fstat(fd).st_size, 0)
        if zlib.crc32(data[_CHECK:]).to_bytes(_CHECK, "big") != data[:_CHECK]:
            return None
        version, python, recipe = marshal.loads(data[_CHECK:])  # noqa: S302  # our own, by its version and its sum
    except (OSError, ValueError, TypeError, EOFError):
        return None
    return recipe if (version, python) == (__version__, sys.version) else None


class StandIn:
    """An engine in a thread, until `halt`."""

    def __init__(self, recipe: Recipe, files: Mapping[str, int]) -> None:
        """On these open files, which stay the caller's. Raises ImportError and ValueError."""
        from overlayd.datapath.native import _native as native

        segments, poll_us, vnet_header, join_tcp, join_udp, mtu, values = recipe
        self._sockets = {files[name]: family for family, name in SOCKETS.items() if name in files}
        self._tun = files[TUN]
        self._engine = native.Engine(files.get("udp4", -1), files.get("udp6", -1), segments, poll_us)
        self._engine.replace_table(native.Table(mtu).changed(*values))
        self._engine.replace_tun(self._tun, vnet_header, join_tcp, join_udp)
        self._wake = os.eventfd(0)
        sys.setswitchinterval(_POLLED)
        self._thread: threading.Thread | None = threading.Thread(target=self._carry, name="stand-in", daemon=True)
        self._thread.start()

    def _carry(self) -> None:
        look = select.poll()
        for fd in (self._wake, self._tun, *self._sockets):
            look.register(fd, select.POLLIN)
        while True:
            for fd, _ in look.poll():
                if fd == self._wake:
                    return
                if fd in self._sockets:
                    self._engine.inbound(self._sockets[fd])
                elif self._engine.outbound() < 0:  # the device is gone
                    look.unregister(fd)

    def halt(self) -> None:
        """Return when it has carried its last burst. Safe to call twice."""
        if self._thread is not None:
            os.eventfd_write(self._wake, 1)
            self._thread.join()
            self._thread = None
            os.close(self._wake)


def stand_in(files: Mapping[str, int]) -> StandIn | None:
    """One on the files that were kept; None where they do not come to an engine."""
    if RECIPE not in files or TUN not in files or not files.keys() & SOCKETS.values():
        return None
    recipe = read(files[RECIPE])
    if recipe is None:
        return None
    try:
        return StandIn(recipe, files)
    except (ImportError, ValueError, TypeError):
        return None
