"""What is shown of heads holds no credentials."""

from __future__ import annotations

import pytest

from tunnelkit.redaction import REDACTED, SECRET_FIELDS, redacted, redacted_target


@pytest.mark.parametrize("name", sorted(SECRET_FIELDS))
def test_values_of_credentials_go_whatever_their_names_case(name: str) -> None:
    assert redacted([(name.title().encode(), b"Basic c2VjcmV0")]) == [(name.title(), REDACTED)]


@pytest.mark.parametrize(
    "name",
    [
        "X-Auth-Token",
        "Private-Token",
        "apikey",
        "X-Goog-Api-Key",
        "X-Amz-Security-Token",
        "X-Hub-Signature",
        "X_Auth",
    ],
)
def test_values_of_what_is_named_like_a_credential_go(name: str) -> None:
    assert redacted([(name.encode(), b"s3cret")]) == [(name, REDACTED)]


@pytest.mark.parametrize(
    "name",
    [
        *("Accept", "Author", "ETag", "Idempotency-Key", "Sec-WebSocket-Key", "WWW-Authenticate", "Tokens-Left"),
        *("Access-Control-Allow-Credentials", "Sec-WebSocket-Accept", "Keep-Alive", "X-Cookies-Allowed"),
    ],
)
def test_what_only_sounds_so_stays(name: str) -> None:
    assert redacted([(name.encode(), b"1")]) == [(name, "1")]


def test_users_in_urls_go() -> None:
    assert redacted([(b"Location", b"http://me:s3cret@h.test/a@b")]) == [
        ("Location", f"http://{REDACTED}@h.test/a@b")
    ]
    assert redacted([(b"From", b"me@h.test"), (b"A", b"http://h.test/x?a@b")]) == [
        ("From", "me@h.test"),
        ("A", "http://h.test/x?a@b"),
    ]


def test_other_fields_stay_with_order_and_duplicates() -> None:
    fields = [(b"B", b"1"), (b"a", b"2"), (b"B", b"\xff")]
    assert redacted(fields) == [("B", "1"), ("a", "2"), ("B", "\xff")]


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        (b"/_token/a-secret-of-16-let/x?y", "/_token/[redacted]/x?y"),
        (b"/base/_token/a-secret-of-16-let", "/base/_token/[redacted]"),
        (b"/in?next=%2F_token%2Fa-secret-of-16-let", "/in?next=%2F_token%2F[redacted]"),
        (b"/plain?a=1", "/plain?a=1"),
    ],
)
def test_tokens_in_paths_go(target: bytes, shown: str) -> None:
    assert redacted_target(target) == shown
    assert redacted([(b"Location", b"http://h.test" + target)]) == [("Location", "http://h.test" + shown)]
