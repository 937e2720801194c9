"""``wsgi_environ`` and ``wsgi.input``; what threads do is tested through a tunnel (tests/e2e/test_wsgi.py)."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelkit.heads import RequestHead
from tunnelkit.origins.facts import request_facts
from tunnelkit.origins.wsgi_call import InputStream
from tunnelkit.origins.wsgi_environ import ErrorLog, wsgi_environ

from .fakes import request


def environ(head: RequestHead, root_path: str = "") -> dict[str, Any]:
    return wsgi_environ(head, request_facts(head), root_path)


def test_strings_hold_bytes_as_latin_1() -> None:
    made = environ(request(b"GET", b"/%C3%BC%ff", (b"X-A", b"\xc3\xbc")), "/r\u00fc")
    assert made["PATH_INFO"] == "/\u00c3\u00bc\u00ff"
    assert made["SCRIPT_NAME"] == "/r\u00c3\u00bc"
    assert made["HTTP_X_A"] == "\u00c3\u00bc"


def test_fields_that_stand_several_times() -> None:
    fields = [(b"Cookie", b"a=1"), (b"cookie", b"b=2"), (b"Accept", b"x"), (b"accept", b"y")]
    made = environ(request(b"GET", b"/", *fields))
    assert (made["HTTP_COOKIE"], made["HTTP_ACCEPT"]) == ("a=1; b=2", "x, y")


def test_what_could_be_taken_for_something_else_is_left_out() -> None:
    made = environ(request(b"GET", b"/", (b"X_Real_Ip", b"1"), (b"Proxy", b"http://evil"), (b"Content_Type", b"x")))
    assert not {"HTTP_X_REAL_IP", "HTTP_PROXY", "CONTENT_TYPE", "HTTP_CONTENT_TYPE"} & made.keys()


def test_a_request_without_host() -> None:
    made = environ(RequestHead(b"GET", b"/", [], b"1.0"))
    assert (made["SERVER_NAME"], made["SERVER_PORT"], made["SERVER_PROTOCOL"]) == ("localhost", "80", "HTTP/1.0")


def test_the_error_log_is_a_text_stream(caplog: pytest.LogCaptureFixture) -> None:
    log = ErrorLog()
    assert log.writable()
    log.writelines(["a\n", "\n", "b"])
    log.flush()
    assert [record.message for record in caplog.records] == ["the WSGI app: a", "the WSGI app: b"]


def stream(*pieces: bytes) -> InputStream:
    waiting = [*pieces, b""]
    return InputStream(lambda: waiting.pop(0))  # asked again behind the end, it raises


def test_reads_stop_at_the_end_for_good() -> None:
    body = stream(b"ab", b"c")
    assert body.read() == b"abc"
    assert (body.read(), body.read(5), body.readline(), body.readlines()) == (b"", b"", b"", [])


def test_nothing_is_received_that_was_not_asked_for() -> None:
    body = InputStream(lambda: pytest.fail("received"))
    assert (body.read(0), body.readline(0), body.readlines(0)) == (b"", b"", [])


def test_lines() -> None:
    body = stream(b"a\nb", b"b\n\n", b"c")
    assert body.readline() == b"a\n"
    assert body.readline(1) == b"b"
    assert list(body) == [b"b\n", b"\n", b"c"]
    assert stream(b"a\nb\nc\n").readlines(3) == [b"a\n", b"b\n"]
    assert stream(b"a\nb").readlines(None) == [b"a\n", b"b"]


@given(
    st.lists(st.binary(min_size=1, max_size=5).map(lambda data: data.replace(b"x", b"\n")), max_size=6),
    st.lists(st.tuples(st.sampled_from(["read", "readline"]), st.integers(-1, 6)), max_size=12),
)
def test_like_a_file(pieces: list[bytes], calls: list[tuple[str, int]]) -> None:
    body, model = stream(*pieces), io.BytesIO(b"".join(pieces))
    for name, size in calls:
        assert getattr(body, name)(size) == getattr(model, name)(size)
    assert body.read() == model.read()
