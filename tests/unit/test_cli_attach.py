"""`overlayctl attach` and `attachment`: what the words on the command line mean, and what is shown."""

from __future__ import annotations

from typing import Any

import pytest

from overlayd.cli import attachment
from overlayd.cli.attach import Target, target
from overlayd.cli.overlayctl import main
from overlayd.cli.terminal import show
from overlayd.core.attach.errors import AttachError
from support.attached import ONE

SHOWN: dict[str, Any] = {**ONE.json(), "device": ONE.device, "problem": None}


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("1234", Target("pid-1234", "/proc/1234/ns/net")),
        ("/proc/1234/ns/net", Target("pid-1234", "/proc/1234/ns/net")),
        ("/var/run/docker/netns/5e0c", Target("5e0c", "/var/run/docker/netns/5e0c")),
        ("c1", Target("c1", "/run/netns/c1")),
    ],
)
def test_a_container_is_named_by_a_process_a_path_or_a_namespace(word: str, meant: Target) -> None:
    assert target(word) == meant


@pytest.mark.parametrize("word", ["../x", "", "/", "c 1", "-1", "١٢"])
def test_what_names_no_container_is_refused(word: str) -> None:
    with pytest.raises(AttachError, match="is not a valid name"):
        target(word)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["attach", "c1", "--sysctl", "net.core.somaxconn"], "--sysctl net.core.somaxconn: has no value"),
        (["attach", "c1", "--sysctl", "kernel.shmmax=1"], "'kernel.shmmax' is not per network namespace"),
        (["attach", "c1", "--ip", "10.1.1"], "'10.1.1' is not an IP address"),
        (["attach", "c1", "--ip", "10.1.1.2", "--ip", "10.1.1.3"], "are of one family"),
        (["attach", "c1", "--mac", "ff:ff:ff:ff:ff:ff"], "group address"),
        (["attach", "c1", "--rps", "all"], "'all' is not a list of CPUs"),
        (["attach", "c1", "--interface", "a/b"], "is not a valid interface name"),
        (["detach", "c1", "--interface", ""], "is not a valid interface name"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert text in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("command", [["attach", "c1"], ["detach", "c1"], ["attachment", "list"]])
def test_without_a_daemon_it_says_so(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--socket", "/nowhere/overlayd.sock"]) == 1
    assert "overlayd is not running here" in capsys.readouterr().err


def test_what_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    show(attachment.attachments([{**SHOWN, "problem": "its MTU is 1450, and the overlay's is 1400"}]))
    listed = capsys.readouterr().out
    for word in ("c1", "eth0", "10.1.1.2/24", "bridge", "its MTU is 1450"):
        assert word in listed
    show(attachment.attachments([]))
    assert "no containers are attached" in capsys.readouterr().out


def test_everything_about_one(capsys: pytest.CaptureFixture[str]) -> None:
    show(attachment.page(SHOWN))
    shown = capsys.readouterr().out
    for word in (ONE.device, ONE.mac, "/run/netns/c1", "net.core.somaxconn = 1024", "CPUs 0,1"):
        assert word in shown
