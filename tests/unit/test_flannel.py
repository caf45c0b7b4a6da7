"""Each of flannel's failures has a test that names it."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_every_item_is_named_by_a_test() -> None:
    items = set(re.findall(r"^(\d+)\. ", (TESTS / "flannel.md").read_text(), re.M))
    named: set[str] = set()
    for file in TESTS.glob("*/test_*.py"):
        for numbers in re.findall(r"flannel\.md (\d+(?:(?:, | and )\d+)*)", file.read_text()):
            named.update(re.findall(r"\d+", numbers))
    assert items == named
