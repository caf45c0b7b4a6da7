"""What is kept on disk of what etcd holds, for a start without etcd: the keys as they came, as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from overlayd.registry.etcd.messages import KeyValue


@dataclass(frozen=True, slots=True)
class Saved:
    """Everything under a prefix at one revision."""

    keys: tuple[KeyValue, ...]
    revision: int
    at: float
    """When it was saved, seconds since the epoch."""


def saved_text(prefix: str, keys: Iterable[KeyValue], revision: int, at: float) -> str:
    """What is written to the disk."""
    rows = [(kv.key, kv.value, kv.lease, kv.mod_revision) for kv in keys]
    return json.dumps({"prefix": prefix, "saved": at, "revision": revision, "keys": rows}, separators=(",", ":"))


def parse_saved(text: str, prefix: str) -> Saved | None:
    """What was written; None where it is another prefix's. Raises ValueError when the text makes no sense."""
    try:
        saved = json.loads(text)
        if saved["prefix"] != prefix:
            return None
        keys = tuple(KeyValue(str(key), str(value), int(lease), int(mod)) for key, value, lease, mod in saved["keys"])
        return Saved(keys, int(saved["revision"]), float(saved["saved"]))
    except (TypeError, KeyError) as error:
        raise ValueError(f"no saved leases: {error}") from None
