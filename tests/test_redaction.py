"""What is shown of heads holds no credentials."""

from __future__ import annotations

import pytest

from tunnelkit.redaction import REDACTED, SECRET_FIELDS, redacted, redacted_target


@pytest.mark.parametrize("name", sorted(SECRET_FIELDS))
def test_values_of_credentials_go_whatever_their_names_case(name: str) -> None:
    assert redacted([(name.title().encode(), b"Basic c2VjcmV0")]) == [(name.title(), REDACTED)]


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
