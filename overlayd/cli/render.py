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
    row(facts, "state", Text(state["state"], style="green" if well else "red"))
    row(facts, "mode", Text(state["mode"] + (f", {state['engine']} engine" if state["engine"] else "")))
    row(facts, "lease", _lease_text(state["lease"]))
    row(facts, "overlay", f"{', '.join(overlay['interfaces']) or 'no device'}, MTU {overlay['mtu']}")
    row(facts, "networks", ", ".join(overlay["networks"]))
    row(facts, "underlay", f"{underlay['interface']}, MTU {underlay['mtu']}")
    row(facts, "registry", _registry(state["registry_state"]))
    row(facts, "up for", _duration(state["uptime_seconds"]))
    if state["traffic"] is not None:
        row(facts, "traffic", _traffic(state["traffic"]))
    for direction, title in (("tx", "drops out"), ("rx", "drops in")):
        drops = state["drops"][direction]
        if drops:
            row(facts, title, ", ".join(f"{reason} {count}" for reason, count in sorted(drops.items())))
    if state["repairs"]:
        row(facts, "repairs", str(state["repairs"]))
    if state["reload"]["error"]:
        row(facts, "reload", Text(f"refused: {state['reload']['error']}", style="red"))
    for problem in state["problems"]:
        row(facts, "problem", Text(problem, style="red"))
    return Group(facts, Text(), _peers(state["peers"]))


def leases(rows: Sequence[Json], registry: Json) -> RenderableType:
    """`overlayctl leases`."""
    table = Table(box=None, pad_edge=False)
    for title in ("HOST", "SUBNET", "PUBLIC IP", "VTEP MAC", ""):
        table.add_column(title, overflow="fold")
    for lease in rows:
        note = Text("this host", style="green") if lease["own"] else Text(lease["problem"] or "", style="red")
        if lease["reserved"]:
            note = Text("reserved ") + note
        row(table, lease["name"] or "-", _subnets(lease), _publics(lease) or "-", lease["vtep_mac"], note)
    lines = [Text(f"{key}: left out: {reason}", style="red") for key, reason in registry["bad"].items()]
    if not registry["connected"] or registry["stale"]:
        lines.append(_registry(registry))
    return Group(table, *lines)


def wrong(peer: Json) -> list[str]:
    """What is wrong with a peer, or odd, in words."""
    probes = peer["probes"]
    found = [peer["problem"], *(one["problem"] for one in probes)]
    return [text for text in (*found, *(note for one in probes for note in one["notes"])) if text]


def peers(rows: Sequence[Json]) -> RenderableType:
    """`overlayctl peers`: a line for each address that is probed."""
    if not rows:
        return Text("no peers to show", style="yellow")
    table = Table(box=None, pad_edge=False)
    for title in ("PEER", "SUBNET", "ADDRESS", "STATE", "RTT min/avg", "LOSS", "PATH", "RUNS", ""):
        table.add_column(title, overflow="fold")
    for peer in rows:
        who = (peer["name"] or "-", _subnets(peer))
        if not peer["probes"]:
            state = Text("unreachable", style="red") if peer["problem"] else Text("not probed", style="dim")
            row(table, *who, _publics(peer) or "-", state, "", "", "", "", Text(peer["problem"] or "", style="red"))
        for one in peer["probes"]:
            rtt = f"{one['rtt']['min'] * 1000:.2f}/{one['rtt']['avg'] * 1000:.2f} ms" if one["rtt"] else "-"
            runs = " ".join(filter(None, (one["mode"], one["version"]))) or "-"
            words = Text("; ".join(filter(None, (peer["problem"], one["problem"]))), style="red")
            words += Text(("; " if words.plain and one["notes"] else "") + "; ".join(one["notes"]), style="yellow")
            state = Text(one["state"], style={"reachable": "green", "unreachable": "red"}.get(one["state"], "yellow"))
            loss = f"{one['loss']:.0%}" if one["asked"] else "-"
            row(table, *who, one["address"], state, rtt, loss, str(one["path_mtu"] or "-"), runs, words)
            who = ("", "")
    return table


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


def row(table: Table, *cells: str | Text) -> None:
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
        problem = Text("; ".join(wrong(peer)), style="red")
        row(table, peer["name"] or "-", _subnets(peer), _publics(peer), *traffic, problem)
    return table


def _lease_text(lease: Json) -> str:
    return f"{_subnets(lease)} at {_publics(lease)}"


def _subnets(lease: Json) -> str:
    return ", ".join(lease[key] for key in ("subnet", "ipv6_subnet") if lease[key])


def _publics(lease: Json) -> str:
    return ", ".join(lease[key] for key in ("public_ip", "public_ipv6") if lease[key])


def _traffic(traffic: Json) -> str:
    return (
        f"out {traffic['tx_packets']} packets {in_bytes(traffic['tx_bytes'])},"
        f" in {traffic['rx_packets']} packets {in_bytes(traffic['rx_bytes'])}"
    )


def in_bytes(count: float) -> str:
    """A number of bytes as people read it."""
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
