from __future__ import annotations

import pytest

from tunnelkit.heads import RequestHead
from tunnelkit.origins.facts import request_facts

from .fakes import request


def test_a_plain_request() -> None:
    facts = request_facts(request(b"GET", b"/a%20b/%2F?c=%20&d?e"))
    assert (facts.scheme, facts.host, facts.port, facts.caller) == ("http", "app.test", 80, "")
    assert (facts.raw_path, facts.path, facts.query) == (b"/a%20b/%2F", b"/a b//", b"c=%20&d?e")
    assert facts.fields == [(b"Host", b"app.test")]


@pytest.mark.parametrize(
    ("authority", "host", "port"),
    [
        (b"a.test:8080", "a.test", 8080),
        (b"a.test:", "a.test", 80),
        (b"a.test:99999", "a.test", 80),
        (b"[2001:db8::1]", "2001:db8::1", 80),
        (b"[2001:db8::1]:81", "2001:db8::1", 81),
        (b"192.0.2.1:82", "192.0.2.1", 82),
    ],
)
def test_hosts_and_ports(authority: bytes, host: str, port: int) -> None:
    facts = request_facts(RequestHead(b"GET", b"/", [(b"host", authority)]))
    assert (facts.host, facts.port) == (host, port)
    assert facts.fields == [(b"host", authority)]


def test_what_the_server_tells() -> None:
    fields = [
        (b"X-Forwarded-Proto", b"HTTPS, http"),
        (b"X-Forwarded-Host", b"shop.example:444, inner"),
        (b"X-Forwarded-For", b"192.0.2.66, 198.51.100.7"),
        (b"X-Forwarded-For", b"127.0.0.1"),
    ]
    facts = request_facts(request(b"GET", b"/", *fields))
    assert (facts.scheme, facts.host, facts.port, facts.caller) == ("https", "shop.example", 444, "127.0.0.1")
    assert facts.fields[0] == (b"Host", b"shop.example:444")


@pytest.mark.parametrize("told", [b"a b", b"a@b", b"", b"[x]", b"\xff", b"/"])
def test_a_host_that_is_none_is_not_taken_over(told: bytes) -> None:
    assert request_facts(request(b"GET", b"/", (b"X-Forwarded-Host", told))).authority == b"app.test"


@pytest.mark.parametrize("told", [b"", b"ftp", b"gopher, https"])
def test_a_scheme_that_is_none(told: bytes) -> None:
    assert request_facts(request(b"GET", b"/", (b"X-Forwarded-Proto", told))).scheme == "http"


def test_the_callers_address() -> None:
    head = request(b"GET", b"/", (b"X-Forwarded-For", b"192.0.2.66, 192.0.2.1"))
    assert request_facts(head).caller == "192.0.2.1"  # the server's peer; what stands before may be made up
    assert request_facts(head, None, "198.51.100.7").caller == "198.51.100.7"


def test_a_fixed_host() -> None:
    facts = request_facts(request(b"GET", b"/", (b"X-Forwarded-Host", b"other")), "fixed.test:1")
    assert (facts.authority, facts.host, facts.port) == (b"fixed.test:1", "fixed.test", 1)
    assert facts.fields[0] == (b"Host", b"fixed.test:1")


def test_no_host_at_all() -> None:
    facts = request_facts(RequestHead(b"OPTIONS", b"*", [], b"1.0"))
    assert (facts.host, facts.raw_path, facts.fields) == ("", b"*", [])
