"""This host's private WireGuard key: 32 bytes, in a file that nobody else may read, as `wg genkey` prints it."""

from __future__ import annotations

import base64
import secrets
import stat
from pathlib import Path

from overlayd.system.errors import HostError
from overlayd.system.files import read_text, write_atomically


def read_private_key(path: Path) -> bytes:
    """The key. Raises HostError where it cannot be read, is not a key, or others may read it."""
    text = read_text(path).strip()
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}; check the path and its permissions") from None
    if mode & 0o077:
        raise HostError(f"{path}: its mode is {mode:04o}, so others may read this host's private key; chmod 600 {path}")
    try:
        key = base64.b64decode(text, validate=True)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise HostError(f"{path}: not a WireGuard private key; write one (wg genkey), or remove it to get a new one")
    return key


def make_private_key(path: Path) -> bytes:
    """A new key, at random, which is in the file before it is used. Raises HostError."""
    key = bytearray(secrets.token_bytes(32))
    key[0] &= 248
    key[31] = key[31] & 127 | 64  # RFC 7748, section 5: what `wg` would make of it
    write_atomically(path, base64.b64encode(key).decode() + "\n", mode=0o600)
    return bytes(key)
