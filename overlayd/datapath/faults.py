"""What keeps an engine's packets from moving, in words."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from overlayd.datapath.contract import Engine
from overlayd.datapath.stall import STALLED_AFTER, Refusals, StallDetector


class FaultDetector:
    """Asked at regular intervals; `device` and `port` are for the words."""

    def __init__(self, device: str, port: int) -> None:
        self._device, self._port = device, port
        self._stalls = StallDetector()
        self._outbound, self._inbound = Refusals(), Refusals()

    def poll(self, engine: Engine, waiting: Collection[str], now: float) -> Iterator[str]:
        """The faults now. `waiting`: as in `StallDetector.update`; `now`: seconds, from any steady clock."""
        stalled = self._stalls.update(waiting, engine.progress, now)
        if (seconds := stalled.get("outbound", 0.0)) >= STALLED_AFTER:
            yield f"{self._device}: packets wait on the TUN, and the engine has read none for {seconds:.0f} s"
        if (seconds := stalled.get("inbound", 0.0)) >= STALLED_AFTER:
            yield f"UDP port {self._port}: datagrams wait, none has been read for {seconds:.0f} s"
        if self._outbound.due(now):
            counters = engine.counters()
            full, error = (counters.tx_drops.get(reason, 0) for reason in ("send_buffer_full", "send_error"))
            self._outbound.update(counters.total.tx_packets, full + error, now)
            self._inbound.update(counters.total.rx_packets, counters.rx_drops.get("tun_error", 0), now)
        if refused := self._outbound.verdict:
            yield f"underlay: it refused the last {refused} datagrams and took none (route, interface, firewall?)"
        if refused := self._inbound.verdict:
            yield f"{self._device}: the kernel refused the last {refused} packets from peers and took none"
