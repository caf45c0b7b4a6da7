"""What tests on machines of either kind have in common; figures that they measure stand at the end of the run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from support.machine import MINE, Pair, installed

FIGURES: list[str] = []


@pytest.fixture(scope="session", autouse=True)
def _privileged(privileged: None, demand: Callable[[str | None], None]) -> None:
    for tool in ("systemd-nspawn", "mmdebstrap"):
        demand(None if shutil.which(tool) else f"needs {tool}: make setup")


@pytest.fixture(scope="session")
def stage(_privileged: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make install` installs, over a configuration that is there already."""
    made = tmp_path_factory.mktemp("stage")
    (made / "etc/overlayd").mkdir(parents=True)
    (made / "etc/overlayd/overlayd.yaml").write_text(MINE)
    installed(made)
    return made


@pytest.fixture(scope="module", params=["udp", "vxlan"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def running(pair: Pair, mode: str) -> Pair:
    """Both machines' services run in that mode, and the containers talk."""
    pair.start(mode)
    assert pair.talk()
    return pair


@pytest.fixture(scope="session")
def figure() -> Callable[[str], None]:
    """Have a line stand at the end of the run: what was measured, which no test asserts."""
    return FIGURES.append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if FIGURES:
        terminalreporter.section("measured on the machines")
        for line in FIGURES:
            terminalreporter.write_line(line)
