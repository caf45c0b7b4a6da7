"""The daemon's state as people read it: tables and a few colours, from the JSON that machines get."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

Json = Mapping[str, Any]


def invocation() -> str:
    """How the person who runs this command would type it again."""
    typed = sys.argv[0] if Path(sys.argv[0]).name == "overlayctl" else "overlayctl"
    return f"sudo {typed}" if "SUDO_USER" in os.environ else typed


def status(state: Json) -> RenderableType:
    """`overlayctl status`."""
    if state["state"] == "waiting":
        return Text("\n".join(["waiting", *state["problems"]]), style="yellow")
    overlay, underlay = state["overlay"], state["underlay"]
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    well = state["state"] == "ready" and not state["problems"]
    _row(facts, "state", Text(state["state"], style="green" if well else "red"))
    _row(facts, "mode", Text(state["mode"] + (f", {state['engine']} engine" if state["engine"] else "")))
    _row(facts, "lease", _lease_text(state["lease"]))
    _row(facts, "overlay", f"{', '.join(overlay['interfaces']) or 'no device'}, MTU {overlay['mtu']}")
    _row(facts, "networks", ", ".join(overlay["networks"]))
    _row(facts, "underlay", f"{underlay['interface']}, MTU {underlay['mtu']}")
    _row(facts, "registry", _registry(state["registry_state"]))
    _row(facts, "up for", _duration(state["uptime_seconds"]))
    if state["traffic"] is not None:
        _row(facts, "traffic", _traffic(state["traffic"]))
    for direction, title in (("tx", "drops out"), ("rx", "drops in")):
        drops = state["drops"][direction]
        if drops:
            _row(facts, title, ", ".join(f"{reason} {count}" for reason, count in sorted(drops.items())))
    if state["repairs"]:
        _row(facts, "repairs", str(state["repairs"]))
    if state["reload"]["error"]:
        _row(facts, "reload", Text(f"refused: {state['reload']['error']}", style="red"))
    for problem in state["problems"]:
        _row(facts, "problem", Text(problem, style="red"))
    return Group(facts, Text(), _peers(state["peers"]))


def leases(rows: Sequence[Json], registry: Json) -> RenderableType:
    """`overlayctl leases`."""
    table = Table(box=None, pad_edge=False)
    for title in ("HOST", "SUBNET", "PUBLIC IP", "VTEP MAC", ""):
        table.add_column(title, overflow="fold")
    for row in rows:
        note = Text("this host", style="green") if row["own"] else Text(row["problem"] or "", style="red")
        if row["reserved"]:
            note = Text("reserved ") + note
        _row(table, row["name"] or "-", _subnets(row), _publics(row) or "-", row["vtep_mac"], note)
    lines = [Text(f"{key}: left out: {reason}", style="red") for key, reason in registry["bad"].items()]
    if not registry["connected"] or registry["stale"]:
        lines.append(_registry(registry))
    return Group(table, *lines)


def lease_event(event: Json) -> str:
    """One line of `overlayctl leases --watch`."""
    sign = {"present": "=", "added": "+", "removed": "-", "changed": "~"}[event["event"]]
    words = [sign, _subnets(event), _publics(event) or "-", event["name"] or "-"]
    return "  ".join([*words, *filter(None, ["reserved" if event["reserved"] else "", event["problem"]])])


def _registry(state: Json) -> Text:
    if state["stale"]:
        return Text(f"{state['name']}, out of reach; leases are stale, from this host's disk", style="red")
    if not state["connected"]:
        return Text(f"{state['name']}, out of reach; leases are those known before", style="red")
    where = f", {state['endpoint']} at revision {state['revision']}" if state["endpoint"] else ""
    return Text(f"{state['name']}{where}")


def _row(table: Table, *cells: str | Text) -> None:
    """A row of plain text: what comes from files and from other hosts is never markup."""
    table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in cells))


def _peers(peers: Sequence[Json]) -> RenderableType:
    if not peers:
        return Text("no peers", style="yellow")
    counted = any(peer["traffic"] for peer in peers)
    table = Table(box=None, pad_edge=False)
    for title in ("PEER", "SUBNET", "PUBLIC IP", *(("TRAFFIC",) if counted else ()), ""):
        table.add_column(title, overflow="fold")
    for peer in peers:
        traffic = (_traffic(peer["traffic"]) if peer["traffic"] else "-",) if counted else ()
        problem = Text(peer["problem"] or "", style="red")
        _row(table, peer["name"] or "-", _subnets(peer), _publics(peer), *traffic, problem)
    return table


def _lease_text(lease: Json) -> str:
    return f"{_subnets(lease)} at {_publics(lease)}"


def _subnets(lease: Json) -> str:
    return ", ".join(lease[key] for key in ("subnet", "ipv6_subnet") if lease[key])


def _publics(lease: Json) -> str:
    return ", ".join(lease[key] for key in ("public_ip", "public_ipv6") if lease[key])


def _traffic(traffic: Json) -> str:
    return (
        f"out {traffic['tx_packets']} packets {_bytes(traffic['tx_bytes'])},"
        f" in {traffic['rx_packets']} packets {_bytes(traffic['rx_bytes'])}"
    )


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    shown = [f"{value} {unit}" for value, unit in parts if value] or ["0 s"]
    return " ".join(shown[:2])
