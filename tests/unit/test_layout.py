"""What tests share is in tests/support; no test module imports another one, or the like of it from there."""

from __future__ import annotations

import ast
from pathlib import Path

TESTS = Path(__file__).parents[1]


def imports(path: Path) -> set[str]:
    """The first part of every module that a file imports, wherever it does so."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def test_no_test_module_is_imported() -> None:
    modules = {path.stem for path in TESTS.rglob("*.py") if path.parent.name != "support"}
    found = {path.relative_to(TESTS).as_posix(): imports(path) & modules for path in TESTS.rglob("*.py")}
    assert {path: names for path, names in found.items() if names} == {}


def test_helpers_live_in_support() -> None:
    """Beside tests stand conftest.py, which pytest wants there, and fuzz, whose programs are no tests."""
    elsewhere = [
        path.relative_to(TESTS).as_posix()
        for path in TESTS.glob("*/*.py")
        if not path.name.startswith(("test_", "conftest")) and path.parent.name not in ("support", "fuzz")
    ]
    assert elsewhere == []


def test_there_is_one_eventually() -> None:
    written = [path.name for path in TESTS.rglob("*.py") if "def " + "eventually(" in path.read_text()]
    assert written == ["waiting.py"]


def test_files_are_short_enough_to_be_read_at_once() -> None:
    """250 lines of Python are full, and 300 too many; so are 500 of C."""
    package = TESTS.parent / "overlayd"
    limits = {".py": 300, ".c": 500, ".h": 500}
    lines = {path: len(path.read_text().splitlines()) for path in package.rglob("*") if path.suffix in limits}
    assert {path.name: count for path, count in lines.items() if count > limits[path.suffix]} == {}
