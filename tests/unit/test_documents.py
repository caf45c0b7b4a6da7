"""Man pages and shell completion, as `make install` makes them: a real bash, zsh and man read them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from overlayd.cli import documents


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("share")
    documents.main(path)
    return path


def completed(share: Path, line: str) -> list[str]:
    """What bash offers at the end of the line."""
    words = line.split(" ")
    program = f"""
        COMP_WORDS=({" ".join(f"'{word}'" for word in words)}) COMP_CWORD={len(words) - 1}
        COMP_LINE='{line}' COMP_POINT={len(line)}
        source {share}/bash-completion/completions/{words[0]}
        function=$(complete -p {words[0]} | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        $function {words[0]} '{words[-1]}' '{words[-2]}'
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, timeout=30)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("overlayctl st", ["status"]),
        ("overlayctl pe", ["peer"]),
        ("overlayctl peer ", ["list", "show"]),
        ("overlayctl lease re", ["reserve", "release"]),
        ("overlayctl lab up --mo", ["--mode"]),
        ("overlayctl lab up --mode ", ["udp", "vxlan", "host-gw", "wireguard", "none"]),
        ("overlayd --vxlan-p", ["--vxlan-port"]),
    ],
)
def test_bash_completes(share: Path, line: str, offered: list[str]) -> None:
    assert completed(share, line) == offered


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh here: apt install zsh")
@pytest.mark.parametrize("name", ["overlayd", "overlayctl"])
def test_zsh_loads_it(share: Path, name: str) -> None:
    file = share / "zsh" / "site-functions" / f"_{name}"
    assert file.read_text().startswith(f"#compdef {name}\n")
    program = f"""
        fpath=({file.parent} $fpath)
        autoload -Uz compinit && compinit -D && autoload -Uz +X _{name} && print $_comps[{name}]
    """
    done = subprocess.run(["zsh", "-fc", program], capture_output=True, text=True, timeout=30)
    assert (done.stdout.strip(), done.stderr) == (f"_{name}", "")


@pytest.mark.skipif(shutil.which("man") is None, reason="no man here: apt install man-db")
@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("overlayd", ["--vxlan-port", "FILES", "ENVIRONMENT", "FLANNELD_", "EXIT STATUS 0", "--kube-subnet-mgr"]),
        ("overlayctl", ["peer show", "lease reserve", "SEE ALSO", "overlayd(8)", "EXIT STATUS 0", "NO_COLOR"]),
    ],
)
def test_man_pages_render_without_a_warning(share: Path, name: str, texts: list[str]) -> None:
    page = share / "man" / "man8" / f"{name}.8"
    environment = {**os.environ, "MANWIDTH": "100", "LC_ALL": "C.UTF-8", "MANROFFOPT": "-c"}
    argv = ["man", "--warnings=w", "--local-file", str(page)]
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    shown = " ".join(done.stdout.split())
    for text in texts:
        assert text in shown


def test_former_spellings_are_not_offered(share: Path) -> None:
    assert completed(share, "overlayctl leas") == ["lease"]
    assert "usage: overlayctl leases" not in (share / "man" / "man8" / "overlayctl.8").read_text()
