"""The command lines: where options may stand, what a mistake gets, exit statuses, and what is not imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from overlayd.cli import counters, lease, peer, reload, status
from overlayd.cli.overlayctl import main
from overlayd.core.errors import ReportedError, UsageError
from support.answers import COUNTERS, PEER, STATE

HEAVY = ("aiohttp", "h11", "pydantic", "pyroute2", "rich", "uvloop", "yaml")
TOOLS = ("overlayd.lab", "overlayd.bench", "overlayd.cli.lab", "overlayd.cli.bench", "overlayd.cli.demo")
WRONG = {**STATE, "problems": ["10.1.2.0/24: has no public_ip"]}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Sockets that were asked; the daemon behind each is well."""
    sockets: list[str] = []

    def ask(path: Any, target: str, method: str = "GET") -> dict[str, Any]:
        sockets.append(str(path))
        answers: dict[str, dict[str, Any]] = {
            "/v1/status": {**STATE, "peers": [PEER | STATE["peers"][0] | {"probes": PEER["probes"]}]},
            "/v1/counters": COUNTERS,
            "/v1/reload": {"error": None},
        }
        return answers[target]

    for module in (counters, lease, peer, reload, status):
        monkeypatch.setattr(module, "ask", ask)
    return sockets


@pytest.mark.parametrize(
    "command", ["status", "counters", "peer list", "peer show host-b", "lease list", "reload", "leases", "peers"]
)
def test_common_options_stand_before_or_after_the_command(
    command: str, asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = command.split()
    before = main(["--socket", "/s", "-j", *words]), capsys.readouterr().out
    after = main([*words, "--json", "--socket=/s"]), capsys.readouterr().out
    between = main([*words[:1], *(("--socket", "/s") if len(words) > 1 else ()), *words[1:], "-j"])
    assert (before, between) == (after, 0)
    assert before[0] == 0
    json.loads(before[1])
    assert asked[:2] == ["/s", "/s"]


def test_without_an_option_the_environment_names_the_socket(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OVERLAYD_CONTROL_SOCKET", raising=False)
    main(["status"])
    monkeypatch.setenv("OVERLAYD_CONTROL_SOCKET", "/other")
    main(["status"])
    assert asked == ["/run/overlayd/overlayd.sock", "/other"]


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["stauts"], "overlayctl: unknown command 'stauts'; did you mean status? See 'overlayctl --help'"),
        (["zzz"], "overlayctl: unknown command 'zzz'; the commands are status, peer, lease, attach, detach"),
        (["peer", "lsit"], "overlayctl peer: unknown command 'lsit'; did you mean list? See 'overlayctl peer --help'"),
        (["status", "--jsno"], "overlayctl status: unknown option --jsno; did you mean --json? See"),
        (["status", "--colour=no"], "overlayctl status: unknown option --colour; see 'overlayctl status --help'"),
        (["status", "now"], "overlayctl status: unexpected argument 'now'; see 'overlayctl status --help'"),
        (["top", "--interval", "0"], "overlayctl top: --interval: 0: must be between 0.1 and 3600 seconds; see"),
        (
            ["lab", "up", "--mode", "vxlam"],
            "overlayctl lab up: --mode: vxlam is not one of udp, vxlan, host-gw, wireguard, none;",
        ),
        (
            ["--socket=/s", "docker-opts"],
            "overlayctl: --socket does not apply to this command; see 'overlayctl --help'",
        ),
        (["peer"], "overlayctl peer: the following arguments are required: COMMAND; see 'overlayctl peer --help'"),
        (["etcd", "init"], "overlayctl etcd init: the following arguments are required: --backend; see"),
    ],
)
def test_a_usage_error_is_one_line_and_status_2(argv: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    seen = capsys.readouterr()
    assert seen.err.startswith(line)
    assert (seen.err.count("\n"), seen.out) == (1, "")


def test_own_validation_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["etcd", "init", "--network", "10.9.0.0/99", "--backend", "vxlan"]) == 2
    assert capsys.readouterr().err.startswith("overlayctl: --network: 10.9.0.0/99 ")
    assert main(["lease", "list", "--socket", "/nonexistent"]) == 1
    assert capsys.readouterr().err.startswith("overlayctl: /nonexistent: overlayd is not running here")


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (STATE, 0),
        (WRONG, 1),
        ({**STATE, "broken": ["ovl0: is gone"]}, 1),
        ({**STATE, "reload": {"count": 1, "error": "mtu: is wrong"}}, 1),
        ({"state": "waiting", "problems": ["waiting for etcd: no answer"]}, 1),
    ],
)
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_status_ends_with_1_where_it_lists_a_problem(
    state: dict[str, Any], code: int, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "ask", lambda *_: state)
    assert main(["status", *options]) == code


