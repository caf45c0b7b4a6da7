"""The allow-list of imports fails where something else is imported, now or in a module to come."""

from __future__ import annotations

import pytest
from grimp import ImportGraph

from support.import_contracts import AllowedImports


def broken(line: str) -> list[str]:
    """What the contract says of one import into a module deep inside the package that it is for."""
    imported = line.split()[1].partition(".")[0]
    graph = ImportGraph()
    graph.add_module("house.core")
    graph.add_module("house.core.deep.new")
    graph.add_module(imported, is_squashed=True)
    graph.add_import(importer="house.core.deep.new", imported=imported, line_number=7, line_contents=line)
    options = {"source_modules": ["house.core"], "allowed_modules": ["struct", "urllib.parse"]}
    contract = AllowedImports(name="pure", session_options={"root_packages": ["house"]}, contract_options=options)
    found: list[str] = contract.check(graph, verbose=False).metadata["broken"]
    return found


@pytest.mark.parametrize("line", ["import struct", "from struct import Struct", "from urllib.parse import urlsplit"])
def test_what_is_on_the_list_is_allowed(line: str) -> None:
    assert broken(line) == []


@pytest.mark.parametrize("line", ["import random", "from urllib.request import urlopen", "import h11"])
def test_what_is_not_on_the_list_is_named_with_its_place(line: str) -> None:
    assert broken(line) == [f"house.core.deep.new:7: {line}"]
