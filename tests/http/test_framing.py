from __future__ import annotations

import pytest

from tunnelkit.heads import Fields, RequestHead, ResponseHead
from tunnelkit.http.framing import (
    CHUNKED,
    UNTIL_CLOSE,
    FramingFields,
    framing_fields,
    lacks_body,
    persists,
    request_length,
    response_length,
    without,
)

FOUND: list[tuple[Fields, FramingFields]] = [
    ([], FramingFields()),
    ([(b"Host", b"a"), (b"X-Content-Length", b"5")], FramingFields()),
    ([(b"CONTENT-LENGTH", b"007")], FramingFields(content_length=7)),
    ([(b"Transfer-Encoding", b"chunked")], FramingFields(chunked=True)),
    ([(b"Connection", b"Keep-Alive,\tUpgrade ,x")], FramingFields(keep_alive=True, upgrade=True)),
    ([(b"Connection", b"x"), (b"connection", b"CLOSE")], FramingFields(close=True)),
    ([(b"Connection", b"not-close")], FramingFields()),
    ([(b"Expect", b"100-Continue")], FramingFields(expects_continue=True)),
    ([(b"Expect", b"something")], FramingFields()),
]


@pytest.mark.parametrize(("fields", "found"), FOUND)
def test_framing_fields(fields: Fields, found: FramingFields) -> None:
    assert framing_fields(fields) == found


@pytest.mark.parametrize(
    ("found", "length"),
    [(FramingFields(), 0), (FramingFields(content_length=5), 5), (FramingFields(chunked=True), CHUNKED)],
)
def test_request_length(found: FramingFields, length: int) -> None:
    assert request_length(found) == length


SIZED = FramingFields(content_length=5)


@pytest.mark.parametrize(
    ("status", "method", "found", "length"),
    [
        (200, b"GET", SIZED, 5),
        (200, b"GET", FramingFields(chunked=True), CHUNKED),
        (200, b"GET", FramingFields(), UNTIL_CLOSE),
        (200, b"HEAD", SIZED, 0),
        (200, b"HEAD", FramingFields(chunked=True), 0),
        (103, b"GET", SIZED, 0),
        (204, b"GET", SIZED, 0),
        (304, b"GET", SIZED, 0),
        (205, b"GET", SIZED, 5),
    ],
)
def test_response_length(status: int, method: bytes, found: FramingFields, length: int) -> None:
    assert response_length(ResponseHead(status, []), found, method) == length
    assert not lacks_body(status, method) or length == 0


@pytest.mark.parametrize(
    ("version", "found", "lives"),
    [
        (b"1.1", FramingFields(), True),
        (b"1.1", FramingFields(close=True, keep_alive=True), False),
        (b"1.0", FramingFields(), False),
        (b"1.0", FramingFields(keep_alive=True), True),
    ],
)
def test_persists(version: bytes, found: FramingFields, lives: bool) -> None:
    assert persists(RequestHead(b"GET", b"/", [], version), found) is lives
    assert persists(ResponseHead(200, [], version=version), found) is lives


def test_without() -> None:
    fields = [(b"A", b"1"), (b"Transfer-ENCODING", b"x"), (b"a", b"2")]
    assert without(fields, frozenset({b"transfer-encoding"})) == [(b"A", b"1"), (b"a", b"2")]
