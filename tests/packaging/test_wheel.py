"""`make wheel`: what it builds installs into a clean virtual environment, and its source distribution builds again."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from overlayd import __version__

ROOT = Path(__file__).parents[2]
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}

pytestmark = pytest.mark.timeout(300)


def run(*argv: str | Path, cwd: Path = ROOT) -> str:
    done = subprocess.run([str(word) for word in argv], cwd=cwd, env=CLEAN, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, which `build` makes from the source distribution, unpacked elsewhere."""
    dist = tmp_path_factory.mktemp("dist")
    run("make", "wheel", f"DIST={dist}")
    assert (dist / f"overlayd-{__version__}.tar.gz").exists()
    (made,) = dist.glob("*.whl")
    return made


def test_one_wheel_serves_every_python_from_3_11_on(wheel: Path) -> None:
    assert re.fullmatch(rf"overlayd-{re.escape(__version__)}-cp311-abi3-linux_\w+\.whl", wheel.name)


def test_the_wheel_names_its_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        info = f"overlayd-{__version__}.dist-info"
        metadata = archive.read(f"{info}/METADATA").decode()
        assert archive.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert "License-Expression: Apache-2.0\n" in metadata
    assert "Author: overlayd maintainers\n" in metadata


def test_the_wheel_runs_in_a_clean_virtual_environment(wheel: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", venv)
    run(venv / "bin/python", "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", wheel)
    for command in ("overlayd", "overlayctl"):
        assert run(venv / "bin" / command, "--version", cwd=tmp_path) == f"{command} {__version__}\n"
    engine = run(
        venv / "bin/python", "-c", "import overlayd.datapath.native._native as n; print(n.__file__)", cwd=tmp_path
    )
    assert engine.strip() == str(next(venv.glob("lib/*/site-packages/overlayd/datapath/native/_native.abi3.so")))


def test_the_source_distribution_holds_what_make_install_needs(wheel: Path) -> None:
    held = run("tar", "-tzf", next(wheel.parent.glob("*.tar.gz"))).splitlines()
    tracked = run("git", "ls-files", "overlayd", "config", "systemd").splitlines()
    missing = {*tracked, "Makefile", "constraints.txt", "LICENSE"} - {name.split("/", 1)[1] for name in held}
    assert not missing
