"""The state file: every attachment, and the boot in which they were made.

    {"version": 1, "boot_id": "0b7e...", "attachments": [...]}

No attachment outlives a reboot, so those of another boot are forgotten with their addresses. One that is not ready is
what a run of the daemon was at when it ended: its device, if there is one, is nobody's.
"""

from __future__ import annotations

import json

from overlayd.core.attach import values
from overlayd.core.attach.errors import AttachError
from overlayd.core.attach.model import by_key
from overlayd.core.attach.table import AttachmentTable

_VERSION = 1


def dump(boot_id: str, attachments: AttachmentTable) -> str:
    """The file's text."""
    listed = ",".join(attachments.texts)
    return f'{{"version":{_VERSION},"boot_id":{json.dumps(boot_id)},"attachments":[{listed}]}}\n'


def load(text: str, boot_id: str) -> AttachmentTable:
    """The attachments in a file that are still there in this boot. Raises AttachError for a file that is damaged."""
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AttachError(f"not JSON: {error}") from None
    found = values.mapping(given, "state", ("version", "boot_id", "attachments"))
    if found.get("version") != _VERSION:
        raise AttachError(f"version: {values.quoted(found.get('version'))} is not {_VERSION}")
    if found.get("boot_id") != boot_id:
        return AttachmentTable()
    return AttachmentTable(one for one in by_key(found.get("attachments")).values() if one.ready)
