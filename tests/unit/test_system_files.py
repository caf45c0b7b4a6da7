"""Files: read with a bound, written whole or not at all; kernel switches."""

from __future__ import annotations

import os
import stat
import sys
import threading
from pathlib import Path

import pytest

from overlayd.system import files
from overlayd.system.errors import HostError
from overlayd.system.files import read_sysctl, read_text, write_atomically, write_sysctl


def test_a_file_is_written_with_its_mode_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "subnet.env"
    old_mask = os.umask(0o077)
    try:
        write_atomically(path, "one\n")
        assert stat.S_IMODE(path.stat().st_mode) == 0o644, "container engines read it, whatever the umask"
        write_atomically(path, "two\n", mode=0o600)
    finally:
        os.umask(old_mask)
    assert path.read_text() == "two\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_a_reader_sees_the_old_text_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    texts = {character * 100_000 for character in "ab"}
    write_atomically(path, min(texts))
    seen: set[str] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(path.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(50):
        for text in texts:
            write_atomically(path, text)
    done.set()
    reader.join()
    assert seen <= texts


def test_what_cannot_be_written_leaves_everything_as_it_was(tmp_path: Path) -> None:
    directory = tmp_path / "there"
    directory.mkdir()
    with pytest.raises(HostError, match=r"there: .*; check the directory and its permissions"):
        write_atomically(directory, "text")  # a directory stands where the file should be
    assert list(tmp_path.iterdir()) == [directory]
    file = tmp_path / "file"
    file.write_text("old")
    with pytest.raises(HostError, match=r"check the directory and its permissions"):
        write_atomically(file / "below", "text")
    assert file.read_text() == "old"


def test_text_that_cannot_be_encoded_leaves_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises((UnicodeEncodeError, HostError)):
        write_atomically(path, "\udc80")
    assert list(tmp_path.iterdir()) == []


def test_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("grüß\n")
    assert read_text(path) == "grüß\n"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(HostError, match=r"file: is not UTF-8 text; is it the right file\?"):
        read_text(path)
    monkeypatch.setattr(files, "_LIMIT", 1 << 20)
    path.write_bytes(b"x" * (1 << 20))
    assert len(read_text(path)) == 1 << 20
    path.write_bytes(b"x" * ((1 << 20) + 1))
    with pytest.raises(HostError, match=r"file: larger than 1 MiB; is it the right file\?"):
        read_text(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [("none", "No such file or directory"), (".", "Is a directory"), ("file/below", "Not a directory")],
)
def test_what_cannot_be_read(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match=rf"{text}; check the path and its permissions"):
        read_text(tmp_path / name)


def test_an_endless_file_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_LIMIT", 1 << 16)
    with pytest.raises(HostError, match="larger than"):
        read_text(Path("/dev/zero"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/sys")
def test_kernel_switches() -> None:
    assert read_sysctl("kernel/ostype") == "Linux"
    assert read_sysctl("net/ipv4/no_such_switch") is None
    with pytest.raises(HostError, match=r"net\.ipv4\.no_such_switch = 1: .*; set it with sysctl -w as root"):
        write_sysctl("net/ipv4/no_such_switch", "1")
