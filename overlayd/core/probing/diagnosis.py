"""What is known of a probed address, in words for an operator."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from overlayd.core.probing.target import TIMEOUT, WINDOW, ProbeTarget

_NOTABLE_LOSS = 0.1  # of the window
_ASKED_RECENTLY = 30.0  # seconds since its own last question, within which a silent peer's packets do reach us


def problem(target: ProbeTarget, now: float, kernel_mtu: Callable[[], int]) -> str | None:
    """What keeps packets from the peer. `kernel_mtu`: the path MTU that the kernel knows."""
    host = target.endpoint.host
    if target.state == "unreachable":
        last = target.last_answer
        since = "has never answered" if last is None else f"has not answered for {now - last:.0f} s"
        return f"{host} {since}: {_reason(target, now)}"
    if target.path.narrow and (known := kernel_mtu()) > (target.path.mtu or 0):
        return (
            f"path MTU black hole: packets of more than {target.path.mtu} bytes to {host} are lost and no ICMP error"
            f" comes back (the kernel assumes {known}): overlayd tells the containers; let ICMP pass for other traffic"
        )
    return None


def _reason(target: ProbeTarget, now: float) -> str:
    if target.error is not None:
        return target.error
    asked = target.last_question
    if asked is not None and now - asked < _ASKED_RECENTLY and asked > (target.last_answer or 0.0) + TIMEOUT:
        return "it asks us, so packets arrive from there: its answers or our questions are lost on the way"
    return f"its host or its overlayd is down, or UDP port {target.endpoint.port} is filtered on the way"


def notes(target: ProbeTarget, its_mode: str | None, mode: str, overlay_mtu: int) -> Iterator[str]:
    """What is unusual about a peer that answers; `mode` and `overlay_mtu` are this host's."""
    if target.state != "reachable" or target.sender is None:
        return
    if target.path.narrow:
        yield f"the path MTU is {target.path.mtu} bytes"
    if target.asked >= WINDOW // 2 and target.loss >= _NOTABLE_LOSS:
        yield f"{target.loss:.0%} of the probes are lost"
    if its_mode != mode:
        yield f"its mode is {its_mode or 'unknown'}, this host's {mode}"
    if target.sender.overlay_mtu not in (0, overlay_mtu):
        yield f"its overlay MTU is {target.sender.overlay_mtu}, this host's {overlay_mtu}"
    if not target.sender.well:
        yield "it reports a fault of its own (run overlayctl status there)"
