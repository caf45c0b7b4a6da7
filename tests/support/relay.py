"""An Ethernet cable in user space that does harm on purpose: `impaired` starts it as a process of its own.

    relay.py FD FD SEED SECONDS      two TAPs without IFF_NO_PI's prefix and without a virtio-net header

So each read is one whole frame, cut to the MTU and with all its checksums, as a wire would carry it. A line of JSON on
stdin says what is done to frames from then on (see `Relay.harm`); the answer is one line of JSON, what has been done
since the line before. It ends when stdin does, and after SECONDS whatever happens. Standard library only.

Ills befall only overlayd's datagrams (UDP port 8285), so that ARP works and every count has one meaning. A frame
suffers at most one: none is corrupted and then lost.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import struct
import sys
from bisect import bisect
from collections import Counter
from itertools import accumulate

PORT = struct.pack("!H", 8285)
ETHERNET, UDP = 14, 17
BURST = 64  # frames of one direction before the other has its turn
PATIENCE = 0.005  # seconds that a frame is held back for others to overtake it
OVERTAKEN = 8  # frames, at most

ILLS = ("lose", "duplicate", "reorder", "corrupt", "forge", "unsum")
"""Lost; sent twice; overtaken by up to OVERTAKEN others; and one bit of the datagram flipped: `corrupt` leaves the
outer checksum alone, `forge` repairs it, `unsum` says that there is none (IPv6 does not allow that: it is repaired)."""


def datagram(frame: bytes) -> int:
    """Where the UDP header of an overlay datagram begins; 0 for any other frame."""
    if frame[12:14] == b"\x08\x00":
        at, protocol = ETHERNET + (frame[14] & 15) * 4, frame[23]
    elif frame[12:14] == b"\x86\xdd":
        at, protocol = ETHERNET + 40, frame[20]
    else:
        return 0
    return at if protocol == UDP and frame[at + 2 : at + 4] == PORT and len(frame) > at + 8 else 0


def inner_header(frame: bytes, inner: int) -> int:
    """Bytes of the inner IP header."""
    return (frame[inner] & 15) * 4 if frame[inner] >> 4 == 4 else 40


def flip(frame: bytes, udp: int, bit: int, ill: str) -> bytes:
    """The frame with this bit of the UDP payload flipped, and the outer checksum as `ill` says."""
    at, word = udp + 8 + bit // 8, (bit // 8) & ~1
    harmed = bytearray(frame)
    harmed[at] ^= 1 << bit % 8
    if ill == "unsum" and frame[12:14] == b"\x08\x00":
        harmed[udp + 6 : udp + 8] = b"\0\0"
    elif ill in ("forge", "unsum"):  # RFC 1624: HC' = ~(~HC + ~m + m')
        start = udp + 8 + word
        (before,) = struct.unpack("!H", frame[start : start + 2].ljust(2, b"\0"))
        (after,) = struct.unpack("!H", bytes(harmed[start : start + 2]).ljust(2, b"\0"))
        total = (~struct.unpack_from("!H", frame, udp + 6)[0] & 0xFFFF) + (~before & 0xFFFF) + after
        total = (total & 0xFFFF) + (total >> 16)
        total = (total & 0xFFFF) + (total >> 16)
        struct.pack_into("!H", harmed, udp + 6, (~total & 0xFFFF) or 0xFFFF)
    return bytes(harmed)


class Direction:
    """Frames from one TAP to the other."""

    def __init__(self, relay: Relay, source: int, target: int) -> None:
        self.relay, self.source, self.target = relay, source, target
        self.held: list[list[int | bytes]] = []

    def burst(self) -> None:
        chance, count, send = self.relay.random.random, self.relay.count, self._send
        certain = self.relay.thresholds[-1]
        longest = self.relay.longest
        for _ in range(BURST):
            try:
                frame = os.read(self.source, 65536)
            except BlockingIOError:
                return
            count["frames"] += 1
            if len(frame) > longest:
                count["too long"] += 1
            elif (drawn := chance()) >= certain or not (udp := datagram(frame)):
                send(frame)
            else:
                self._harm(frame, udp, ILLS[bisect(self.relay.thresholds, drawn)])

    def _harm(self, frame: bytes, udp: int, ill: str) -> None:
        count, rng = self.relay.count, self.relay.random
        if ill == "lose":
            pass
        elif ill == "duplicate":
            self._send(frame)
            self._send(frame)
        elif ill == "reorder":
            self.held.append([rng.randint(1, OVERTAKEN), frame])
        else:
            inner = udp + 8
            bit = rng.randrange(8 * (len(frame) - inner))
            part = "header" if bit < 8 * inner_header(frame, inner) else "body"
            count[f"{ill} {part}"] += 1
            self._send(flip(frame, udp, bit, ill))
        count[ill] += 1

    def _send(self, frame: bytes) -> None:
        self._write(frame)
        if self.held:
            for one in self.held:
                one[0] -= 1  # type: ignore[operator]
            self.release(all_=False)

    def release(self, all_: bool = True) -> None:
        """Send what has been held back; with `all_` also what nothing has overtaken yet."""
        due = [one for one in self.held if all_ or one[0] <= 0]  # type: ignore[operator]
        self.held = [] if all_ else [one for one in self.held if one[0] > 0]  # type: ignore[operator]
        for _, frame in due:
            self._write(frame)  # type: ignore[arg-type]

    def _write(self, frame: bytes) -> None:
        try:
            os.write(self.target, frame)
        except OSError as error:  # the interface is down, or full
            self.relay.count[f"refused {error.errno}"] += 1


class Relay:
    """Both directions."""

    def __init__(self, first: int, second: int, seed: int) -> None:
        self.random = random.Random(seed)
        self.count: Counter[str] = Counter()
        self.directions = {first: Direction(self, first, second), second: Direction(self, second, first)}
        self.harm({})

    def harm(self, chances: dict[str, float]) -> None:
        """Do this from now on: the chance of each of ILLS, and `longest`, the longest IP packet that passes."""
        self.longest = ETHERNET + int(chances.get("longest", 65536))
        self.thresholds = list(accumulate(chances.get(ill, 0.0) for ill in ILLS))

    def run(self) -> None:
        """Until stdin ends."""
        poll = select.epoll()
        for source in (*self.directions, 0):
            poll.register(source, select.EPOLLIN)
        while True:
            held = any(direction.held for direction in self.directions.values())
            ready = poll.poll(PATIENCE if held else None)
            for descriptor, _ in ready:
                if descriptor:
                    self.directions[descriptor].burst()
                elif not self.command():
                    return
            if not ready:
                for direction in self.directions.values():
                    direction.release()

    def command(self) -> bool:
        """Take a line from stdin and answer it; false at the end."""
        line = os.read(0, 4096)
        if line:
            self.harm(json.loads(line))
            os.write(1, (json.dumps(self.count) + "\n").encode())
            self.count.clear()
        return bool(line)


if __name__ == "__main__":
    first, second, seed, seconds = map(int, sys.argv[1:])
    signal.alarm(seconds)
    Relay(first, second, seed).run()
