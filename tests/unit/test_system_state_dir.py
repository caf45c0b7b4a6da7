"""What a host keeps for itself between runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from overlayd.system.errors import HostError
from overlayd.system.state_dir import StateDir


def store(directory: Path) -> StateDir:
    return StateDir(directory / "state", directory / "subnet.env")


def test_an_identity_is_made_once(tmp_path: Path) -> None:
    first = store(tmp_path)
    made = first.node_id()
    assert len(made) == 32
    first.keep_id()
    assert store(tmp_path).node_id() == made
    store(tmp_path).keep_id()
    assert store(tmp_path).node_id() == made
    (tmp_path / "state" / "node-id").unlink()
    assert store(tmp_path).node_id() != made


def test_an_identity_is_not_kept_before_it_is_to_be(tmp_path: Path) -> None:
    one = store(tmp_path)
    assert one.node_id() == one.node_id()
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
