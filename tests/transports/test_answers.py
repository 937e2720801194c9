"""Where a tunnel URL leads, and what every answer that is no grant means."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelkit.errors import AnsweredByOther, ConfigError, DialError, RegistrationRefused
from tunnelkit.handshake import Refusal
from tunnelkit.heads import Fields
from tunnelkit.transports.answers import Target, judge_answer, refusal_answer

# -- tunnel URLs ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "host", "port", "tls", "path", "authority"),
    [
        ("http://example.org", "example.org", 80, False, "/_tunnel", b"example.org"),
        ("https://example.org", "example.org", 443, True, "/_tunnel", b"example.org"),
        ("http://example.org:8080/base", "example.org", 8080, False, "/base/_tunnel", b"example.org:8080"),
        ("https://example.org:443/a/b/", "example.org", 443, True, "/a/b/_tunnel", b"example.org"),
        ("http://[::1]:8080", "::1", 8080, False, "/_tunnel", b"[::1]:8080"),
        ("http://h/a%20b/ü c", "h", 80, False, "/a%20b/%C3%BC%20c/_tunnel", b"h"),
        ("http://bücher.example", "bücher.example", 80, False, "/_tunnel", b"xn--bcher-kva.example"),
    ],
)
def test_a_tunnels_url_is_taken_apart(url: str, host: str, port: int, tls: bool, path: str, authority: bytes) -> None:
    assert Target.parse(url) == Target(host, port, tls, path, authority)


@pytest.mark.parametrize("url", ["", "example.org", "ftp://example.org", "http://", "http://h:port", "http://[::1"])
def test_a_wrong_url_names_itself(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^url: "):
        Target.parse(url)


# -- answers -------------------------------------------------------------------------------------


def test_the_servers_own_refusal_is_told_by_its_code() -> None:
    answer = refusal_answer(Refusal(status=429, code="too_many_clients", detail="one already", retry_after=2.5))
    error = judge_answer(answer.status, answer.fields, answer.body, tls=False)
    assert isinstance(error, RegistrationRefused)
    assert (error.status, error.code, error.detail) == (429, "too_many_clients", "one already")
    assert error.retry_after == 3
    assert not error.terminal


def test_a_refusal_without_a_detail_shows_its_code() -> None:
    answer = refusal_answer(Refusal(status=403, code="forbidden", detail=""))
    error = judge_answer(answer.status, answer.fields, answer.body, tls=False)
    assert isinstance(error, RegistrationRefused)
    assert error.detail == "forbidden"
    assert error.terminal


HTML = [(b"Content-Type", b"text/html")]
PROBLEM = [(b"Content-Type", b"application/problem+json")]


@pytest.mark.parametrize(
    ("status", "fields", "body", "hint"),
    [
        (200, HTML, b"<h1>Welcome to our hotel</h1>", "captive portal"),
        (404, HTML, b"<h1>nginx</h1>", "base path"),
        (407, HTML, b"", "user and password"),
        (301, [(b"Location", b"https://example.org/_tunnel")], b"", "use wss://"),
        (302, [(b"Location", b"http://example.com/login")], b"", "URL it leads to"),
        (302, [], b"", "redirects are not followed"),
        (400, HTML, b"The plain HTTP request was sent to HTTPS port", "use wss://"),
        (400, HTML, b"You're speaking plain HTTP to an SSL-enabled server port", "use wss://"),
        (400, [], b"Client sent an HTTP request to an HTTPS server.", "use wss://"),
        (400, [], b"TLS is required here: use https:// or wss://", "use wss://"),
        (400, [], b"Origin header with rendez-vous token required", "WStunnel"),
        (426, [], b"", "Upgrade field"),
        (502, HTML, b"", "does not reach"),
        (500, [], b"", "may be down"),
        (418, [], b"", ""),
        (403, PROBLEM, b'{"code": "unauthorized", "type": "https://example.org/probs"}', ""),
        (403, PROBLEM, b"{", ""),
        (403, PROBLEM, b"[" * 5000, ""),
        (403, PROBLEM, b"[1]", ""),
        (401, HTML, json.dumps({"code": "unauthorized", "type": "urn:tunnelkit:error:unauthorized"}).encode(), ""),
    ],
)
def test_every_other_answer_is_somebody_elses(status: int, fields: Fields, body: bytes, hint: str) -> None:
    error = judge_answer(status, fields, body, tls=False)
    assert isinstance(error, AnsweredByOther)
    assert error.status == status
    assert hint in error.hint
    assert bool(hint) == bool(error.hint)
    assert str(status) in str(error)


def test_407_is_reported_as_the_proxys() -> None:
    assert "the proxy answered" in str(judge_answer(407, [], b"", tls=False))


def test_under_tls_nothing_says_use_wss() -> None:
    for status, fields in ((400, HTML), (301, [(b"Location", b"https://example.org/")])):
        error = judge_answer(status, fields, b"sent to HTTPS port", tls=True)
        assert isinstance(error, AnsweredByOther)
        assert "wss" not in error.hint


@pytest.mark.parametrize(
    ("given_value", "seconds"), [(b"7", 7.0), (b"0", 0.0), (b"-1", None), (b"soon", None), (b"9" * 40, None)]
)
def test_retry_after_is_kept_in_seconds(given_value: bytes, seconds: float | None) -> None:
    error = judge_answer(503, [(b"Retry-After", given_value)], b"", tls=False)
    assert isinstance(error, AnsweredByOther)
    assert error.retry_after == seconds


@given(
    st.integers(200, 599),
    st.lists(st.tuples(st.sampled_from([b"Location", b"Content-Type", b"Retry-After"]), st.binary(max_size=40))),
    st.binary(max_size=100),
    st.booleans(),
)
def test_any_answer_gets_a_meaning(status: int, fields: Fields, body: bytes, tls: bool) -> None:
    assert isinstance(judge_answer(status, fields, body, tls=tls), RegistrationRefused | DialError)
