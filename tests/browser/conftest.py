"""Tests in here open pages in Chromium."""

from collections.abc import Callable

import pytest

from support.chromium import missing


@pytest.fixture(scope="session", autouse=True)
def _chromium(demand: Callable[[str | None], None]) -> None:
    demand(missing())
