"""What a host keeps for itself between runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from overlayd.system.errors import HostError
from overlayd.system.state_dir import StateDir


def store(directory: Path, **more: bool) -> StateDir:
    return StateDir(directory / "state", directory / "subnet.env", **more)


def test_an_identity_is_made_once(tmp_path: Path) -> None:
    made = store(tmp_path).node_id()
    assert len(made) == 32
    assert store(tmp_path).node_id() == made
    (tmp_path / "state" / "node-id").unlink()
    assert store(tmp_path).node_id() != made


def test_looking_only_makes_nothing(tmp_path: Path) -> None:
    assert len(store(tmp_path, read_only=True).node_id()) == 32
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "x\n", "0" * 31, "\x1b[31m" * 8])
def test_an_identity_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "node-id").write_text(text)
    with pytest.raises(HostError, match="node-id: not a valid node identity; remove it to get a new one"):
        store(tmp_path).node_id()


def test_leases_are_kept_for_nobody_elses_eyes(tmp_path: Path) -> None:
    assert store(tmp_path).load() is None
    store(tmp_path).save("text")
    assert store(tmp_path).load() == "text"
    assert (tmp_path / "state" / "leases.json").stat().st_mode & 0o777 == 0o600


def test_what_cannot_be_saved_or_read_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the directory belongs")
    store(tmp_path).save("text")
    assert store(tmp_path).load() is None


def test_leases_that_are_no_text_are_none(tmp_path: Path) -> None:
    store(tmp_path).save("text")
    (tmp_path / "state" / "leases.json").write_bytes(b"\xff")
    assert store(tmp_path).load() is None


@pytest.mark.parametrize(
    ("text", "subnets"),
    [
        (None, []),
        ("", []),
        ("FLANNEL_SUBNET=x\n", []),
        ("FLANNEL_SUBNET=10.5.72.1/24\nFLANNEL_MTU=1450\n", ["10.5.72.0/24"]),
        ("FLANNEL_SUBNET=10.5.72.1/24\nFLANNEL_IPV6_SUBNET=fc00:0:0:48::1/64\n", ["10.5.72.0/24", "fc00:0:0:48::/64"]),
    ],
)
def test_former_subnets(tmp_path: Path, text: str | None, subnets: list[str]) -> None:
    if text is not None:
        (tmp_path / "subnet.env").write_text(text)
    assert [str(one) for one in store(tmp_path).former_subnets()] == subnets
