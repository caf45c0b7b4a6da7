"""What is kept about labs, and the care with which processes are ended."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from overlayd.lab import state as states
from overlayd.lab.spec import LabSpec
from overlayd.lab.state import LabState, Process


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(states, "RUN_DIR", tmp_path / "labs")
    monkeypatch.setattr(states, "NETNS_DIR", tmp_path / "netns")
    return tmp_path / "labs"


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(["sleep", "1000"])
    yield child
    child.kill()
    child.wait()


def myself() -> Process:
    process = Process.of(os.getpid())
    assert process is not None
    return process


def test_a_process_is_its_pid_and_its_start() -> None:
    me = myself()
    assert me.alive
    assert not Process(me.pid, me.started + 1).alive
    assert Process.of(2**22 + 1) is None  # beyond the kernel's largest pid


def test_a_name_with_brackets_and_spaces_does_not_move_the_fields(tmp_path: Path) -> None:
    program = tmp_path / "a) R 1 (b"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "1000"]) as child:
        found, me = Process.of(child.pid), myself()
        child.kill()
    assert found is not None
    assert found.started >= me.started


def test_a_zombie_is_no_process(sleeper: subprocess.Popen[bytes]) -> None:
    process = Process.of(sleeper.pid)
    assert process is not None
    os.kill(sleeper.pid, signal.SIGKILL)
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)  # it has ended and nobody has collected it
    assert not process.alive


def test_a_recycled_pid_is_never_signalled(sleeper: subprocess.Popen[bytes]) -> None:
    process = Process.of(sleeper.pid)
    assert process is not None
    states.end([Process(process.pid, process.started - 1)])
    assert process.alive
    states.end([process])
    assert sleeper.wait() == -signal.SIGTERM


def test_what_ignores_sigterm_is_killed() -> None:
    with subprocess.Popen(["sh", "-c", "trap '' TERM; echo; while :; do sleep 0.01; done"], stdout=-1) as child:
        assert child.stdout is not None
        child.stdout.readline()  # the trap is set
        process = Process.of(child.pid)
        assert process is not None
        states.end([process], timeout=0.1)
        assert child.wait() == -signal.SIGKILL


def test_state_survives_the_disk(run_dir: Path) -> None:
    state = LabState(LabSpec(name="x", settings={"udp": {"port": 9}}), owner=myself(), daemons={"h1": Process(7, 8)})
    state.directory.mkdir(parents=True)
    state.save()
    assert LabState.load("x") == state
    assert not state.orphaned
    assert [path.name for path in (run_dir / "x").iterdir()] == ["lab.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"spec": {"name": "x", "planets": 2}, "owner": null}'])
def test_a_state_that_cannot_be_read_is_none_and_stays(run_dir: Path, text: str) -> None:
    (run_dir / "x").mkdir(parents=True)
    (run_dir / "x/lab.json").write_text(text)
    assert LabState.load("x") is None
    assert states.reap() == []
    assert states.names() == ["x"]


def test_reap_ends_orphans_and_claims_that_came_to_nothing(run_dir: Path) -> None:
    me = myself()
    for name, owner in (("mine", me), ("orphan", Process(me.pid, me.started - 1)), ("everyones", None)):
        state = LabState(LabSpec(name=name), owner=owner)
        state.directory.mkdir(parents=True)
        state.save()
    (run_dir / "empty").mkdir()
    assert states.reap() == ["empty", "orphan"]
    assert states.names() == ["everyones", "mine"]
