"""TUN devices (linux/if_tun.h; Documentation/networking/tuntap.rst).

The device is persistent: it, its address and its routes outlive the daemon, so that a restart is a pause and no more.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from contextlib import suppress

from overlayd.system.errors import HostError, InUseError

_DEVICE = "/dev/net/tun"
_TUNSETIFF = 0x400454CA
_TUNGETIFF = 0x800454D2
_TUNSETPERSIST = 0x400454CB
_IFF_TUN = 0x0001
_TUNSETOFFLOAD = 0x400454D0
_IFF_NO_PI = 0x1000  # no 4-byte prefix: a read gives the IP packet and nothing else
_IFF_VNET_HDR = 0x4000  # but a struct virtio_net_hdr before each, where that is asked for
_KIND = 0x000F | _IFF_NO_PI | 0x0100 | _IFF_VNET_HDR  # what has to be as we set it; 0x0100 is IFF_MULTI_QUEUE
_IFREQ = struct.Struct("16sH22x")


class Tun:
    """An attached TUN: `fileno()` is non-blocking, one read or write is one IP packet. Close it to detach."""

    def __init__(self, name: str, vnet_header: bool = False, kept: int | None = None) -> None:
        """Attach to the device, making it where there is none, or go on with an open file that was kept. Raises
        HostError; a file that was kept and is not this device's is closed.

        With `vnet_header` each packet has a virtio-net header before it, and whoever reads may turn offloads on.
        """
        self.name = name
        if kept is not None:
            self._holder, self._fd = None, _adopt(kept, name, vnet_header)
            return
        try:
            self._holder, self._fd = _open(name, _IFF_VNET_HDR if vnet_header else 0)
            # Offloads belong to the device and outlive their reader; the header belongs to the open file. Whoever came
            # before may have been killed: without this, a reader that knows no superpackets would be given some.
            fcntl.ioctl(self._fd, _TUNSETOFFLOAD, 0)
        except OSError as error:
            raise HostError(_explain(name, error)) from None
        os.set_blocking(self._fd, False)

    def fileno(self) -> int:
        """The file descriptor, for the event loop and the engine."""
        return self._fd

    @property
    def attached(self) -> bool:
        """Whether there is a device behind the open file; it may have been deleted."""
        try:
            fcntl.ioctl(self._fd, _TUNGETIFF, bytes(_IFREQ.size))
        except OSError:  # EBADFD
            return False
        return True

    def persist(self, on: bool) -> None:
        """Whether the device stays when nobody is attached."""
        fcntl.ioctl(self._fd, _TUNSETPERSIST, int(on))

    def close(self) -> None:
        """Detach. Safe to call twice."""
        if self._fd < 0:
            return
        if self._holder is not None:
            with suppress(OSError):
                self._holder.close()
        else:
            os.close(self._fd)
        self._fd = -1


def create(name: str) -> None:
    """Make a persistent TUN that nobody is attached to. Raises HostError."""
    tun = Tun(name)
    tun.persist(True)
    tun.close()


def refusal(name: str, *, attached: bool) -> HostError | None:
    """Why nobody can attach to a device of this name, or make it; None if nothing is known against it. `attached`:
    whether the device is there, and somebody reads it."""
    try:
        os.close(os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC))  # makes nothing: it has no name yet
    except OSError as error:
        return HostError(_explain(name, error))
    return InUseError(_explain(name, OSError(errno.EBUSY, ""))) if attached else None


class _Holder:
    """What python-pytun gives us, as far as we use it."""

    def close(self) -> None: ...

    def fileno(self) -> int:
        return -1


def _open(name: str, flags: int) -> tuple[_Holder | None, int]:
    try:
        import pytun
    except ImportError:  # no wheel for this machine
        fd = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, _TUNSETIFF, _IFREQ.pack(name.encode(), _IFF_TUN | _IFF_NO_PI | flags))
        except OSError:
            os.close(fd)
            raise
        return None, fd
    try:
        device = pytun.TunTapDevice(name=name, flags=pytun.IFF_TUN | pytun.IFF_NO_PI | flags)
    except pytun.Error as error:  # an OSError of its own making: errno and text are its two arguments
        number = error.args[0] if error.args and isinstance(error.args[0], int) else 0
        raise OSError(number, str(error)) from None
    os.set_inheritable(device.fileno(), False)
    return device, device.fileno()


def _adopt(fd: int, name: str, vnet_header: bool) -> int:
    """The file, which is attached to the device as we would attach it; closed, and HostError, if it is not."""
    wanted = _IFF_TUN | _IFF_NO_PI | (_IFF_VNET_HDR if vnet_header else 0)
    try:
        found, flags = _IFREQ.unpack(fcntl.ioctl(fd, _TUNGETIFF, bytes(_IFREQ.size)))
    except OSError as error:  # EBADFD: the device was deleted; ENOTTY: no TUN at all
        seen = os.strerror(error.errno or 0)
    else:
        device = found.rstrip(b"\0").decode(errors="replace")
        if (device, flags & _KIND) == (name, wanted):
            os.set_blocking(fd, False)
            return fd
        seen = f"it is {device} with flags {flags & _KIND:#06x}, not {wanted:#06x}"
    os.close(fd)
    raise HostError(f"TUN {name}: the file that was kept is not attached to it: {seen}")


def _explain(name: str, error: OSError) -> str:
    hints = {
        errno.EPERM: "overlayd needs CAP_NET_ADMIN (run it as root or from its unit)",
        errno.EACCES: f"no access to {_DEVICE}; on Debian it is mode 0666",
        errno.ENOENT: f"there is no {_DEVICE}: load the tun module (modprobe tun), or let the container have it",
        errno.ENODEV: f"there is no driver behind {_DEVICE}: load the tun module (modprobe tun)",
        errno.EBUSY: "another process is attached to it: is another overlayd running?",
        errno.EINVAL: "a device of that name and another kind exists; remove it",
    }
    hint = hints.get(error.errno or 0, "see the kernel's message")
    return f"TUN {name}: {os.strerror(error.errno or 0)}; {hint}"
