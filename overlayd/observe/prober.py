"""Asks peers how they are and answers those that ask: sockets and timers around core/probing.py.

Plain sockets with a reader callback rather than asyncio-dgram: its queue of received datagrams has no bound, and this
port can be flooded by strangers; the padded questions need DF and EMSGSIZE, which belong to one send.

Nobody but a peer whose lease announces the port is asked, so that no flannel node ever sees a probe, and nobody but
such a peer, from that port, is answered.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import secrets
import socket
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from ipaddress import ip_address
from typing import Any

import structlog

from overlayd.core.address import Address, Family
from overlayd.core.forward import Peer
from overlayd.core.leases.lease import Lease, LeaseEvent
from overlayd.core.mtu import MAXIMUM
from overlayd.core.node import Node
from overlayd.core.probing import Ask, Patient, Probing, Target
from overlayd.core.settings.model import ProbeSettings
from overlayd.datapath.contract import path_mtu
from overlayd.system.errors import HostError
from overlayd.system.udp_socket import open_probe_socket
from overlayd.wire.probe import Kind, Probe, Sender, decode

log = structlog.get_logger()

_BURST = 64  # datagrams in one wake-up
_PAUSE = 0.02  # seconds at least between rounds, so that thousands of peers do not mean as many wake-ups
_WITNESSES = 16
_HEARING = 4.0  # seconds; after three the kernel gives up looking for a neighbour (arp(7): mcast_solicit, retrans_time)

BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Upper bounds of round-trip times that are counted, in seconds."""

_WORDS = {
    errno.ECONNREFUSED: "nothing takes probes there (overlayd is stopped or has probe.port 0), or a firewall rejects",
    errno.EHOSTUNREACH: "the network cannot reach it: the host or its link is down, or a firewall rejects",
    errno.ENETUNREACH: "this host has no route to it",
    errno.EPERM: "a firewall on this host lets no probe out",
    errno.ENETDOWN: "this host's underlay interface is down",
}


