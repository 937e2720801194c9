from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelkit.core.allowlist import HostOrigin
from tunnelkit.core.destinations import (
    DESTINATION_LIMIT,
    Destination,
    check_x_host,
    parse_destination,
    through_tunnel,
)
from tunnelkit.core.regexps import Engine
from tunnelkit.core.routing import ToDestination, ToName, ToTunnel
from tunnelkit.core.rules import Rule, RuleSet
from tunnelkit.errors import HeadError
from tunnelkit.heads import RequestHead

TOKENS = ("a-token-for-the-tests",)
HEAD = RequestHead(b"GET", b"/request", [(b"Host", b"tunnel.test")])
NONE = RuleSet()


def rules(*, black: str | None = None, white: str | None = None) -> RuleSet:
    lists = [[Rule(url=url)] if url is not None else [] for url in (black, white)]
    return RuleSet.compile(*lists, engine=Engine())


@pytest.mark.parametrize(
    ("value", "origin", "target"),
    [
        (b"http://internal.example", HostOrigin("http", "internal.example", 80), b"/"),
        (b"HTTP://Internal.Example.:8080/A?b=c", HostOrigin("http", "internal.example", 8080), b"/A?b=c"),
        (b"https://10.1.2.3/", HostOrigin("https", "10.1.2.3", 443), b"/"),
        (b"https://[::1]:1/a//../b%2F?x?y", HostOrigin("https", "::1", 1), b"/a//../b%2F?x?y"),
        (b"http://a?x@b", HostOrigin("http", "a", 80), b"/?x@b"),
        (b"http://a/http://b/", HostOrigin("http", "a", 80), b"/http://b/"),
    ],
)
def test_destinations(value: bytes, origin: HostOrigin, target: bytes) -> None:
    assert parse_destination(value) == Destination(origin, target)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (b"", "begins with http"),
        (b"/path", "begins with http"),
        (b"internal.example/", "begins with http"),
        (b"ftp://a/", "http:// or https://"),
        (b"tcp://a:1/", "http:// or https://"),
        (b"http:///path", "scheme://host"),
        (b"http://a:0/", "port"),
        (b"http://a:99999/", "port"),
        (b"http://user:secret@a/", "user name"),
        (b"http://a\\@b/", "user name"),
        (b"http://a b/", "scheme://host"),
        (b"http://0x7f.1/", "IPv4"),
        (b"http://a/#b", "fragment"),
        (b"http://a#", "fragment"),
        (b"http://a/b c", "percent-encoded"),
        (b"http://a/\xc3\xbc", "percent-encoded"),
        (b"http://a/\t", "percent-encoded"),
        (b"http://a/" + b"a" * DESTINATION_LIMIT, "too long"),
    ],
)
def test_what_is_no_destination(value: bytes, problem: str) -> None:
    with pytest.raises(HeadError, match=problem) as caught:
        parse_destination(value)
    assert (caught.value.status, caught.value.code) == (400, "bad_destination")
    assert caught.value.detail.startswith("X-PROXY-DESTINATION ")
    assert "X-Host" not in caught.value.detail
    assert "secret" not in caught.value.detail


@given(st.binary(max_size=40).map(lambda rest: b"http://a" + rest))
def test_any_bytes_are_a_destination_or_not(value: bytes) -> None:
    with suppress(HeadError):
        destination = parse_destination(value)
        assert (
            value.endswith(destination.target) or destination.target.startswith(b"/?") or destination.target == b"/"
        )


def test_a_destination_goes_through_the_tunnel() -> None:
    where = through_tunnel(ToDestination(TOKENS, b"http://Internal.example:80/x?y"), HEAD, NONE)
    assert where == ToTunnel(TOKENS, b"/x?y", b"http://internal.example", by_destination=True)
    assert "secret" not in repr(parse_destination(b"http://a/?secret"))


def test_the_servers_rules_judge_destinations() -> None:
    where = ToDestination(TOKENS, b"http://internal.example/x")
    for ruleset in (rules(black=".*/x"), rules(white="http://internal\\.example/y")):
        with pytest.raises(HeadError, match="server's rules") as caught:
            through_tunnel(where, HEAD, ruleset)
        assert (caught.value.status, caught.value.code) == (403, "destination_refused")
    assert through_tunnel(where, HEAD, rules(black=".*/y", white="http://internal\\.example/x")).by_destination


def test_the_servers_rules_judge_x_host_too() -> None:
    ruleset = rules(black=".*/x")
    for where in (
        ToTunnel(TOKENS, b"/x", b"http://internal.example"),
        ToName("a", b"/x", b"http://internal.example"),
    ):
        with pytest.raises(HeadError) as caught:
            check_x_host(where, HEAD, ruleset)
        assert (caught.value.status, caught.value.code) == (403, "x_host_refused")
        check_x_host(where, HEAD, NONE)
    with pytest.raises(HeadError) as caught:
        check_x_host(ToTunnel(TOKENS, b"/x", b"nonsense"), HEAD, ruleset)
    assert caught.value.code == "bad_x_host"
    check_x_host(ToTunnel(TOKENS, b"/y", b"http://internal.example"), HEAD, ruleset)


def test_requests_that_name_no_origin_are_not_the_servers_to_judge() -> None:
    check_x_host(ToTunnel(TOKENS, b"/x"), HEAD, rules(black=".*"))
