"""The command lines of `overlayctl lab` and `overlayctl demo`, as far as they go without root."""

import json
import os

import pytest

from overlayd.cli import demo, lab
from overlayd.cli.overlayctl import main
from overlayd.lab.spec import LabError


def run(*argv: str) -> int:
    return main(argv)


def test_settings_nest_as_the_file_does() -> None:
    pairs = ["vxlan.port=4789", "vxlan.vni=7", "mtu=1400", "log_level=debug", "subnet_file=/a=b"]
    assert lab.parse_settings(pairs) == {
        "vxlan": {"port": "4789", "vni": "7"},
        "mtu": "1400",
        "log_level": "debug",
        "subnet_file": "/a=b",
    }


@pytest.mark.parametrize("pair", ["mtu", "=1400", ""])
def test_a_setting_without_key_or_value_is_refused(pair: str) -> None:
    with pytest.raises(LabError, match=f"--set {pair}: write KEY=VALUE"):
        lab.parse_settings([pair])


def test_an_impossible_lab_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("lab", "up", "--hosts", "999") == 2
    seen = capsys.readouterr()
    assert seen.err == "overlayctl: hosts: 999 is out of range; use 1 to 250\n"
    assert seen.out == ""


def test_a_lab_that_is_not_up_is_told_with_the_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("lab", "status", "--name", "no-such-lab") == 1
    assert "overlayctl lab up --name no-such-lab" in capsys.readouterr().err


def test_without_root_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert run("lab", "up") == 1
    assert "needs root: run with sudo" in capsys.readouterr().err


def test_a_missing_tool_is_told_with_its_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", "/nowhere")
    assert run("lab", "up", "--offloads", "off") == 1
    assert "ip, nsenter, ethtool not found: apt install iproute2 util-linux ethtool" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--rounds", "0"], ["--seconds", "0"], ["--seconds", "-1"], ["--seconds", "nan"]])
def test_a_demo_of_nothing_is_refused(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("demo", *flags) == 2
    assert "overlayctl: --rounds" in capsys.readouterr().err


def test_a_cell_shows_median_ratio_and_range() -> None:
    assert demo.cell([3.0, 1.0, 2.0], [4.0], 2) == "2.00  0.50x\n[dim]1.00-3.00[/]"
    assert demo.cell([3.0], [], 1) == "3.0\n[dim]3.0-3.0[/]"
    assert demo.cell([], [4.0], 2) == "-"
    assert demo.cell([1.0], [0.0], 0) == "1\n[dim]1-1[/]"


def test_a_mode_that_failed_is_in_the_table_and_in_the_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    setup = {
        "kernel": "6.1", "machine": "x", "cores": 2, "python": "3", "congestion_control": "cubic", "offloads": "on",
        "underlay_mtu": 1500, "rounds": 1, "seconds": 1.0,
    }  # fmt: skip
    good = demo.Result("vxlan", 1450, [0.5], [0.1], [2e9], [9e3], [50.0], [80.0])
    bad = demo.Result("udp", error="h1: no [TUN]")
    monkeypatch.setattr(demo, "_demo", lambda arguments: (setup, [good, bad]))
    assert run("demo") == 1
    seen = capsys.readouterr().out
    assert "udp failed: h1: no [TUN]" in seen
    assert "2.00  1.00x" in seen
    assert run("demo", "--json") == 1
    assert [mode["error"] for mode in json.loads(capsys.readouterr().out)["modes"]] == [None, "h1: no [TUN]"]
