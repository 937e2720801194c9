from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunnelkit.proof import (
    KEY_SIZE,
    PROOF_SIZE,
    Prover,
    Purpose,
    attach_tag,
    epoch_key,
    hkdf,
    hkdf_expand,
    hkdf_extract,
    proof,
    verify,
)

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "proofs.json").read_text())
RESUME_KEY = bytes.fromhex(VECTORS["resume_key"])


@pytest.mark.parametrize("vector", VECTORS["hkdf"], ids=lambda vector: vector["name"])
def test_hkdf_vectors(vector: dict[str, Any]) -> None:
    key_material, salt, info = (bytes.fromhex(vector[name]) for name in ("ikm", "salt", "info"))
    assert hkdf_extract(salt, key_material).hex() == vector["prk"]
    assert hkdf(key_material, salt=salt, info=info, length=vector["length"]).hex() == vector["okm"]


@pytest.mark.parametrize("length", [0, 255 * PROOF_SIZE + 1])
def test_hkdf_gives_what_rfc_5869_allows(length: int) -> None:
    assert len(hkdf_expand(bytes(32), b"", 255 * PROOF_SIZE)) == 255 * PROOF_SIZE
    with pytest.raises(ValueError, match="HKDF"):
        hkdf_expand(bytes(32), b"", length)


@pytest.mark.parametrize("vector", VECTORS["proofs"], ids=lambda vector: f"{vector['purpose']}-{vector['epoch']}")
def test_proof_vectors(vector: dict[str, Any]) -> None:
    key = epoch_key(RESUME_KEY, vector["epoch"])
    assert key.hex() == vector["epoch_key"]
    subject = [vector[name] for name in ("purpose", "session_id", "epoch", "number", "length")]
    assert proof(key, *subject).hex() == vector["proof"]
    assert verify(bytes.fromhex(vector["proof"]), key, *subject)


def test_a_proof_is_good_for_one_thing_only() -> None:
    key = epoch_key(RESUME_KEY, 2)
    subject: dict[str, Any] = {"purpose": Purpose.POLL, "session_id": "n-1", "epoch": 2, "number": 3, "length": 4}
    tag = proof(key, **subject)
    assert verify(tag, key, **subject)
    other = {"purpose": Purpose.POST, "session_id": "n-2", "epoch": 3, "number": 4, "length": 5}
    for name, value in other.items():
        assert not verify(tag, key, **(subject | {name: value})), name
    assert not verify(tag, epoch_key(RESUME_KEY, 3), **subject)
    assert not verify(tag[:-1], key, **subject)
    assert not verify(b"", key, **subject)


def test_texts_do_not_run_into_each_other() -> None:
    assert proof(bytes(32), "ab", "c", 1) != proof(bytes(32), "a", "bc", 1)


def test_the_tag_of_attach_is_the_proof_of_the_resume() -> None:
    assert attach_tag(RESUME_KEY, "n-1", 5) == proof(epoch_key(RESUME_KEY, 5), "resume", "n-1", 5)


def test_a_resume_key_has_one_size() -> None:
    with pytest.raises(ValueError, match="32 bytes, not 31"):
        epoch_key(bytes(KEY_SIZE - 1), 1)


def test_a_prover_makes_what_it_checks_and_what_proof_makes() -> None:
    prover = Prover(RESUME_KEY, "n-1", 2)
    tag = prover.make(Purpose.POST, 3, 4)
    assert tag == proof(epoch_key(RESUME_KEY, 2), Purpose.POST, "n-1", 2, 3, 4)
    assert prover.check(tag, Purpose.POST, 3, 4)
    assert not prover.check(tag, Purpose.POLL, 3, 4)
    assert not prover.check(tag, Purpose.POST, 3, 5)
    assert not Prover(RESUME_KEY, "n-1", 3).check(tag, Purpose.POST, 3, 4)
    assert RESUME_KEY.hex() not in repr(prover)
