"""Requests to etcd's JSON gateway and its answers, as values. No I/O.

1. errors     one type for each that callers treat differently
2. values     keys, changes of them, writes and their conditions
3. requests   bodies to be posted
4. answers    decoded to values or errors

Peculiarities of the gateway: 64-bit integers are strings, and zero or false values are left out; keys and values are
base64. A watch whose start was compacted is answered with status 200 and `canceled`.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

# --- 1. errors --------------------------------------------------------------------------------------------------------


class EtcdError(Exception):
    """etcd refused, and a retry does not help; the text holds no secret."""


class UnavailableError(EtcdError):
    """No endpoint answers, or etcd has no quorum: try again later."""


class CompactedError(EtcdError):
    """The revision asked for is gone: read everything anew."""


class DataLossError(EtcdError):
    """etcd no longer has the history that was followed: it was wiped, or restored from a backup."""


class UnauthenticatedError(EtcdError):
    """The token was refused."""


class AuthDisabledError(EtcdError):
    """etcd has no users."""


class LeaseNotFoundError(EtcdError):
    """The etcd lease has expired or was revoked."""


class LeaseExistsError(EtcdError):
    """An etcd lease with this ID was granted before."""


_REFUSED = {3, 7, 16}
"""gRPC codes after which a retry does not help: INVALID_ARGUMENT, PERMISSION_DENIED, UNAUTHENTICATED."""
_ERRORS: tuple[tuple[str, type[EtcdError]], ...] = (
    ("invalid auth token", UnauthenticatedError),
    ("required revision has been compacted", CompactedError),
    ("authentication is not enabled", AuthDisabledError),
    ("requested lease not found", LeaseNotFoundError),
    ("lease already exists", LeaseExistsError),
    ("too large lease TTL", EtcdError),
)
"""etcd's texts (api/v3rpc/rpctypes/error.go), whose gRPC codes stand for several errors each."""


# --- 2. values --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One key as it is at some revision."""

    key: str
    value: str
    lease: int
    """The etcd lease that it is bound to; 0: none, it never expires."""
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
    """The events in one answer of a watch; all events of one revision are in one batch."""

    events: tuple[Event, ...]

    @property
    def revision(self) -> int:
        """The revision up to which the watch has delivered everything; 0 for an empty batch. Not that of the answer's
        header: while a watch catches up, that one is ahead of the events, and resuming from it would lose them."""
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
    """The key range of one key: to read it, or to delete it."""
    return {"key": _encode(key)}


def every_key(prefix: str) -> Json:
    """The key range of a prefix: to read it, or to watch it."""
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
    """An answer. Raises UnavailableError when it is not etcd's, EtcdError for a client certificate that it refuses."""
    if "CommonName of client sending a request against gateway" in text:  # etcd: server/embed/serve.go
        raise EtcdError("with users, etcd refuses client certificates that have a CommonName; use one without it")
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UnavailableError(
            f"the answer {text[:40]!r} is not etcd's; check that this is its client port, and http or https"
        )
    return found


def refusal(endpoint: str, answer: Json, status: int) -> EtcdError:
    """etcd's error object as an exception. Unknown codes count as temporary."""
    details = answer.get("error", answer)
    code, text = answer.get("code"), details
    if isinstance(details, dict):  # a stream's
        code, text = details.get("grpc_code", details.get("code")), details.get("message")
    text = str(text or f"status {status}")[:200]
    for sign, error in _ERRORS:
        if sign in text:
            return error(f"{endpoint}: {text}" if error is CompactedError else text)
    if code == 16:
        return UnauthenticatedError(text)
    return EtcdError(text) if code in _REFUSED or status == 404 else UnavailableError(text)


def cancellation(endpoint: str, result: Json) -> CompactedError | UnavailableError:
    """Why etcd ended a watch."""
    if int(result.get("compact_revision", 0)):
        return CompactedError(f"{endpoint}: revisions before {result['compact_revision']} are compacted")
    reason = str(result.get("cancel_reason", "no reason given"))
    return UnavailableError(f"{endpoint}: the watch was refused: {reason}")


def revision_of(answer: Json) -> int:
    """The revision that an answer describes."""
    return int(answer.get("header", {}).get("revision", 0))


def cluster_of(answer: Json) -> str | None:
    """The ID of the cluster that an answer is from."""
    cluster: str | None = answer.get("header", {}).get("cluster_id")
    return cluster


def key_values(answer: Json) -> list[KeyValue]:
    """The keys in the answer to a read."""
    return [_key_value(kv) for kv in answer.get("kvs", [])]


def batch_of(result: Json) -> Batch:
    """The events in one answer of a watch."""
    return Batch(tuple(_event(event) for event in result.get("events", [])))


def _text(encoded: str) -> str:
    # Bytes that are not UTF-8 become a value that its parser refuses.
    return b64decode(encoded).decode(errors="replace")


def _key_value(kv: Json) -> KeyValue:
    return KeyValue(
        _text(kv["key"]), _text(kv.get("value", "")), int(kv.get("lease", 0)), int(kv.get("mod_revision", 0))
    )


def _event(event: Json) -> Event:
    kv = _key_value(event["kv"])
    return Event(kv.key, None if event.get("type") == "DELETE" else kv, kv.mod_revision)