class Prober:
    """Probes of one daemon. Without a port it does nothing."""

    DROPS = ("unknown_peer", "other_port", "malformed", "unasked", "limited")
    """Why a datagram may be of no use."""

    def __init__(
        self,
        settings: ProbeSettings,
        me: Callable[[], Sender],
        modes: Mapping[int, str],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`me`: how this host describes itself. `modes`: names of the modes by their numbers in probes."""
        self._settings, self._me, self._modes, self._now = settings, me, modes, now
        self._probing = Probing(float(settings.interval), secrets.token_bytes, random.random, now())
        self._sockets: dict[Family, socket.socket] = {}
        self._locals: dict[Family, str] = {}
        self._node: Node | None = None
        self._hosts: dict[str, tuple[str, ...]] = {}
        """The addresses of each lease, by its key."""
        self._wake = asyncio.Event()
        self._buffer = bytearray(MAXIMUM)
        self._witnesses: dict[str, tuple[float, socket.socket]] = {}
        self.problem: str | None = None
        """Why nobody is probed, if so."""
        self.counts: Counter[str] = Counter()
        """sent, answers and answered (questions of others), since the start."""
        self.drops: Counter[str] = Counter()
        """Datagrams that were no use, by reason."""
        self.histogram = [0] * (len(BUCKETS) + 1)
        """How many round-trip times fell below each of BUCKETS and not the one before; the last: above all."""
        self.rtt_sum = 0.0
        """Seconds, of all of them."""

    # --- whom -------------------------------------------------------------------------------------------------------

    def follow(self, node: Node, peers: Iterable[Lease]) -> None:
        """These are the peers now, and this is the host."""
        self._node = node
        if not self._settings.port:
            return
        self._open(node)
        targets = {lease.key: list(self._targets(node, lease)) for lease in peers}
        self._hosts = {key: tuple(one.host for one in found) for key, found in targets.items() if found}
        everybody = [one for found in targets.values() for one in found]
        self._probing.follow(everybody, min(node.underlay.mtu, MAXIMUM), self._now())
        self._wake.set()

    def move(self, events: Sequence[LeaseEvent]) -> None:
        """What has changed in them since."""
        node = self._node
        if node is None or not self._settings.port:
            return
        for event in events:
            key = event.lease.key
            if key == node.lease.key:
                continue
            targets = [] if event.new is None else list(self._targets(node, event.new))
            hosts = tuple(one.host for one in targets)
            for host in self._hosts.pop(key, ()):
                if host not in hosts:
                    self._probing.remove(host)
            if hosts:
                self._hosts[key] = hosts
            for target in targets:
                self._probing.add(target, min(node.underlay.mtu, MAXIMUM), self._now())
        self._wake.set()

    @staticmethod
    def _targets(node: Node, lease: Lease) -> Iterator[Target]:
        if lease.probe_port is not None:
            for public in dict.fromkeys(public for _, public in node.reachable(lease)):
                yield Target(str(public), lease.probe_port, public.version, lease.key)

    # --- sockets ----------------------------------------------------------------------------------------------------

    def _open(self, node: Node) -> None:
        """Sockets on this host's addresses as they are now; what cannot be had is said, and tried again."""
        wanted = {
            underlay_family: str(own)
            for underlay_family in node.underlay_families
            if (own := node.underlay.local(underlay_family))
        }
        if wanted == self._locals:
            return
        self.close()
        try:
            for underlay_family, local in wanted.items():
                self._sockets[underlay_family] = sock = open_probe_socket(local, self._settings.port)
                asyncio.get_running_loop().add_reader(sock.fileno(), partial(self._readable, sock))
        except HostError as error:
            if self.problem is None:
                log.warning("peers are not probed", reason=str(error))
            self.close()
            self.problem = f"peers are not probed: {error}"
            return
        self._locals, self.problem = wanted, None

    def close(self) -> None:
        """Ask and answer no more."""
        for sock in self._sockets.values():
            with suppress(RuntimeError):
                asyncio.get_running_loop().remove_reader(sock.fileno())
            sock.close()
        for host in list(self._witnesses):
            self._dismiss(host)
        self._sockets, self._locals = {}, {}

    # --- ask --------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Without end."""
        while True:
            if self.problem is not None and self._node is not None:
                self._open(self._node)
            if self._sockets:
                self._round(self._now())
            pause = max(self._probing.pause(self._now()), _PAUSE) if self._sockets else float(self._settings.interval)
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()

    def _round(self, now: float) -> None:
        for patient, ask in self._probing.due(now):
            if patient.misses:
                self._question_witness(patient, now)
            self._send(patient, ask, now)
        self._tell()

    def _send(self, patient: Patient, ask: Ask, now: float) -> None:
        sock = self._sockets.get(ask.target.underlay_family)
        if sock is None:
            return
        question = Probe(Kind.QUESTION, self._me(), ask.nonce, ask.length).encode()
        try:
            sock.sendto(question, (ask.target.host, ask.target.port))
            self.counts["sent"] += 1
        except BlockingIOError:
            patient.skip()
        except OSError as error:
            number = error.errno or 0
            words = _WORDS.get(number, f"sending fails: {os.strerror(number)}")
            patient.refused(words, now, too_long=number == errno.EMSGSIZE)

    def _question_witness(self, patient: Patient, now: float) -> None:
        """Learn from the kernel why a peer is silent: only a connected socket is told of ICMP errors.

        It is of no other use: the peer takes nothing from its port. It is read when the peer is asked the next time.
        """
        host, target = patient.target.host, patient.target
        if host in self._witnesses:
            sent, old = self._witnesses[host]
            number = old.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if not number and now - sent < _HEARING:
                return
            patient.error = _WORDS.get(number, os.strerror(number)) if number else None
            self._dismiss(host)
        if len(self._witnesses) >= _WITNESSES:
            self._dismiss(next(iter(self._witnesses)))
        sock = socket.socket(socket.AF_INET if target.underlay_family == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            sock.connect((host, target.port))
            sock.send(b"")
        except OSError:
            sock.close()
        else:
            self._witnesses[host] = now, sock

    def _dismiss(self, host: str) -> None:
        if host in self._witnesses:
            self._witnesses.pop(host)[1].close()

    def _tell(self) -> None:
        """Log who came and who went."""
        turned, self._probing.turned = self._probing.turned, []
        for patient in turned:
            target = patient.target
            if patient.state == "unreachable":
                problem = self.problem_of(patient)
                log.warning("peer does not answer", lease=target.lease, address=target.host, reason=problem)
                continue
            rtts = patient.rtts
            rtt = f"{rtts[-1] * 1000:.3f}ms" if rtts else None
            log.info("peer answers again", lease=target.lease, address=target.host, rtt=rtt)

    # --- answer -----------------------------------------------------------------------------------------------------

    def _readable(self, sock: socket.socket) -> None:
        for _ in range(_BURST):
            try:
                length, sender = sock.recvfrom_into(self._buffer)
            except BlockingIOError:
                return
            except OSError:
                continue
            dropped = self._heard(sock, length, sender[0], sender[1])
            if dropped is not None:
                self.drops[dropped] += 1

    def _heard(self, sock: socket.socket, length: int, host: str, port: int) -> str | None:
        """Take one datagram; why it is no use, if so. Nothing that a stranger sends is looked at, or logged."""
        now = self._now()
        patient = self._probing.patients.get(host)
        if patient is None:
            return "unknown_peer"
        if port != patient.target.port:
            return "other_port"
        probe = decode(bytes(memoryview(self._buffer)[:length]))
        if probe is None:
            return "malformed"
        if probe.kind is Kind.ANSWER:
            rtt = self._probing.answered(host, probe, now)
            if rtt is None:
                return "unasked"
            self._count(rtt)
            self._dismiss(host)  # what it has heard is no longer true
            if patient.wait(float(self._settings.interval), now) == 0 or self._probing.turned:
                self._wake.set()
            return None
        if not self._probing.may_answer(patient, now):
            return "limited"
        if patient.state == "unreachable":
            self._wake.set()
        with suppress(OSError):  # a full buffer, a route that went: for the asker it is loss
            sock.sendto(probe.answer(self._me()).encode(), (host, port))
            self.counts["answered"] += 1
        return None

    def _count(self, rtt: float) -> None:
        self.counts["answers"] += 1
        self.histogram[bisect_left(BUCKETS, rtt)] += 1
        self.rtt_sum += rtt

    # --- what it has found ------------------------------------------------------------------------------------------

    def patients(self) -> Iterable[Patient]:
        """Every address that is probed."""
        return self._probing.patients.values()

    def of(self, key: str) -> list[Patient]:
        """The addresses of the lease with this key."""
        known = self._probing.patients
        return [known[host] for host in self._hosts.get(key, ()) if host in known]

    def problem_of(self, patient: Patient) -> str | None:
        """What keeps packets from that address, in words."""
        target = patient.target
        peer = Peer(target.host, target.port, target.underlay_family, target.lease)
        return patient.problem(self._now(), partial(path_mtu, peer))

    def problems(self) -> Iterator[tuple[str, str]]:
        """Of all addresses: the key of the peer's lease, and what is wrong."""
        for one in self.patients():
            if (one.state == "unreachable" or one.path.narrow) and (text := self.problem_of(one)) is not None:
                yield one.target.lease, text

    def narrow_paths(self) -> dict[Address, int]:
        """Underlay addresses that less gets to than the interface can send: how many bytes of IP packet do."""
        found = {one.target.host: one.path.found for one in self.patients() if one.path.narrow}
        return {ip_address(host): size for host, size in found.items() if size is not None}

    def silent(self) -> bool:
        """Whether there is somebody to ask and nobody answers."""
        states = {one.state for one in self.patients()}
        return states == {"unreachable"}

    def describe(self, key: str) -> list[dict[str, Any]]:
        """What is known of the addresses of a lease, as JSON; times in seconds, sizes in bytes."""
        return [self._describe(one) for one in self.of(key)]

    def mode_of(self, one: Patient) -> str | None:
        """The mode that the peer runs; None where that is unknown."""
        return self._modes.get(one.sender.mode) if one.sender is not None else None

    def _describe(self, one: Patient) -> dict[str, Any]:
        rtts, node = one.rtts, self._node
        assert node is not None
        problem = self.problem_of(one)
        notes = list(one.notes(self.mode_of(one), node.mode, node.overlay_mtu))
        return {
            "address": one.target.host,
            "state": one.state,
            "seconds": round(self._now() - one.since, 1),
            "rtt": {"last": rtts[-1], "min": min(rtts), "avg": sum(rtts) / len(rtts)} if rtts else None,
            "asked": one.asked,
            "loss": round(one.loss, 4),
            "path_mtu": one.path.found,
            "version": one.sender.release if one.sender else None,
            "mode": self.mode_of(one),
            "overlay_mtu": one.sender.overlay_mtu if one.sender else None,
            "problem": problem,
            "notes": notes,
        }
