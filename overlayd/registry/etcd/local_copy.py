"""A copy on disk of what etcd holds, for a start while etcd is unreachable: the keys as received, in JSON."""

from __future__ import annotations

import asyncio
import json
import time

from overlayd.log import log
from overlayd.registry.base import Store
from overlayd.registry.etcd.connectivity import Sleep
from overlayd.registry.etcd.messages import KeyValue
from overlayd.registry.etcd.view import View

_SAVE_FIRST, _SAVE_EVERY = 1.0, 30.0  # seconds


class LocalCopy:
    """Saves a view, and restores it."""

    def __init__(self, view: View, store: Store) -> None:
        self._view, self._store = view, store
        self.restored: float | None = None
        """Seconds since the epoch at which the view was saved, while it is from this host's disk."""
        self._unsaved = asyncio.Event()

    def changed(self) -> None:
        """The view is etcd's, and not saved yet."""
        self.restored = None
        self._unsaved.set()

    async def run(self, sleep: Sleep) -> None:
        """Save changes, at most every half minute, without end."""
        await self._unsaved.wait()
        await sleep(_SAVE_FIRST)
        while True:
            await self._unsaved.wait()
            await asyncio.to_thread(self._store.save, self._text())
            await sleep(_SAVE_EVERY)

    def flush(self) -> None:
        """Save what is not saved yet."""
        if self._unsaved.is_set():
            self._store.save(self._text())

    def restore(self, node: str) -> bool:
        """Load the copy into the view if it has a lease of the node with this identity."""
        text = self._store.load()
        if text is None:
            return False
        try:
            found = _parse(text)
        except ValueError as error:
            log.warning("the saved leases are invalid and not used", error=str(error))
            return False
        prefix, keys, revision, saved = found
        if prefix != self._view.prefix:
            return False
        self._view.load(keys, revision)
        if self._view.config is None or all(record.id != node for record, _ in self._view.hosts.values()):
            self._view.load((), 0)
            return False
        self.restored = saved
        log.warning(
            "etcd is unreachable: using the last known leases",
            saved=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(saved)),
            leases=len(self._view.held),
        )
        return True

    def _text(self) -> str:
        self._unsaved.clear()
        view = self._view
        rows = [(kv.key, kv.value, kv.lease, kv.mod_revision) for kv in view.keys.values()]
        found = {"prefix": view.prefix, "saved": time.time(), "revision": view.revision, "keys": rows}
        return json.dumps(found, separators=(",", ":"))


def _parse(text: str) -> tuple[str, list[KeyValue], int, float]:
    """Prefix, keys, revision and the time of saving. Raises ValueError."""
    try:
        saved = json.loads(text)
        keys = [KeyValue(str(key), str(value), int(lease), int(mod)) for key, value, lease, mod in saved["keys"]]
        return str(saved["prefix"]), keys, int(saved["revision"]), float(saved["saved"])
    except (TypeError, KeyError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None
