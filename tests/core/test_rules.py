from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelkit.core.allowlist import HostOrigin, parse_x_host
from tunnelkit.core.regexps import Engine
from tunnelkit.core.rules import JUDGED_LIMIT, Rule, RuleSet, Verdict
from tunnelkit.errors import ConfigError
from tunnelkit.heads import Fields, RequestHead

ORIGIN = HostOrigin("http", "internal.example", 80)
OPEN, ALLOWED, UNLISTED, FORBIDDEN = Verdict.OPEN, Verdict.ALLOWED, Verdict.UNLISTED, Verdict.FORBIDDEN


def rules(black: Sequence[Rule] = (), white: Sequence[Rule] = ()) -> RuleSet:
    return RuleSet.compile(black, white, engine=Engine())


def judge(
    ruleset: RuleSet,
    target: bytes = b"/",
    *,
    method: bytes = b"GET",
    origin: HostOrigin = ORIGIN,
    fields: Fields | None = None,
) -> Verdict:
    return ruleset.judge(RequestHead(method, b"/elsewhere", fields or []), origin, target)


# -- lists -------------------------------------------------------------------------------------


def test_no_rules_say_nothing() -> None:
    assert judge(rules()) is OPEN
    assert not rules()
    assert judge(rules(), b"/" + b"a" * 10_000) is OPEN


def test_a_blacklist_alone_forbids_and_leaves_the_rest_open() -> None:
    black = rules([Rule(url="http://internal\\.example/admin.*"), Rule(method="DELETE")])
    assert judge(black, b"/admin/x") is FORBIDDEN
    assert judge(black, b"/other") is OPEN
    assert judge(black, b"/other", method=b"DELETE") is FORBIDDEN


def test_a_whitelist_allows_what_one_of_its_rules_matches() -> None:
    white = rules([], [Rule(url="http://internal\\.example/a"), Rule(method="PUT")])
    assert judge(white, b"/a") is ALLOWED
    assert judge(white, b"/b", method=b"PUT") is ALLOWED
    assert judge(white, b"/b") is UNLISTED


def test_the_blacklist_comes_before_the_whitelist() -> None:
    both = rules([Rule(url=".*/secret")], [Rule(url="http://internal\\.example/.*")])
    assert judge(both, b"/a") is ALLOWED
    assert judge(both, b"/secret") is FORBIDDEN
    assert bool(both)
    assert "blacklist=1 whitelist=1" in repr(both)


# -- rules -------------------------------------------------------------------------------------


def test_every_part_of_a_rule_must_match() -> None:
    rule = Rule(method="GET|HEAD", url="http://internal\\.example/.*", headers={"X-Team": "blue|green"})
    white = rules([], [rule])
    blue: Fields = [(b"x-team", b"blue")]
    assert judge(white, fields=blue) is ALLOWED
    assert judge(white, method=b"HEAD", fields=blue) is ALLOWED
    assert judge(white, method=b"POST", fields=blue) is UNLISTED
    assert judge(white, fields=[(b"X-Team", b"red")]) is UNLISTED
    assert judge(white) is UNLISTED
    assert judge(white, fields=blue, origin=replace(ORIGIN, host="other.example")) is UNLISTED


@pytest.mark.parametrize(
    ("pattern", "target", "matches"),
    [
        ("http://internal\\.example/a", b"/a", True),
        ("http://internal\\.example/a", b"/ab", False),  # anchored at its end
        ("internal\\.example/a", b"/a", False),  # and at its beginning
        ("http://internal\\.example/a", b"/a?b", False),  # the query is a part
        ("http://internal\\.example/a\\?b=.*", b"/a?b=c", True),
        ("http://internal\\.example:80/a", b"/a", True),  # the default port may be written
        ("http://internal\\.example:81/a", b"/a", False),
        ("http://internal\\.example/A", b"/a", False),  # case counts in a path
    ],
)
def test_urls_are_matched_whole(pattern: str, target: bytes, matches: bool) -> None:
    assert judge(rules([], [Rule(url=pattern)]), target) is (ALLOWED if matches else UNLISTED)
    assert judge(rules([Rule(url=pattern)]), target) is (FORBIDDEN if matches else OPEN)


def test_methods_are_matched_whole_and_in_capitals_too() -> None:
    black, white = rules([Rule(method="GET")]), rules([], [Rule(method="GET")])
    assert judge(black) is FORBIDDEN
    assert judge(white) is ALLOWED
    assert judge(black, method=b"GETX") is OPEN
    assert judge(black, method=b"get") is FORBIDDEN  # many origins take it for the same
    assert judge(white, method=b"get") is UNLISTED  # others for another one


ADMIN = [
    *(b"/admin/x", b"/%61dmin/x", b"//admin/x", b"/./admin/x", b"/a/../admin/x", b"/a/%2e%2e/admin/x"),
    *(b"/admin;a=b/x", b"/a/..;/admin/x", b"/\\admin/x", b"/%2fadmin/x", b"/..//../admin/x", b"/admin%2Fx"),
    *(b"/%61dmin/%0Ax", b"//admin/x?a%0a=b"),
]


@pytest.mark.parametrize("target", ADMIN)
def test_no_spelling_gets_past_the_blacklist(target: bytes) -> None:
    assert judge(rules([Rule(url="http://internal\\.example/admin/.*")]), target) is FORBIDDEN


@pytest.mark.parametrize(
    "target", [b"/public/../admin", b"/public/%2e%2e/admin", b"/public/..;/admin", b"/public//../x"]
)
def test_no_spelling_gets_out_of_the_whitelist(target: bytes) -> None:
    white = rules([], [Rule(url="http://internal\\.example/public/.*")])
    assert judge(white, target) is UNLISTED
    assert judge(white, b"/public/a%20b/./c?d=%2e%2e/") is ALLOWED


