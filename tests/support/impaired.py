"""Hosts on a cable that does harm: `with impaired_hosts() as (a, b, wire)`.

    h1c1 -- br0 [h1] eth0 ==== relay ==== eth0 [h2] br0 -- h2c1

Each eth0 is a TAP without a virtio-net header, so that the kernel has to cut every superpacket and to fill in every
checksum before a frame gets to the relay, a process of its own (`relay`). The rest is the lab as it is everywhere.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from overlayd.lab import Host, hosts
from overlayd.lab.namespace import within

_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000  # <linux/if_tun.h>
_TXQUEUELEN = 20000  # frames: a wire loses none of its own accord
LIFETIME = 1200
"""Seconds after which the relay ends in any case."""


class Wire:
    """The cable between two hosts."""

    def __init__(self, relay: subprocess.Popen[bytes]) -> None:
        self._relay = relay

    def harm(self, **chances: float) -> Counter[str]:
        """Do this to datagrams from now on (`relay.ILLS`, each with its chance; `longest`); what was done before."""
        assert self._relay.stdin is not None
        assert self._relay.stdout is not None
        self._relay.stdin.write(json.dumps(chances).encode() + b"\n")
        self._relay.stdin.flush()
        answer = self._relay.stdout.readline()
        assert answer, f"the relay has ended: {self._relay.wait()}"
        return Counter(json.loads(answer))

    @contextlib.contextmanager
    def harming(self, **chances: float) -> Iterator[Counter[str]]:
        """Do this as long as the block; the counter is filled at its end."""
        done: Counter[str] = Counter()
        self.harm(**chances)
        try:
            yield done
        finally:
            done.update(self.harm())


@contextlib.contextmanager
def impaired_hosts(seed: int = 1, **spec: Any) -> Iterator[tuple[Host, Host, Wire]]:
    """Two hosts of a lab (the keywords are LabSpec's) on such a cable, which does no harm until it is told to."""
    with hosts(2, start=False, **spec) as (a, b), contextlib.ExitStack() as stack:
        taps = [_replace_eth0(host) for host in (a, b)]
        try:
            relay = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("relay.py")), *map(str, [*taps, seed, LIFETIME])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=taps,
            )
        finally:
            for tap in taps:
                os.close(tap)
        stack.callback(_end, relay)
        a.lab.start()
        yield a, b, Wire(relay)


def _end(relay: subprocess.Popen[bytes]) -> None:
    relay.kill()
    relay.wait()
    for stream in (relay.stdin, relay.stdout):
        if stream is not None:
            stream.close()


def _replace_eth0(host: Host) -> int:
    """Put a TAP where the cable's end was; its descriptor."""
    if host.name == "h1":
        host.ip("link delete eth0")  # and with it the other end
    tap = within(host.namespace, _open_tap)
    host.ip(
        f"link set eth0 mtu {host.lab.spec.underlay_mtu} txqueuelen {_TXQUEUELEN} up",
        *(f"addr add {one} dev eth0{' nodad' if one.version == 6 else ''}" for one in host.plan.underlay),
    )
    return tap


def _open_tap() -> int:
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", b"eth0", _IFF_TAP | _IFF_NO_PI))
    except OSError:
        os.close(tap)
        raise
    return tap
