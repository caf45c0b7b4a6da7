"""`overlayctl top`: where packets go right now. Two samples of the counters make rates; the busiest peers are shown."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from overlayd.system.control_client import ControlError, ask

Json = Mapping[str, Any]

_FIELDS = ("tx_packets", "tx_bytes", "rx_packets", "rx_bytes")
_NAMES_EVERY = 10.0  # seconds between looks at who the peers are: that answer is long where there are thousands
_HEAD = 8  # lines that are no peers


@dataclass(frozen=True, slots=True)
class Rates:
    """What happened in each second between two samples."""

    seconds: float
    total: dict[str, float]
    """By _FIELDS; empty where nothing is counted."""
    peers: dict[str, dict[str, float]]
    """Likewise, of each peer with traffic, by the lease's key; the busiest first."""
    devices: dict[str, dict[str, float]]
    """Likewise, by name."""
    drops: dict[str, float]
    """By direction and reason: "rx unknown_peer"."""
    bursts: dict[str, float]
    """Packets in each wake-up, by direction."""


def rates(old: Json, new: Json) -> Rates:
    """What two answers of /v1/counters come to. A daemon that started anew between them begins at 0."""
    seconds: float = max(new["time"] - old["time"], 1e-3)

    def rate(after: int, before: int) -> float:
        return float(after - before if after >= before else after) / seconds

    def fields(after: Json, before: Json) -> dict[str, float]:
        return {name: rate(after[name], before.get(name, 0)) for name in _FIELDS}

    before = dict(old["peers"])
    peers = {
        key: {name: rate(*pair) for name, *pair in zip(_FIELDS, now, before.get(key, (0, 0, 0, 0)), strict=True)}
        for key, now in new["peers"].items()
        if now != before.get(key)
    }
    busy = sorted(peers.items(), key=lambda item: -item[1]["tx_bytes"] - item[1]["rx_bytes"])
    total = fields(new["traffic"], old["traffic"] or {}) if new["traffic"] else {}
    drops = {
        f"{direction} {reason}": found
        for direction in ("tx", "rx")
        for reason, count in new["drops"][direction].items()
        if (found := rate(count, old["drops"][direction].get(reason, 0)))
    }
    bursts = {}
    if new["bursts"] and old["bursts"]:
        for direction in ("tx", "rx"):
            wakeups = rate(new["bursts"][f"{direction}_bursts"], old["bursts"][f"{direction}_bursts"])
            bursts[direction] = total[f"{direction}_packets"] / wakeups if wakeups else 0.0
    devices = {name: fields(now, old["devices"].get(name, {})) for name, now in new["devices"].items()}
    return Rates(seconds, total, dict(busy), devices, dict(sorted(drops.items())), bursts)


def add_parser(commands: Any, socket: Path) -> None:
    """Add the command to overlayctl's."""
    parser = commands.add_parser(
        "top",
        help="rates by peer and direction, live",
        description="Packets and bits a second, in total and of the busiest peers, and what is dropped. Ends with"
        " Ctrl-C. out is from this host's containers to peers, in is from peers. In vxlan and host-gw mode"
        " the kernel carries the packets: it counts by device, not by peer.",
    )
    parser.add_argument("--socket", type=Path, default=socket, help="the daemon's control socket (%(default)s)")
    parser.add_argument("--interval", type=_seconds, default=1.0, help="seconds between samples (%(default)s)")
    parser.add_argument("--peers", type=int, metavar="N", help="show so many (default: what fits on the screen)")
    parser.add_argument("--once", action="store_true", help="one interval, printed; then end")
    parser.add_argument("--json", action="store_true", help="the same for machines, with all peers that had traffic")
    parser.set_defaults(run=run)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.1 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"{text}: is no time between 0.1 and 3600 seconds")
    return value


