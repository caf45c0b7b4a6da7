"""The functions that WireGuard is made of (paper, section 5.4), by libcrypto through `cryptography` and hashlib."""

from __future__ import annotations

import hashlib
import hmac
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

__all__ = ["ChaCha20Poly1305", "InvalidTag"]

_SIGMA = struct.unpack("<4I", b"expand 32-byte k")
_WORDS = struct.Struct("<4I")
_NONCE_0 = bytes(12)


def hash_of(*parts: bytes) -> bytes:
    """BLAKE2s-256."""
    return hashlib.blake2s(b"".join(parts)).digest()


def mac(key: bytes, data: bytes) -> bytes:
    """Keyed BLAKE2s-128, 16 bytes."""
    return hashlib.blake2s(data, key=key, digest_size=16).digest()


def derive(key: bytes, data: bytes, count: int) -> list[bytes]:
    """KDF of `count` keys of 32 bytes: HKDF (RFC 5869) with HMAC-BLAKE2s and no info."""
    secret, last, found = hmac.digest(key, data, "blake2s"), b"", []
    for number in range(1, count + 1):
        last = hmac.digest(secret, last + bytes([number]), "blake2s")
        found.append(last)
    return found


def equal(one: bytes, other: bytes) -> bool:
    """Compare secrets in constant time."""
    return hmac.compare_digest(one, other)


def seal(key: bytes, text: bytes, bound: bytes) -> bytes:
    """ChaCha20-Poly1305 under a key that is used once, and so with nonce 0; `bound` is authenticated as well."""
    return ChaCha20Poly1305(key).encrypt(_NONCE_0, text, bound)


def open_sealed(key: bytes, sealed: bytes, bound: bytes) -> bytes:
    """The reverse. Raises InvalidTag."""
    return ChaCha20Poly1305(key).decrypt(_NONCE_0, sealed, bound)


def hchacha20(key: bytes, nonce: bytes) -> bytes:
    """draft-irtf-cfrg-xchacha, section 2.2. `nonce`: 16 bytes. It is ChaCha20's first block, whose addition of the
    initial state is taken back, less the middle words."""
    block = Cipher(ChaCha20(key, nonce), None).encryptor().update(bytes(64))
    first = (word - start & 0xFFFFFFFF for word, start in zip(_WORDS.unpack_from(block), _SIGMA, strict=True))
    last = (
        word - start & 0xFFFFFFFF
        for word, start in zip(_WORDS.unpack_from(block, 48), _WORDS.unpack(nonce), strict=True)
    )
    return _WORDS.pack(*first) + _WORDS.pack(*last)


def _xchacha(key: bytes, nonce: bytes) -> tuple[ChaCha20Poly1305, bytes]:
    return ChaCha20Poly1305(hchacha20(key, nonce[:16])), bytes(4) + nonce[16:]


def xseal(key: bytes, nonce: bytes, text: bytes, bound: bytes) -> bytes:
    """XChaCha20-Poly1305. `nonce`: 24 bytes, at random."""
    cipher, short = _xchacha(key, nonce)
    return cipher.encrypt(short, text, bound)


def open_xsealed(key: bytes, nonce: bytes, sealed: bytes, bound: bytes) -> bytes:
    """The reverse. Raises InvalidTag."""
    cipher, short = _xchacha(key, nonce)
    return cipher.decrypt(short, sealed, bound)


class PrivateKey:
    """An X25519 key pair (RFC 7748). It does not show what it holds."""

    __slots__ = ("_key", "public")

    def __init__(self, raw: bytes) -> None:
        """`raw`: 32 bytes."""
        self._key = X25519PrivateKey.from_private_bytes(raw)
        self.public = self._key.public_key().public_bytes_raw()

    def agree(self, public: bytes) -> bytes | None:
        """The shared secret with who holds the other key; None where `public` is of low order, and there is none."""
        try:
            return self._key.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError:
            return None
