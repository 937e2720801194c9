from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelkit.core.tokens import check_token, is_token, mask_token, token_digest, token_tag
from tunnelkit.errors import ConfigError

TOKEN = "my_b!g_$secret!!"


@pytest.mark.parametrize("token", [TOKEN, "a" * 16, "a" * 256, "/%2F?#[]@!$&'()*+;=~", "~" * 20])
def test_tokens(token: str) -> None:
    check_token(token)
    assert is_token(token)


@pytest.mark.parametrize(
    ("token", "problem"),
    [
        ("", "too short"),
        ("a" * 15, "too short"),
        ("a" * 257, "too long"),
        ("a" * 15 + ":", "visible ASCII"),
        ("a" * 15 + ",", "visible ASCII"),
        ("a" * 15 + " ", "visible ASCII"),
        ("a" * 16 + "\n", "visible ASCII"),
        ("a" * 15 + "\x7f", "visible ASCII"),
        ("a" * 15 + "é", "visible ASCII"),
    ],
)
def test_what_is_no_token(token: str, problem: str) -> None:
    assert not is_token(token)
    with pytest.raises(ConfigError, match=problem) as caught:
        check_token(token)
    assert caught.value.field == "token"
    assert "aaaaaaaa" not in str(caught.value)


def test_every_visible_character_but_two() -> None:
    assert {chr(code) for code in range(256) if is_token("a" * 15 + chr(code))} == {
        chr(code) for code in range(0x21, 0x7F)
    } - {":", ","}


def test_masking() -> None:
    assert mask_token(TOKEN) == "my_b!g_$..."
    assert mask_token("a" * 15) == "..."
    digest = hashlib.sha256(TOKEN.encode()).digest()
    assert token_digest(TOKEN) == digest
    assert token_tag(TOKEN) == f"my_b!g_$...#{digest.hex()[:6]}"


@given(st.text())
def test_any_text_has_a_digest_and_a_mask(text: str) -> None:
    assert len(token_digest(text)) == 32
    assert len(mask_token(text)) <= 11
