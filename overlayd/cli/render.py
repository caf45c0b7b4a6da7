"""What several commands show in the same words: addresses, amounts, durations, what is wrong with a peer."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from overlayd.cli.terminal import Text

Json = Mapping[str, Any]


def invocation() -> str:
    """How the person who runs this command would type it again."""
    typed = sys.argv[0] if Path(sys.argv[0]).name == "overlayctl" else "overlayctl"
    return f"sudo {typed}" if "SUDO_USER" in os.environ else typed


def subnets(lease: Json) -> str:
    """The subnets of a lease."""
    return ", ".join(lease[key] for key in ("subnet", "ipv6_subnet") if lease[key])


def publics(lease: Json) -> str:
    """The public IPs of a lease."""
    return ", ".join(lease[key] for key in ("public_ip", "public_ipv6") if lease[key])


def problems(peer: Json) -> list[str]:
    """What is wrong with a peer."""
    return [text for text in (peer["problem"], *(probe["problem"] for probe in peer["probes"])) if text]


def notes(peer: Json) -> list[str]:
    """What is unusual about a peer, but not wrong."""
    return [note for probe in peer["probes"] for note in probe["notes"]]


def trouble(peer: Json) -> list[str]:
    """Problems and notes."""
    return [*problems(peer), *notes(peer)]


def registry(state: Json) -> Text:
    """Where leases come from, and how old they are."""
    if state["stale"]:
        return Text(f"{state['name']}, unreachable; leases are from this host's disk", "red")
    if not state["connected"]:
        return Text(f"{state['name']}, unreachable; leases are those last known", "red")
    where = f", {state['endpoint']} at revision {state['revision']}" if state["endpoint"] else ""
    return Text(f"{state['name']}{where}")


def traffic(counts: Json) -> str:
    """Packets and bytes in both directions."""
    return (
        f"out {counts['tx_packets']} packets {in_bytes(counts['tx_bytes'])},"
        f" in {counts['rx_packets']} packets {in_bytes(counts['rx_bytes'])}"
    )


def in_bytes(count: float) -> str:
    """A number of bytes as people read it."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def duration(seconds: float) -> str:
    """Seconds as people read them, in two units."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    shown = [f"{value} {unit}" for value, unit in parts if value] or ["0 s"]
    return " ".join(shown[:2])
