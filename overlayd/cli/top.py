"""`overlayctl top`: packet and bit rates right now, from two samples of the counters; the busiest peers are shown."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from overlayd.cli.arguments import Parser, print_json
from overlayd.cli.common import add_common
from overlayd.cli.render import subnets
from overlayd.cli.screen import Screen
from overlayd.cli.terminal import Block, Cell, Column, Row, Table, Text, show
from overlayd.system.control_client import ask, unless_waiting

Json = Mapping[str, Any]

_DIRECTIONS = {"tx": "out", "rx": "in"}
_FIELDS = ("tx_packets", "tx_bytes", "rx_packets", "rx_bytes")
_NAMES_EVERY = 10.0  # seconds between requests for the names of peers: that answer is long where there are thousands
_HEAD = 8  # lines that are not peers


class Rates(NamedTuple):
    """Rates per second between two samples."""

    seconds: float
    total: dict[str, float]
    """By _FIELDS; empty where nothing is counted."""
    peers: dict[str, dict[str, float]]
    """By the lease's key, then by _FIELDS: peers with traffic, the busiest first."""
    devices: dict[str, dict[str, float]]
    """By name, then by _FIELDS."""
    drops: dict[str, float]
    """By direction and reason: "rx unknown_peer"."""
    bursts: dict[str, float]
    """Packets per wake-up, by direction."""


def rates(old: Json, new: Json) -> Rates:
    """The rates between two answers of /v1/counters. A daemon that restarted between them counts from 0."""
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


def configure(parser: Parser) -> None:
    """The command's arguments."""
    parser.description = (
        "Packets and bits per second, in total and for the busiest peers, and drops. Ends with q or Ctrl-C. out is from"
        " this host's containers to peers, in is from peers. In vxlan and host-gw mode the kernel carries the packets:"
        " it counts by device, not by peer."
    )
    parser.add_argument("--interval", type=_seconds, default=1.0, metavar="SECONDS", help="default: 1")
    parser.add_argument("--peers", type=int, metavar="N", help="show up to N peers (default: what fits on the screen)")
    parser.add_argument("--once", action="store_true", help="print one interval and exit")
    add_common(parser, "socket", "json")
    parser.set_defaults(run=run)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.1 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"{text}: must be between 0.1 and 3600 seconds")
    return value


def run(given: argparse.Namespace) -> int:
    """Show rates until interrupted, or once; the exit status."""
    if given.once or given.json:
        old = _sample(given.socket)
        time.sleep(given.interval)
        found, names = rates(old, _sample(given.socket)), _names(given.socket)
        if given.json:
            print_json(machine(found, names))
        else:
            show(*view(found, names, given.peers or 20))
        return 0
    with Screen(sys.stdin, sys.stdout) as screen, suppress(KeyboardInterrupt):
        _live(screen, given)
    return 0


def _live(screen: Screen, given: argparse.Namespace) -> None:
    """Draw until q is pressed."""
    names: dict[str, str] = {}
    asked = -_NAMES_EVERY
    old = _sample(given.socket)
    while screen.wait(given.interval) != "q":
        new = _sample(given.socket)
        found, old = rates(old, new), new
        if not found.peers.keys() <= names.keys() and time.monotonic() - asked >= _NAMES_EVERY:
            names, asked = _names(given.socket), time.monotonic()
        fits = max(screen.height - _HEAD - len(found.drops) - len(new["broken"]), 3)
        screen.draw([*(Text(text, "red") for text in new["broken"]), *view(found, names, given.peers or fits)])


def _sample(socket: Path) -> dict[str, Any]:
    return unless_waiting(ask(socket, "/v1/counters"), "nothing has been counted yet")


def _names(socket: Path) -> dict[str, str]:
    """The name and subnets of each peer, by the lease's key."""
    state = ask(socket, "/v1/status")
    return {key_of(peer): " ".join(filter(None, (peer["name"], subnets(peer)))) for peer in state.get("peers", ())}


def key_of(peer: Json) -> str:
    """The key of a peer's lease, as `core.leases.lease.Lease.key` spells it."""
    return "&".join(peer[name].replace("/", "-") for name in ("subnet", "ipv6_subnet") if peer[name])


def machine(found: Rates, names: Mapping[str, str]) -> dict[str, Any]:
    """`--json`: all rates, per second."""
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


def view(found: Rates, names: Mapping[str, str], shown: int) -> list[Block]:
    """One screen."""
    titles = ("OUT PACKETS/s", "OUT BIT/s", "IN PACKETS/s", "IN BIT/s")
    rows = [Row((Text("all", "bold"), *_cells(found.total)))] if found.total else []
    rows += [Row((name, *_cells(one))) for name, one in found.devices.items() if not found.bursts]
    rows += [Row((names.get(key, key), *_cells(found.peers[key]))) for key in list(found.peers)[:shown]]
    blocks: list[Block] = [Table((Column(), *(Column(title, right=True) for title in titles)), rows)]
    if len(found.peers) > shown:
        blocks.append(Text(f"and {len(found.peers) - shown} more peers with traffic", "dim"))
    if not found.total:
        blocks.append(Text("nothing is counted in host-gw mode: plain routes carry the packets", "yellow"))
    if found.bursts:
        sizes = ", ".join(f"{_DIRECTIONS[key]} {size:.1f}" for key, size in found.bursts.items())
        blocks.append(Text(f"packets per wake-up: {sizes}", "dim"))
    blocks += [Text(f"dropped {reason} {_amount(number)}/s", "red") for reason, number in found.drops.items()]
    return blocks


def _cells(one: Mapping[str, float]) -> Iterator[Cell]:
    for name in _FIELDS:
        value = one[name]
        yield Text(_amount(value * 8 if name.endswith("bytes") else value), "" if value else "dim")


def _amount(value: float) -> str:
    for unit in ("", "k", "M"):
        if value < 1000:
            return f"{value:.0f}{unit}" if not unit or value >= 100 else f"{value:.1f}{unit}"
        value /= 1000
    return f"{value:.2f}G"
