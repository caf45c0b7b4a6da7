"""Prometheus' text format (version 0.0.4): metric families as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = Mapping[str, str]
Sample = tuple[Labels, float]
MetricFamily = tuple[str, str, str, Iterable[Sample]]
"""Name, type, help, samples."""

DIRECTIONS = ("tx", "rx")


def text(name: str, kind: str, meaning: str, samples: Iterable[Sample]) -> str:
    """A family with its samples; nothing where there are none."""
    lines = [f"{name}{_labels(labels)} {value:.15g}\n" for labels, value in samples]
    return "".join([head(name, kind, meaning), *lines]) if lines else ""


def head(name: str, kind: str, meaning: str) -> str:
    """A family's HELP and TYPE lines."""
    return f"# HELP {name} {meaning}\n# TYPE {name} {kind}\n"


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{key}="{_escaped(value)}"' for key, value in labels.items()) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def single(name: str, kind: str, meaning: str, value: float) -> MetricFamily:
    """A family of one sample without labels."""
    return name, kind, meaning, [({}, value)]
