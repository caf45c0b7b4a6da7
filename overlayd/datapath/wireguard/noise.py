"""WireGuard's handshake: Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s (noiseprotocol.org, revision 34; paper, section 5.4).

    initiator   Initiating(...).message(stamp)  ---->  read_initiation: whose is it?     responder
                                                       Initiated.stamp(peer): is it newer than the last one?
                .finish(response): keys        <----   Initiated.respond(peer, ...): keys

No I/O, no clock, no randomness: ephemeral keys, indices and time stamps come in. What is not authentic is None.
"""

from __future__ import annotations

from typing import NamedTuple

from overlayd.datapath.wireguard.primitives import InvalidTag, PrivateKey, derive, hash_of, open_sealed, seal
from overlayd.wire.wireguard import KEY, Initiation, Response

_CHAIN = hash_of(b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s")
_PROLOGUE = hash_of(_CHAIN, b"WireGuard v1 zx2c4 Jason@zx2c4.com")
NO_PSK = bytes(KEY)
"""The preshared key where there is none: it is mixed in all the same."""


class SessionKeys(NamedTuple):
    """What a handshake is for."""

    send: bytes
    receive: bytes


class RemoteStatic(NamedTuple):
    """A peer's static key, and what is computed from it once."""

    public: bytes
    psk: bytes
    shared: bytes
    """With our own static key."""

    @classmethod
    def of(cls, public: bytes, own: PrivateKey, psk: bytes = NO_PSK) -> RemoteStatic | None:
        """None where `public` is of low order: not a key that a peer can hold."""
        shared = own.agree(public)
        return None if shared is None else cls(public, psk, shared)


class _NoSecretError(Exception):
    """A step that leads to no common secret."""


class _Symmetric:
    """Noise's symmetric state: chaining key and hash."""

    __slots__ = ("chain", "hash")

    def __init__(self, responder: bytes) -> None:
        self.chain, self.hash = _CHAIN, hash_of(_PROLOGUE, responder)

    def mix_hash(self, data: bytes) -> None:
        self.hash = hash_of(self.hash, data)

    def mix_public(self, public: bytes) -> None:
        """A token `e` of a handshake with a preshared key."""
        self.mix_hash(public)
        (self.chain,) = derive(self.chain, public, 1)

    def mix_secret(self, secret: bytes | None) -> bytes:
        """A token of two letters; the key for what is sealed next."""
        if secret is None:
            raise _NoSecretError
        self.chain, key = derive(self.chain, secret, 2)
        return key

    def mix_psk(self, psk: bytes) -> bytes:
        self.chain, mixed, key = derive(self.chain, psk, 3)
        self.mix_hash(mixed)
        return key

    def seal(self, key: bytes, text: bytes) -> bytes:
        sealed = seal(key, text, self.hash)
        self.mix_hash(sealed)
        return sealed

    def open(self, key: bytes, sealed: bytes) -> bytes:
        text = open_sealed(key, sealed, self.hash)
        self.mix_hash(sealed)
        return text

    def copy(self) -> _Symmetric:
        other = object.__new__(_Symmetric)
        other.chain, other.hash = self.chain, self.hash
        return other

    def split(self) -> list[bytes]:
        """The initiator's sending key, the responder's."""
        return derive(self.chain, b"", 2)


class Initiating:
    """A handshake that this host has begun."""

    def __init__(self, own: PrivateKey, remote: RemoteStatic, ephemeral: PrivateKey, index: int) -> None:
        self._own, self._remote, self._ephemeral = own, remote, ephemeral
        self.index = index
        self._state = _Symmetric(remote.public)

    def message(self, stamp: bytes) -> bytes:
        """The initiation, without MACs; called once."""
        state = self._state
        state.mix_public(self._ephemeral.public)
        static = state.seal(state.mix_secret(self._ephemeral.agree(self._remote.public)), self._own.public)
        sealed = state.seal(state.mix_secret(self._remote.shared), stamp)
        return Initiation(self.index, self._ephemeral.public, static, sealed).encode()

    def finish(self, response: Response) -> SessionKeys | None:
        """The keys; None where the response is not that peer's to this initiation, which then may still come."""
        state = self._state.copy()
        try:
            state.mix_public(response.ephemeral)
            state.mix_secret(self._ephemeral.agree(response.ephemeral))
            state.mix_secret(self._own.agree(response.ephemeral))
            state.open(state.mix_psk(self._remote.psk), response.nothing)
        except (_NoSecretError, InvalidTag):
            return None
        return SessionKeys(*state.split())


class Initiated:
    """A handshake that a peer has begun. `public` is its static key, encrypted to us; anybody could do that, and who it
    is shows in `stamp` only."""

    def __init__(self, own: PrivateKey, initiation: Initiation) -> None:
        """Raises _NoSecretError, InvalidTag."""
        self._initiation = initiation
        self.sender = initiation.sender
        self._state = state = _Symmetric(own.public)
        state.mix_public(initiation.ephemeral)
        self.public = state.open(state.mix_secret(own.agree(initiation.ephemeral)), initiation.static)

    def stamp(self, remote: RemoteStatic) -> bytes | None:
        """The time stamp, by which the peer that holds `public` is authenticated; called once."""
        try:
            return self._state.open(self._state.mix_secret(remote.shared), self._initiation.stamp)
        except InvalidTag:
            return None

    def respond(self, remote: RemoteStatic, ephemeral: PrivateKey, index: int) -> tuple[bytes, SessionKeys]:
        """The response, without MACs, and the keys; called after `stamp`."""
        state = self._state
        state.mix_public(ephemeral.public)
        state.mix_secret(ephemeral.agree(self._initiation.ephemeral))
        state.mix_secret(ephemeral.agree(remote.public))
        nothing = state.seal(state.mix_psk(remote.psk), b"")
        send, receive = reversed(state.split())
        return Response(index, self._initiation.sender, ephemeral.public, nothing).encode(), SessionKeys(send, receive)


def read_initiation(own: PrivateKey, initiation: Initiation) -> Initiated | None:
    """The handshake in a message; None where it was not made for our key."""
    try:
        return Initiated(own, initiation)
    except (_NoSecretError, InvalidTag):
        return None
