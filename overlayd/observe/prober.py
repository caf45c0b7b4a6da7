"""Probes peers and answers their probes, around the schedule of core/probing.

1. replace_peers, apply   whom to probe: peers whose leases announce a probe port, so never a flannel node
2. run                    sends the questions that are due
3. _receive               answers update their target; questions are answered, to peers and from their probe port only
4. describe, problems     the results, for status, health and metrics
"""

from __future__ import annotations

import asyncio
import errno
import random
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from ipaddress import ip_address
from typing import Any

from overlayd.core.address import Address
from overlayd.core.forward import Peer
from overlayd.core.leases.lease import Lease
from overlayd.core.leases.table import LeaseEvent
from overlayd.core.node import Node
from overlayd.core.probing import diagnosis
from overlayd.core.probing.schedule import ProbeSchedule
from overlayd.core.probing.target import ProbeTarget, Question
from overlayd.core.settings.model import ProbeSettings
from overlayd.datapath.contract import path_mtu
from overlayd.log import log
from overlayd.observe.probe_counters import ProbeCounters
from overlayd.observe.probe_sockets import ErrorSockets, ProbeSockets, error_text
from overlayd.observe.probed_peers import ProbedPeers
from overlayd.system.errors import HostError
from overlayd.wire.probe import Probe, ProbeKind, Sender, decode

_ROUND_INTERVAL = 0.02  # seconds at least between rounds, so that thousands of peers do not mean as many wake-ups


