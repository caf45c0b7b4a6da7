"""Attachments on the disk: those of this boot are found again, and a damaged file is put aside."""

from __future__ import annotations

from pathlib import Path

import pytest

from overlayd.core.attach.model import Attachment
from overlayd.core.attach.table import AttachmentTable
from overlayd.system.attachment_file import AttachmentFile
from overlayd.system.errors import HostError
from support.attached import ONE
from support.logs import capture_logs


def test_what_is_saved_is_loaded_in_the_same_boot(tmp_path: Path) -> None:
    boot = tmp_path / "boot_id"
    boot.write_text("one\n")
    file = AttachmentFile(tmp_path / "state", boot_id=boot)
    assert list(file.load()) == []
    file.save(AttachmentTable([ONE]))
    assert (tmp_path / "state/attachments.json").stat().st_mode & 0o777 == 0o600
    assert list(file.load()) == [ONE]
    boot.write_text("two\n")
    assert list(AttachmentFile(tmp_path / "state", boot_id=boot).load()) == []


def test_the_kernels_boot_id_is_the_stamp(tmp_path: Path) -> None:
    AttachmentFile(tmp_path).save(AttachmentTable([ONE]))
    found = list(AttachmentFile(tmp_path).load())
    assert found == [ONE]
    assert isinstance(found[0], Attachment)


@pytest.mark.parametrize("text", ["", "{", '{"version":1,"boot_id":"x","attachments":7}', "\0" * 100])
def test_a_damaged_file_is_put_aside_and_said(tmp_path: Path, text: str) -> None:
    boot, path = tmp_path / "boot_id", tmp_path / "attachments.json"
    boot.write_text("x")
    path.write_text(text)
    with capture_logs() as lines:
        assert list(AttachmentFile(tmp_path, boot_id=boot, read_only=True).load()) == []
        assert path.exists(), "overlayd --check changes nothing"
        assert list(AttachmentFile(tmp_path, boot_id=boot).load()) == []
    assert len(lines) == 2
    assert not path.exists()
    assert path.with_suffix(".invalid").read_text() == text


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(HostError, match="check the directory"):
        AttachmentFile(tmp_path / "state").save(AttachmentTable([ONE]))
