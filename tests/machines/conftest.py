"""Tests in here boot machines with systemd-nspawn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.machine import Pair, debian, machines
from support.machine_fixtures import _privileged, figure, mode, pytest_terminal_summary, running, stage
from support.package import deb, next_deb

__all__ = ["_privileged", "deb", "figure", "mode", "next_deb", "pytest_terminal_summary", "running", "stage"]


@pytest.fixture(scope="module")
def pair(stage: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with machines([stage, debian()], tmp_path_factory.mktemp("machines")) as made:
        yield made