def test_a_path_that_ends_with_a_slash_still_does() -> None:
    white = rules([], [Rule(url="http://internal\\.example/(?:a/)?")])
    assert judge(white, b"/a/") is ALLOWED
    assert judge(white, b"/a/.") is UNLISTED  # as it was sent
    assert judge(white, b"/a") is UNLISTED
    assert judge(white, b"/") is ALLOWED


def test_a_query_is_judged_decoded_too() -> None:
    black = rules([Rule(url=".*\\?.*drop.*")])
    assert judge(black, b"/a?x=%64rop") is FORBIDDEN
    assert judge(black, b"/a?x=y") is OPEN


def test_fields_that_come_twice() -> None:
    twice: Fields = [(b"X-Team", b"blue"), (b"X-Team", b"red")]
    assert judge(rules([Rule(headers={"x-team": "red"})]), fields=twice) is FORBIDDEN  # any
    assert judge(rules([], [Rule(headers={"x-team": "blue"})]), fields=twice) is UNLISTED  # all


def test_rules_of_several_fields() -> None:
    both = rules([], [Rule(headers={"X-Team": "blue", "X-Role": "admin"})])
    assert judge(both, fields=[(b"X-Team", b"blue"), (b"X-Role", b"admin")]) is ALLOWED
    assert judge(both, fields=[(b"X-Team", b"blue")]) is UNLISTED
    assert judge(both, fields=[(b"X-Role", b"admin")]) is UNLISTED


def test_a_field_that_cgi_takes_for_the_same() -> None:
    spelled: Fields = [(b"x_team", b"red")]
    assert judge(rules([Rule(headers={"X-Team": "red"})]), fields=spelled) is FORBIDDEN
    assert judge(rules([Rule(headers={"X_Team": "red"})]), fields=[(b"X-Team", b"red")]) is FORBIDDEN
    both: Fields = [(b"X-Team", b"blue"), *spelled]
    assert judge(rules([], [Rule(headers={"X-Team": "blue"})]), fields=both) is UNLISTED


def test_a_field_that_is_missing_is_empty() -> None:
    assert judge(rules([Rule(headers={"Authorization": "(?:)"})])) is FORBIDDEN
    assert judge(rules([Rule(headers={"Authorization": "(?:)"})]), fields=[(b"authorization", b"x")]) is OPEN


def test_what_is_too_long_to_be_judged_passes_no_rule() -> None:
    long = b"/" + b"a" * JUDGED_LIMIT
    assert judge(rules([Rule(method="DELETE")]), long) is FORBIDDEN
    assert judge(rules([], [Rule(method="GET")]), long) is FORBIDDEN
    value: Fields = [(b"X-A", b"a" * (JUDGED_LIMIT + 1))]
    assert judge(rules([Rule(headers={"X-A": "b"})]), fields=value) is FORBIDDEN
    assert judge(rules([], [Rule(headers={"X-A": "a*"})]), fields=value) is UNLISTED


def test_an_address_of_ipv6() -> None:
    origin = parse_x_host("http://[::1]:8080")
    assert judge(rules([], [Rule(url=r"http://\[::1\]:8080/.*")]), b"/a", origin=origin) is ALLOWED


# -- bad rules ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "field", "problem"),
    [
        (Rule(), "blacklist[1]", "is empty, and would match every request"),
        (Rule(url="("), "blacklist[1].url", "is no regular expression"),
        (Rule(url=""), "blacklist[1].url", "1 to 1000 characters"),
        (Rule(method="[[:alpha:]]"), "blacklist[1].method", "which Python does not know"),
        (Rule(headers={"X-A": "(a+)+"}), "blacklist[1].headers", "could keep it busy"),
        (Rule(headers={"X A": "a"}), "blacklist[1].headers", "'X A' is no name of a field"),
        (Rule(url="http://.*/a.*b.*c"), "blacklist[1].url", "a hostile request could keep it busy"),
    ],
)
def test_bad_rules_name_their_place(rule: Rule, field: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        rules([rule])
    assert caught.value.field == field
    assert problem in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        rules([], [Rule(method="GET"), rule])
    assert caught.value.field == field.replace("blacklist[1]", "whitelist[2]")


def test_too_many_rules() -> None:
    with pytest.raises(ConfigError, match="has 101 rules; give at most 100"):
        rules([Rule(method="GET")] * 101)


def test_a_whitelisted_host_that_goes_on_is_warned_about() -> None:
    warned = rules([], [Rule(method="GET"), Rule(url="http://internal.*")]).warnings
    assert len(warned) == 1
    assert warned[0].startswith(
        "whitelist[2].url: 'http://internal.*' also matches http://internal.attacker.example/"
    )


@pytest.mark.parametrize(
    "url", ["http://internal\\.example/.*", "https?://[^/]+/public/.*", ".*", "http://a", "http.*"]
)
def test_others_are_not(url: str) -> None:
    assert rules([], [Rule(url=url)]).warnings == ()


# -- any bytes ---------------------------------------------------------------------------------


@given(st.binary(max_size=40).map(lambda rest: b"/" + rest))
def test_any_target_has_a_verdict_and_none_escapes_a_whole_blacklist(target: bytes) -> None:
    assert judge(rules([Rule(url="(?s:.*)")]), target) is FORBIDDEN
    assert judge(rules([], [Rule(url=re.escape("http://internal.example/") + "(?s:.*)")]), target) is ALLOWED