class Prober:
    """Probes of one daemon. Without a port it does nothing."""

    def __init__(
        self,
        settings: ProbeSettings,
        sender: Callable[[], Sender],
        modes: Mapping[int, str],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`sender`: this host, as it describes itself. `modes`: names of the modes by their numbers in probes."""
        self._settings, self._sender, self._modes, self._now = settings, sender, modes, now
        self._interval = float(settings.interval)
        self._schedule = ProbeSchedule(self._interval, secrets.token_bytes, random.random, now())
        self._sockets = ProbeSockets(settings.port, self._receive)
        self._errors = ErrorSockets()
        self._node: Node | None = None
        self._peers = ProbedPeers(self._schedule)
        self._wake = asyncio.Event()
        self.problem: str | None = None
        """Why nobody is probed, if so."""
        self.counters = ProbeCounters()

    # --- whom -------------------------------------------------------------------------------------------------------

    def replace_peers(self, node: Node, peers: Iterable[Lease]) -> None:
        """All peers as they are now, and this host."""
        self._node = node
        if not self._settings.port:
            return
        self._open(node)
        self._peers.replace(node, peers, self._now())
        self._wake.set()

    def apply(self, events: Iterable[LeaseEvent]) -> None:
        """What has changed in them since."""
        if self._node is not None and self._settings.port:
            self._peers.apply(self._node, events, self._now())
            self._wake.set()

    def _open(self, node: Node) -> None:
        """Sockets on this host's addresses as they are now; a failure is reported, and tried again by `run`."""
        families = node.underlay_families
        try:
            self._sockets.open({family: str(own) for family in families if (own := node.underlay.local(family))})
        except HostError as error:
            if self.problem is None:
                log.warning("peers are not probed", reason=str(error))
            self.problem = f"peers are not probed: {error}"
        else:
            self.problem = None

    def close(self) -> None:
        """Stop asking and answering."""
        self._sockets.close()
        self._errors.close()

    # --- ask --------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Probe without end."""
        while True:
            if self.problem is not None and self._node is not None:
                self._open(self._node)
            if self._sockets:
                self._round(self._now())
            pause = max(self._schedule.pause(self._now()), _ROUND_INTERVAL) if self._sockets else self._interval
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()

    def retry(self) -> None:
        """Probe unreachable peers at once: the underlay is usable again."""
        self._schedule.retry(self._now())
        self._wake.set()

    def _round(self, now: float) -> None:
        for target, question in self._schedule.due(now):
            if target.unanswered:
                self._poll_error(target, now)
            self._send(target, question, now)
        self._log_changes()

    def _send(self, target: ProbeTarget, question: Question, now: float) -> None:
        endpoint = question.endpoint
        payload = Probe(ProbeKind.QUESTION, self._sender(), question.nonce, question.length).encode()
        try:
            self._sockets.send(payload, endpoint.host, endpoint.port, endpoint.underlay_family)
            self.counters.events["sent"] += 1
        except BlockingIOError:
            target.not_sent()
        except OSError as error:
            number = error.errno or 0
            target.refused(error_text(number), now, too_long=number == errno.EMSGSIZE)

    def _poll_error(self, target: ProbeTarget, now: float) -> None:
        number = self._errors.poll(target.endpoint, now)
        if number is not None:
            target.error = error_text(number) if number else None

    def _log_changes(self) -> None:
        changed, self._schedule.changed = self._schedule.changed, []
        for target in changed:
            where = {"lease": target.endpoint.lease, "address": target.endpoint.host}
            if target.state == "unreachable":
                log.warning("peer does not answer", **where, reason=self._problem(target))
            else:
                rtts = target.rtts
                log.info("peer answers again", **where, rtt=f"{rtts[-1] * 1000:.3f}ms" if rtts else None)

    # --- receive ----------------------------------------------------------------------------------------------------

    def _receive(self, payload: memoryview, host: str, port: int) -> None:
        """One datagram. What comes from an unknown host is neither parsed nor logged."""
        target = self._schedule.targets.get(host)
        if target is None:
            reason: str | None = "unknown_peer"
        elif port != target.endpoint.port:
            reason = "other_port" if payload else None  # see ErrorSockets
        elif (probe := decode(bytes(payload))) is None:
            reason = "malformed"
        elif probe.kind is ProbeKind.ANSWER:
            reason = self._receive_answer(target, probe)
        else:
            reason = self._answer(target, probe)
        if reason is not None:
            self.counters.drops[reason] += 1

    def _receive_answer(self, target: ProbeTarget, probe: Probe) -> str | None:
        """Why it is ignored, if so."""
        now = self._now()
        rtt = self._schedule.receive(target.endpoint.host, probe, now)
        if rtt is None:
            return "unsolicited"
        self.counters.record(rtt)
        self._errors.discard(target.endpoint.host)  # out of date
        if target.seconds_to_next(self._interval, now) == 0 or self._schedule.changed:
            self._wake.set()
        return None

    def _answer(self, target: ProbeTarget, question: Probe) -> str | None:
        """Why the question is not answered, if so."""
        if not self._schedule.may_answer(target, self._now()):
            return "limited"
        if target.state == "unreachable":
            self._wake.set()
        endpoint = target.endpoint
        with suppress(OSError):  # a full buffer, a lost route: loss, as the peer sees it
            answer = question.answer(self._sender()).encode()
            self._sockets.send(answer, endpoint.host, endpoint.port, endpoint.underlay_family)
            self.counters.events["answered"] += 1
        return None

    # --- results ----------------------------------------------------------------------------------------------------

    def targets(self) -> Iterable[ProbeTarget]:
        """Every address that is probed."""
        return self._schedule.targets.values()

    def targets_of(self, key: str) -> list[ProbeTarget]:
        """Those of the lease with this key."""
        return self._peers.targets_of(key)

    def _problem(self, target: ProbeTarget) -> str | None:
        one = target.endpoint
        peer = Peer(one.host, one.port, one.underlay_family, one.lease)
        return diagnosis.problem(target, self._now(), partial(path_mtu, peer))

    def problems(self) -> Iterator[tuple[str, str]]:
        """Of all addresses: the key of the peer's lease, and what is wrong."""
        for one in self.targets():
            if (one.state == "unreachable" or one.path.narrow) and (text := self._problem(one)) is not None:
                yield one.endpoint.lease, text

    def narrow_paths(self) -> dict[Address, int]:
        """Underlay addresses whose path MTU is less than the interface's: bytes of IP packet."""
        found = {one.endpoint.host: one.path.mtu for one in self.targets() if one.path.narrow}
        return {ip_address(host): size for host, size in found.items() if size is not None}

    def is_probed(self, key: str) -> bool:
        """Whether the peer with the lease of this key is."""
        return bool(self.targets_of(key))

    def silent(self) -> bool:
        """Whether all peers that packets go to are probed, and none of them answers."""
        return self._peers.silent()

    def describe(self, key: str) -> list[dict[str, Any]]:
        """What is known of the addresses of a lease, as JSON; times in seconds, sizes in bytes."""
        return [self._describe(one) for one in self.targets_of(key)]

    def mode_of(self, one: ProbeTarget) -> str | None:
        """The mode that the peer runs; None if unknown."""
        return self._modes.get(one.sender.mode) if one.sender is not None else None

    def _describe(self, one: ProbeTarget) -> dict[str, Any]:
        rtts, node, sender = one.rtts, self._node, one.sender
        assert node is not None
        return {
            "address": one.endpoint.host,
            "state": one.state,
            "seconds": round(self._now() - one.since, 1),
            "rtt": {"last": rtts[-1], "min": min(rtts), "avg": sum(rtts) / len(rtts)} if rtts else None,
            "asked": one.asked,
            "loss": round(one.loss, 4),
            "path_mtu": one.path.mtu,
            "version": sender.release if sender else None,
            "mode": self.mode_of(one),
            "overlay_mtu": sender.overlay_mtu if sender else None,
            "problem": self._problem(one),
            "notes": list(diagnosis.notes(one, self.mode_of(one), node.mode, node.overlay_mtu)),
        }