def run(given: argparse.Namespace) -> int:
    """Show rates until interrupted, or once."""
    names: dict[str, str] = {}
    old = _sample(given.socket)
    if given.once or given.json:
        time.sleep(given.interval)
        found = rates(old, _sample(given.socket))
        names = _names(given.socket)
        if given.json:
            print(json.dumps(machine(found, names), indent=2))
        else:
            Console().print(view(found, names, given.peers or 20))
        return 0
    console = Console()
    asked = -_NAMES_EVERY
    with Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:
        try:
            while True:
                time.sleep(given.interval)
                new = _sample(given.socket)
                found, old = rates(old, new), new
                if not found.peers.keys() <= names.keys() and time.monotonic() - asked >= _NAMES_EVERY:
                    names, asked = _names(given.socket), time.monotonic()
                fits = max(console.height - _HEAD - len(found.drops) - len(new["broken"]), 3)
                lines = [Text(text, style="red") for text in new["broken"]]
                live.update(Group(*lines, view(found, names, given.peers or fits)), refresh=True)
        except KeyboardInterrupt:
            return 0


def _sample(socket: Path) -> dict[str, Any]:
    counters = ask(socket, "/v1/counters")
    if counters["state"] == "waiting":
        raise ControlError(f"nothing is counted yet: {counters['problems'][0]}")
    return counters


def _names(socket: Path) -> dict[str, str]:
    """What people call each peer, by the lease's key."""
    state = ask(socket, "/v1/status")
    return {key_of(peer): " ".join(filter(None, (peer["name"], _subnets(peer)))) for peer in state.get("peers", ())}


def key_of(peer: Json) -> str:
    """The key of a peer's lease, as `core.lease.Lease.key` spells it."""
    return "&".join(peer[name].replace("/", "-") for name in ("subnet", "ipv6_subnet") if peer[name])


def _subnets(peer: Json) -> str:
    return ", ".join(peer[name] for name in ("subnet", "ipv6_subnet") if peer[name])


def machine(found: Rates, names: Mapping[str, str]) -> dict[str, Any]:
    """`--json`: everything by the second."""
    return {
        "seconds": round(found.seconds, 3),
        "traffic": _rounded(found.total),
        "drops": _rounded(found.drops),
        "packets_per_burst": _rounded(found.bursts),
        "devices": {name: _rounded(one) for name, one in found.devices.items()},
        "peers": [{"lease": key, "name": names.get(key), **_rounded(one)} for key, one in found.peers.items()],
    }


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {key: round(value, 3) for key, value in values.items()}


def view(found: Rates, names: Mapping[str, str], shown: int) -> RenderableType:
    """One screen."""
    table = Table(box=None, pad_edge=False)
    table.add_column("", overflow="ellipsis", no_wrap=True)
    for title in ("OUT PACKETS/s", "OUT BIT/s", "IN PACKETS/s", "IN BIT/s"):
        table.add_column(title, justify="right", no_wrap=True)
    if found.total:
        table.add_row(Text("all", style="bold"), *_cells(found.total))
    for name, one in found.devices.items() if not found.bursts else ():
        table.add_row(Text(name), *_cells(one))
    for key in list(found.peers)[:shown]:
        table.add_row(Text(names.get(key, key)), *_cells(found.peers[key]))
    lines: list[RenderableType] = [table]
    if len(found.peers) > shown:
        lines.append(Text(f"and {len(found.peers) - shown} more peers with traffic", style="dim"))
    if not found.total:
        lines.append(Text("nothing is counted in host-gw mode: plain routes carry the packets", style="yellow"))
    if found.bursts:
        sizes = ", ".join(f"{'out' if way == 'tx' else 'in'} {size:.1f}" for way, size in found.bursts.items())
        lines.append(Text(f"packets in a wake-up: {sizes}", style="dim"))
    for reason, number in found.drops.items():
        lines.append(Text(f"dropped {reason} {_amount(number)}/s", style="red"))
    return Group(*lines)


def _cells(one: Mapping[str, float]) -> Iterable[Text]:
    for name in _FIELDS:
        value = one[name]
        yield Text(_amount(value * 8 if name.endswith("bytes") else value), style="" if value else "dim")


def _amount(value: float) -> str:
    for unit in ("", "k", "M"):
        if value < 1000:
            return f"{value:.0f}{unit}" if not unit or value >= 100 else f"{value:.1f}{unit}"
        value /= 1000
    return f"{value:.2f}G"
