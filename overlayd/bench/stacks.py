"""Stacks of functions, folded into a tree that a flame graph draws. Pure.

A node is {"name": ..., "samples": ..., "children": [...]}: plain data, so that a result file can hold it. Its samples
are its own and its children's. Nodes below LEAST of the whole are left out; a flame graph could not show them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

LEAST = 0.005

Node = dict[str, Any]


def fold(stacks: Iterable[Sequence[str]]) -> Node:
    """The tree of stacks, each from the outermost function to the innermost."""
    root = _node("all")
    for stack in stacks:
        node = root
        node["samples"] += 1
        for name in stack:
            node = _child(node, name)
            node["samples"] += 1
    return pruned(root)


def merge(trees: Iterable[Node]) -> Node:
    """The sum of trees."""
    total = _node("all")
    for tree in trees:
        _add(total, tree)
    return pruned(total)


def pruned(root: Node) -> Node:
    """Without nodes that are too small to be seen, the largest first."""
    return _pruned(root, LEAST * root["samples"])


def _pruned(node: Node, least: float) -> Node:
    kept = (_pruned(one, least) for one in node["children"] if one["samples"] >= least)
    return {**node, "children": sorted(kept, key=lambda one: (-one["samples"], one["name"]))}


def _node(name: str) -> Node:
    return {"name": name, "samples": 0, "children": []}


def _child(node: Node, name: str) -> Node:
    for one in node["children"]:
        if one["name"] == name:
            found: Node = one
            return found
    node["children"].append(made := _node(name))
    return made


def _add(total: Node, tree: Node) -> None:
    total["samples"] += tree["samples"]
    for one in tree["children"]:
        _add(_child(total, one["name"]), one)
