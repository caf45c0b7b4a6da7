"""Flame graphs: the stacks that perf sampled, each function as wide as its share of the processors' time."""

from __future__ import annotations

from collections.abc import Iterator

from overlayd.bench import stacks
from overlayd.bench.report import svg
from overlayd.bench.report.colours import REST, colour_of
from overlayd.bench.result import Result, ScenarioRecord
from overlayd.bench.stacks import Node

_ROW = 17.0
_LETTER = 7.2
"""Units that a letter takes at most on average; a label that does not fit is cut."""
_DEEPEST = 26
_PROGRAMS = {"daemon": "udp-native", "iperf3": "vxlan", "swapper": "host-gw", "ksoftirqd": "host-gw"}
"""Programs and the scenario whose colour they have here."""


def stacks_of(result: Result, record: ScenarioRecord) -> Node | None:
    """The stacks of all rounds; None where perf has sampled none."""
    key = (record.frames, record.name, "profile")
    found = [
        sample.detail["stacks"]
        for sample in result.samples
        if (sample.frames, sample.scenario, sample.metric) == key and "stacks" in sample.detail
    ]
    return stacks.merge(found) if found else None


def flame(title: str, tree: Node) -> str:
    """The graph as SVG, the programs on top."""
    depth = min(_DEEPEST, _depth(tree))
    parts = list(_boxes(tree, 0.0, svg.WIDTH / max(1, tree["samples"]), 0, tree["samples"], REST))
    return svg.drawing(title, depth * _ROW + 2, parts)


def _boxes(node: Node, left: float, scale: float, level: int, whole: int, colour: int) -> Iterator[str]:
    at = left
    for child in node["children"]:
        if level == 0:
            colour = colour_of(_PROGRAMS[child["name"]]) if child["name"] in _PROGRAMS else REST
        width = child["samples"] * scale
        top = level * _ROW
        shown = f"{child['name']}: {child['samples'] / whole:.1%}"
        yield svg.rect(at, top, max(width - 0.6, 0.4), _ROW - 1, f"c{colour} wash", shown)
        if (room := int((width - 4) / _LETTER)) >= 3:
            name = child["name"]
            yield svg.text(at + 2, top + 12, name if len(name) <= room else f"{name[: room - 1]}…")
        if level + 1 < _DEEPEST:
            yield from _boxes(child, at, scale, level + 1, whole, colour)
        at += width


def _depth(node: Node) -> int:
    return max((1 + _depth(one) for one in node["children"]), default=0)
