"""Proof that a peer holds the resume key: HMAC-SHA256 with a key derived per epoch (design, section 4).

Checked from a request's head alone, before a body is read. Contents are protected by TLS, not by this.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from enum import StrEnum
from typing import Final

__all__ = [
    "FIRST_EPOCH",
    "KEY_SIZE",
    "PROOF_SIZE",
    "Prover",
    "Purpose",
    "attach_tag",
    "epoch_key",
    "hkdf",
    "hkdf_expand",
    "hkdf_extract",
    "proof",
    "verify",
]

FIRST_EPOCH: Final = 1  # of a new session's first connection
KEY_SIZE: Final = 32
PROOF_SIZE: Final = hashlib.sha256().digest_size
_EPOCH_INFO: Final = b"tunnelkit 1 epoch"
# RFC 2104: what the key, filled up to a block, is mixed with. ``hmac.digest`` looks for its hash by name every time,
# which takes longer than the rest of a proof.
_BLOCK: Final = 64
_INNER_PAD: Final = bytes(byte ^ 0x36 for byte in range(256))
_OUTER_PAD: Final = bytes(byte ^ 0x5C for byte in range(256))

_NUMBERS: Final = struct.Struct("!IQQ")  # epoch, number, length


class Purpose(StrEnum):
    """What a proof is good for; one made for one purpose proves nothing for another."""

    RESUME = "resume"  # in the handshake of a resume and in ATTACH
    GIVE_UP = "give_up"  # a handshake that names a session to be ended
    POLL = "poll"  # a long-poll request down
    POST = "post"  # a long-poll request up
    PROBE = "probe"  # a long-poll request that asks whether answers pass unbuffered
    CLOSE = "close"  # the end of a long-poll connection


def hkdf_extract(salt: bytes, key_material: bytes) -> bytes:
    """RFC 5869 2.2; no salt is a string of zeros of the digest's size."""
    return hmac.digest(salt or bytes(PROOF_SIZE), key_material, "sha256")


def hkdf_expand(key: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869 2.3."""
    if not 0 < length <= 255 * PROOF_SIZE:
        raise ValueError(f"HKDF gives 1 to {255 * PROOF_SIZE} bytes, not {length}")
    output, block, counter = b"", b"", 1
    while len(output) < length:
        block = hmac.digest(key, block + info + bytes((counter,)), "sha256")
        output += block
        counter += 1
    return output[:length]


def hkdf(key_material: bytes, *, salt: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869 with SHA-256."""
    return hkdf_expand(hkdf_extract(salt, key_material), info, length)


def epoch_key(resume_key: bytes, epoch: int) -> bytes:
    """The key of one epoch: proofs of an older one are void without a table of used ones."""
    if len(resume_key) != KEY_SIZE:
        raise ValueError(f"a resume key has {KEY_SIZE} bytes, not {len(resume_key)}")
    return hkdf(resume_key, salt=b"", info=_EPOCH_INFO + epoch.to_bytes(4), length=KEY_SIZE)


def proof(key: bytes, purpose: str, session_id: str, epoch: int, number: int = 0, length: int = 0) -> bytes:
    """The tag over all that it vouches for. Texts carry their length, so no two inputs give the same bytes."""
    return hmac.digest(key, _texts(purpose, session_id) + _NUMBERS.pack(epoch, number, length), "sha256")


def _texts(*texts: str) -> bytes:
    encoded = [text.encode() for text in texts]
    return b"".join(len(text).to_bytes(2) + text for text in encoded)


def verify(
    tag: bytes, key: bytes, purpose: str, session_id: str, epoch: int, number: int = 0, length: int = 0
) -> bool:
    """Whether ``tag`` is the proof of just this, compared in constant time."""
    return hmac.compare_digest(tag, proof(key, purpose, session_id, epoch, number, length))


def attach_tag(resume_key: bytes, session_id: str, epoch: int) -> bytes:
    """The tag of an ATTACH, which the handshake of a resume carries too."""
    return proof(epoch_key(resume_key, epoch), Purpose.RESUME, session_id, epoch)


class Prover:
    """The proofs of one connection's own requests, in both directions; the key is derived once."""

    __slots__ = ("_begun", "_epoch", "_key", "_session_id")

    def __init__(self, resume_key: bytes, session_id: str, epoch: int) -> None:
        self._key = epoch_key(resume_key, epoch)
        self._session_id = session_id
        self._epoch = epoch
        # By purpose: the two digests of RFC 2104, with all in them that stays the same.
        self._begun: dict[str, tuple[hashlib._Hash, hashlib._Hash]] = {}

    def __repr__(self) -> str:
        return f"<Prover epoch {self._epoch}>"

    def make(self, purpose: str, number: int = 0, length: int = 0) -> bytes:
        """The proof for request ``number`` with a body of ``length`` bytes."""
        begun = self._begun.get(purpose) or self._begin(purpose)
        inner, outer = begun[0].copy(), begun[1].copy()
        inner.update(_NUMBERS.pack(self._epoch, number, length))
        outer.update(inner.digest())
        return outer.digest()

    def _begin(self, purpose: str) -> tuple[hashlib._Hash, hashlib._Hash]:
        block = self._key.ljust(_BLOCK, b"\0")
        inner = hashlib.sha256(block.translate(_INNER_PAD) + _texts(purpose, self._session_id))
        begun = self._begun[purpose] = inner, hashlib.sha256(block.translate(_OUTER_PAD))
        return begun

    def check(self, tag: bytes, purpose: str, number: int = 0, length: int = 0) -> bool:
        """Whether ``tag`` is just that, compared in constant time."""
        return hmac.compare_digest(tag, self.make(purpose, number, length))
