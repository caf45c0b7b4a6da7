"""Fixtures with Debian packages of overlayd; machines' conftest.py makes them known."""

from __future__ import annotations

import fcntl
import os
import subprocess
from pathlib import Path

import pytest

from overlayd import __version__
from support.machine import ROOT

NEXT = f"{__version__}+next"


def _run(*argv: str | Path) -> None:
    done = subprocess.run([str(word) for word in argv], capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


@pytest.fixture(scope="session")
def deb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make deb` makes; lintian's errors end it."""
    base = tmp_path_factory.getbasetemp()
    dist = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "dist"  # one for all workers
    dist.mkdir(exist_ok=True)
    with (dist / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not list(dist.glob("overlayd_*.deb")):
            _run("make", "-C", ROOT, "deb", f"DIST={dist}")
    (made,) = dist.glob(f"overlayd_{__version__}_*.deb")
    return made


@pytest.fixture(scope="session")
def next_deb(deb: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The next version, which differs in its version alone."""
    tree = tmp_path_factory.mktemp("next") / "tree"
    _run("dpkg-deb", "--raw-extract", deb, tree)
    (source,) = tree.glob("usr/lib/overlayd/lib/*/site-packages/overlayd/__init__.py")
    for file in (source, tree / "DEBIAN/control"):
        file.write_text(file.read_text().replace(__version__, NEXT))
    made = tree.with_name(f"overlayd_{NEXT}.deb")
    _run("dpkg-deb", "-Znone", "--build", tree, made)
    return made