@pytest.mark.parametrize(("mode", "shown"), [("udp", False), ("host-gw", False), ("vxlan", True)])
def test_macs_are_shown_in_the_mode_that_has_them(
    mode: str, shown: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lease, "ask", lambda *_: {**STATE, "mode": mode})
    assert main(["lease", "list"]) == 0
    assert ("VTEP MAC" in capsys.readouterr().out) is shown


def test_a_lease_is_released_by_the_identity_in_any_state_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OVERLAYD_CONTROL_SOCKET", str(tmp_path / "socket"))
    (tmp_path / "overlayd.yaml").write_text("etcd:\n  endpoints: http://127.0.0.1:1\n")
    words = ["--config", str(tmp_path / "overlayd.yaml"), "--state-dir", str(tmp_path)]
    assert main(["lease", "release", *words]) == 1
    assert capsys.readouterr().err.startswith("overlayctl: etcd: http://127.0.0.1:1"), "the options are known"


@pytest.mark.parametrize(
    ("former", "now"),
    [
        (["leases"], "lease list"),
        (["peers"], "peer list"),
        (["peers", "--wrong"], "peer list --problems"),
    ],
)
def test_former_spellings_work_with_a_hint(
    former: list[str], now: str, asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(former) == 0
    seen = capsys.readouterr()
    assert main(now.split()) == 0
    assert seen.out == capsys.readouterr().out
    assert f"'{' '.join(former)}' is now 'overlayctl {now}'" in seen.err
    with pytest.raises(SystemExit):
        main(["--help"])
    assert f"    {former[0]} " not in capsys.readouterr().out, "it is not listed"


def test_leases_watch_is_lease_watch(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    event = {**STATE["peers"][0], "event": "added"}
    monkeypatch.setattr(lease, "follow", lambda *_: iter([event]))
    assert main(["leases", "--watch"]) == main(["lease", "watch"]) == 1, "the daemon has stopped"
    seen = capsys.readouterr()
    assert seen.out == "+  10.1.2.0/24  192.0.2.2  host-b\n" * 2
    assert "is now 'overlayctl lease watch'" in seen.err


def test_one_peer(asked: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("host-b", "192.0.2.2", "10.1.2.0/24"):
        assert main(["peer", "show", name]) == 0
        shown = capsys.readouterr().out
        for fact in ("host-b", "avg 0.52 ms", "5% of 20 probes", "1400", "overlayd 0.1.0, udp, overlay MTU 1472"):
            assert fact in shown
    assert main(["peer", "show", "host-bb"]) == 1
    assert "subnet host-bb; did you mean host-b?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv", [["--version"], ["--help"], ["status"], ["peer", "list"], ["lease", "list"], ["counters"]]
)
def test_what_a_question_to_the_daemon_does_not_import(argv: list[str]) -> None:
    program = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('\\n'.join(sys.modules), file=sys.stderr))\n"
        "from overlayd.cli.overlayctl import main\n"
        f"sys.exit(main({[*argv]!r}))"
    )
    environment = {**os.environ, "OVERLAYD_CONTROL_SOCKET": "/nonexistent/socket"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=60)
    loaded = set(done.stderr.splitlines())
    assert done.returncode == (0 if argv[0].startswith("-") else 1), done.stderr
    assert "overlayd.cli.overlayctl" in loaded
    assert loaded.isdisjoint(HEAVY + TOOLS)


@pytest.mark.parametrize("module", ["overlayd.cli.overlayctl", "overlayd"])
def test_a_reader_that_leaves_ends_it_quietly(module: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        argv = [sys.executable, "-m", module, "--help"]
        done = subprocess.run(argv, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reported_error_says_its_status() -> None:
    assert (ReportedError.exit_status, UsageError.exit_status) == (1, 2)
