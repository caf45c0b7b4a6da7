"""Signs that hosts are configured differently (port, VNI, public IP, lease table, NAT), which no lease shows.

1. unknown senders    what they send is dropped here; those that keep sending are named
2. silent peers       much is sent to them and nothing comes back; of those that are probed, probes tell more

Polled every second; what is remembered is bounded, whoever sends how much.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from overlayd.backend.base import Backend
from overlayd.core.settings.section import Section
from overlayd.datapath.contract import Traffic

PERIOD = 5.0
"""Seconds over which a peer's traffic is compared."""
_SENDERS = 8  # addresses that are remembered
_PERSISTENT = 3  # polls that found the same sender: a stray datagram is no sign
_FORGET_AFTER = 30.0  # seconds without a datagram
_SENT = 3  # packets in a period to which no answer at all is a sign


class MismatchDetector:
    """Of one daemon."""

    def __init__(self, is_probed: Callable[[str], bool]) -> None:
        """`is_probed`: whether the peer with the lease of this key is."""
        self._is_probed = is_probed
        self._senders: dict[str, tuple[int, float]] = {}
        """Polls that found it, and the last of them."""
        self._traffic: Mapping[str, Traffic] = {}
        self._due = 0.0
        self.silent: dict[str, int] = {}
        """Packets sent in the last period to peers of which none was received, by the lease's key."""

    def poll(self, backend: Backend, now: float) -> None:
        """Look once. `now`: seconds, from any steady clock."""
        data_path = backend.data_path
        self._senders = {host: one for host, one in self._senders.items() if now - one[1] < _FORGET_AFTER}
        if data_path is None:
            self._compare({})
            return
        host = data_path.unknown_sender()
        if host is not None and (host in self._senders or len(self._senders) < _SENDERS):
            self._senders[host] = self._senders.get(host, (0, now))[0] + 1, now
        if now >= self._due and (counters := data_path.counters()) is not None:
            self._due = now + PERIOD
            self._compare(counters.peers)

    def _compare(self, traffic: Mapping[str, Traffic]) -> None:
        before, self._traffic, self.silent = self._traffic, traffic, {}
        for key, one in traffic.items():
            was = before.get(key)
            if was is None or one.rx_packets != was.rx_packets or one.tx_packets - was.tx_packets < _SENT:
                continue
            if not self._is_probed(key):
                self.silent[key] = one.tx_packets - was.tx_packets

    def problems(self) -> Iterator[str]:
        """The unknown senders, in words."""
        persistent = sorted(host for host, (polls, _) in self._senders.items() if polls >= _PERSISTENT)
        if persistent:
            yield (
                f"packets from {', '.join(persistent)} are dropped: no lease has that public IP; add the host, or"
                " have its lease name the address that it sends from (NAT, several addresses, flanneld's -public-ip)"
            )

    def silent_peers(self, section: Section | None) -> Iterator[tuple[str, str]]:
        """The lease's key, and what is wrong in words. `section`: this host's settings of the mode."""
        port = getattr(section, "port", None)
        for key, sent in self.silent.items():
            yield (
                key,
                f"{sent} packets were sent there in {PERIOD:.0f} s and none came back: its host may use another port"
                f" than {port} (restart flanneld after a change: it reads the configuration only then), or a firewall"
                " drops them",
            )
