"""What is said to etcd's JSON gateway and what it answers, as values. Nothing here does I/O.

1. errors     what etcd refuses, and whether trying again helps
2. values     keys, changes of them, writes and their conditions
3. requests   bodies to be posted
4. answers    what comes back, as values or errors

What is odd about the gateway: 64-bit integers are strings, and what is zero or false is left out; keys and values are
base64. A watch whose start was compacted is answered with status 200 and `canceled`.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

_REFUSED = {3: "invalid argument", 7: "permission denied", 16: "unauthenticated"}  # gRPC codes that no retry heals
_COMPACTED = "required revision has been compacted"

# --- 1. errors --------------------------------------------------------------------------------------------------------


class EtcdError(Exception):
    """etcd refused; the text says what was asked and the answer, and holds no secret."""


class UnavailableError(EtcdError):
    """No endpoint answers, or etcd has no quorum: to be tried again later."""


class CompactedError(EtcdError):
    """The revision asked for is gone: read everything anew."""


class UnauthenticatedError(EtcdError):
    """The token was refused."""


# --- 2. values --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One key as it is at some revision."""

    key: str
    value: str
    lease: int
    """The etcd lease that it lives as long as; 0 is for ever."""
    mod_revision: int
    """The revision that wrote it last."""


@dataclass(frozen=True, slots=True)
class Event:
    """One change of a key; without `kv` it was deleted."""

    key: str
    kv: KeyValue | None
    revision: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What one answer of a watch tells; everything of one revision is in one batch."""

    events: tuple[Event, ...]

    @property
    def revision(self) -> int:
        """The revision up to which everything has been told; 0 for an empty batch. Not that of the answer's header:
        while a watch catches up, that one is ahead of the events, and whoever resumed there would lose them."""
        return max((event.revision for event in self.events), default=0)


@dataclass(frozen=True, slots=True)
class Put:
    """Write a key, bound to an etcd lease or to none."""

    key: str
    value: str
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete a key."""

    key: str


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The condition that a key was last written by this revision; 0: that it does not exist."""

    key: str
    mod_revision: int


# --- 3. requests ------------------------------------------------------------------------------------------------------


def prefix_end(prefix: str) -> str:
    """The first key after all keys with this prefix (ASCII)."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def one_key(key: str) -> Json:
    """What names one key: to read it, or to delete it."""
    return {"key": _encode(key)}


def every_key(prefix: str) -> Json:
    """What names the keys with this prefix: to read them, or to watch them."""
    return {"key": _encode(prefix), "range_end": _encode(prefix_end(prefix))}


def next_page(body: Json, last: KeyValue, revision: int) -> Json:
    """The request for the keys after the `last` one, as they were at `revision`."""
    return {**body, "key": _encode(last.key + "\0"), "revision": str(revision)}


def transaction(conditions: Sequence[Unchanged], writes: Sequence[Put | Delete]) -> Json:
    """All writes at once if all conditions hold, else none."""
    compare = [
        {"key": _encode(one.key), "target": "MOD", "mod_revision": str(one.mod_revision), "result": "EQUAL"}
        for one in conditions
    ]
    success: list[Json] = []
    for write in writes:
        if isinstance(write, Put):
            put = {"key": _encode(write.key), "value": _encode(write.value), "lease": str(write.lease)}
            success.append({"request_put": put})
        else:
            success.append({"request_delete_range": one_key(write.key)})
    return {"compare": compare, "success": success}


def _encode(text: str) -> str:
    return b64encode(text.encode()).decode()


# --- 4. answers -------------------------------------------------------------------------------------------------------


def decode(text: str) -> Json:
    """An answer. Raises UnavailableError for what is no etcd's."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UnavailableError(f"answers {text[:40]!r}, which is no etcd's; is it the client port, and http or https?")
    return found


def refusal(endpoint: str, answer: Json, status: int) -> EtcdError:
    """etcd's error object as an exception. Unknown codes count as passing: they are tried again."""
    details = answer.get("error", answer)
    code, text = answer.get("code"), details
    if isinstance(details, dict):  # a stream's
        code, text = details.get("grpc_code", details.get("code")), details.get("message")
    text = str(text or f"status {status}")[:200]
    if code == 16 or "invalid auth token" in text:
        return UnauthenticatedError(text)
    if _COMPACTED in text:
        return CompactedError(f"{endpoint}: {text}")
    if code in _REFUSED or status == 404 or "lease" in text or "not enabled" in text:
        return EtcdError(text)
    return UnavailableError(text)


def cancellation(endpoint: str, result: Json) -> CompactedError | UnavailableError:
    """Why etcd ended a watch."""
    if int(result.get("compact_revision", 0)):
        return CompactedError(f"{endpoint}: revisions before {result['compact_revision']} are compacted")
    reason = str(result.get("cancel_reason", "no reason given"))
    return UnavailableError(f"{endpoint}: the watch was refused: {reason}")


def revision_of(answer: Json) -> int:
    """The revision at which an answer is so."""
    return int(answer.get("header", {}).get("revision", 0))


def key_values(answer: Json) -> list[KeyValue]:
    """The keys that a read found."""
    return [_key_value(kv) for kv in answer.get("kvs", [])]


def batch_of(result: Json) -> Batch:
    """What one answer of a watch tells."""
    return Batch(tuple(_event(event) for event in result.get("events", [])))


def _text(encoded: str) -> str:
    # What is no UTF-8 is somebody else's mistake, and becomes a value that its reader refuses.
    return b64decode(encoded).decode(errors="replace")


def _key_value(kv: Json) -> KeyValue:
    return KeyValue(
        _text(kv["key"]), _text(kv.get("value", "")), int(kv.get("lease", 0)), int(kv.get("mod_revision", 0))
    )


def _event(event: Json) -> Event:
    kv = _key_value(event["kv"])
    return Event(kv.key, None if event.get("type") == "DELETE" else kv, kv.mod_revision)
