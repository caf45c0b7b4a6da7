"""Tests in here boot virtual machines: `make test-vm`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from support.machine import Pair, debian, machines
from support.machine_fixtures import _privileged, figure, mode, pytest_terminal_summary, running, stage
from support.vm import VM_PACKAGES, VirtualMachine, kernel

__all__ = ["_privileged", "figure", "mode", "pytest_terminal_summary", "running", "stage"]


@pytest.fixture(scope="session")
def pair(stage: Path, tmp_path_factory: pytest.TempPathFactory, figure: Callable[[str], None]) -> Iterator[Pair]:
    theirs = kernel(os.environ.get("OVERLAYD_VM_KERNEL", "linux-image-amd64"))
    figure(f"the machines' kernel is {theirs.release}, this machine's {os.uname().release}")
    layers = [stage, debian(VM_PACKAGES)]
    with machines(layers, tmp_path_factory.mktemp("vm"), partial(VirtualMachine, theirs)) as made:
        yield made
