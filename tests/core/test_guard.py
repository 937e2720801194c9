from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tunnelkit.core.allowlist import HostAllowlist, HostOrigin, parse_x_host
from tunnelkit.core.guard import Guard
from tunnelkit.core.regexps import Engine
from tunnelkit.core.rules import Rule, RuleSet
from tunnelkit.errors import HeadError
from tunnelkit.heads import RequestHead

OWN = "http://own.example"
OTHER = "http://other.example"


def guard(
    *, allow: Sequence[str] = (), black: Sequence[Rule] = (), white: Sequence[Rule] = (), **options: Any
) -> Guard:
    rules = RuleSet.compile(black, white, engine=Engine())
    given = {"own": parse_x_host(OWN)} | options
    return Guard(allowlist=HostAllowlist.compile(allow), rules=rules, **given)


def choose(
    judge: Guard, x_host: str | None, target: bytes = b"/", *, by_destination: bool = False, method: bytes = b"GET"
) -> HostOrigin | None:
    head = RequestHead(method, target, [])
    return judge.choose(head, x_host.encode() if x_host is not None else None, by_destination=by_destination)


def refused(judge: Guard, x_host: str | None, target: bytes = b"/", **more: Any) -> tuple[int, str]:
    with pytest.raises(HeadError) as caught:
        choose(judge, x_host, target, **more)
    return caught.value.status, caught.value.code


X_HOST_REFUSED = (403, "x_host_refused")
DESTINATION_REFUSED = (403, "destination_refused")


def test_with_neither_patterns_nor_rules_a_destination_may_be_the_configured_origin_alone() -> None:
    plain = guard()
    assert choose(plain, OWN, by_destination=True) == plain.own
    assert choose(plain, f"{OWN}:80", by_destination=True) == plain.own
    assert refused(plain, OTHER, by_destination=True) == DESTINATION_REFUSED
    assert refused(plain, f"{OWN}:81", by_destination=True) == DESTINATION_REFUSED
    assert refused(plain, "https://own.example", by_destination=True) == DESTINATION_REFUSED
    assert refused(guard(own=None), OWN, by_destination=True) == DESTINATION_REFUSED


def test_with_neither_patterns_nor_rules_x_host_may_be_nothing() -> None:
    assert refused(guard(), OWN) == X_HOST_REFUSED
    assert refused(guard(), OTHER) == X_HOST_REFUSED


@pytest.mark.parametrize("by_destination", [False, True])
def test_patterns_match_the_whole_origin(by_destination: bool) -> None:
    patterns = guard(allow=[r"http://other\.example"])
    assert choose(patterns, OTHER, by_destination=by_destination) == parse_x_host(OTHER)
    wanted = DESTINATION_REFUSED if by_destination else X_HOST_REFUSED
    assert refused(patterns, f"{OTHER}.attacker.example", by_destination=by_destination) == wanted
    assert refused(patterns, OWN, by_destination=by_destination) == wanted


@pytest.mark.parametrize("by_destination", [False, True])
def test_a_whitelist_is_an_allowlist_of_its_own(by_destination: bool) -> None:
    listed = guard(white=[Rule(url=r"http://other\.example/a")])
    assert choose(listed, OTHER, b"/a", by_destination=by_destination) == parse_x_host(OTHER)
    wanted = DESTINATION_REFUSED if by_destination else X_HOST_REFUSED
    assert refused(listed, OTHER, b"/b", by_destination=by_destination) == wanted
    assert refused(listed, OWN, b"/a", by_destination=by_destination) == wanted
    both = guard(allow=[r"http://third\.example"], white=[Rule(url=r"http://other\.example/a")])
    assert choose(both, OTHER, b"/a", by_destination=by_destination) == parse_x_host(OTHER)
    assert choose(both, "http://third.example", b"/b", by_destination=by_destination) is not None


@pytest.mark.parametrize("by_destination", [False, True])
def test_the_blacklist_wins_over_patterns_and_whitelist(by_destination: bool) -> None:
    strict = guard(allow=[".*"], black=[Rule(url=".*/secret")], white=[Rule(method="GET")])
    wanted = DESTINATION_REFUSED if by_destination else X_HOST_REFUSED
    assert refused(strict, OTHER, b"/secret", by_destination=by_destination) == wanted
    assert choose(strict, OTHER, b"/a", by_destination=by_destination) == parse_x_host(OTHER)


def test_a_blacklist_alone_opens_nothing() -> None:
    black = guard(black=[Rule(method="DELETE")])
    assert choose(black, OWN, by_destination=True) == black.own
    assert refused(black, OTHER, by_destination=True) == DESTINATION_REFUSED
    assert refused(black, OWN, by_destination=True, method=b"DELETE") == DESTINATION_REFUSED


def test_requests_that_name_nothing_go_to_the_configured_origin() -> None:
    assert choose(guard(), None) is None
    assert choose(guard(allow=[".*"], white=[Rule(url="nothing")]), None) is None
    assert refused(guard(allow=[".*"], serves=False), None) == X_HOST_REFUSED


def test_the_blacklist_judges_them_by_the_url_that_is_requested() -> None:
    black = [Rule(url=r"http://own\.example/app/admin.*")]
    assert refused(guard(black=black, prefix=b"/app"), None, b"/admin") == DESTINATION_REFUSED
    assert choose(guard(black=black), None, b"/admin") is None
    here = guard(black=[Rule(url="http://localhost/admin")], own=None)
    assert refused(here, None, b"/admin") == DESTINATION_REFUSED
    assert choose(here, None, b"/") is None


def test_malformed_origins() -> None:
    assert refused(guard(allow=[".*"]), "nonsense") == (400, "bad_x_host")


def test_repr() -> None:
    assert repr(guard()).startswith("<Guard <HostAllowlist")


def choose_bytes(judge: Guard, x_host: bytes | None) -> HostOrigin:
    return judge.choose_bytes(RequestHead(b"GET", b"/", []), x_host)


def test_streams_of_bytes_go_where_a_pattern_of_their_own_allows() -> None:
    judge = guard(allow=[r"tcp://db\.test:5432", r"http://.*"])
    assert choose_bytes(judge, b"TCP://DB.test:5432") == HostOrigin("tcp", "db.test", 5432)
    for wanted in (b"tcp://db.test:5433", b"tcp://other.test:5432"):
        with pytest.raises(HeadError) as caught:
            choose_bytes(judge, wanted)
        assert (caught.value.status, caught.value.code) == X_HOST_REFUSED
    for none in (None, b"", b"http://db.test", b"tcp://db.test"):
        with pytest.raises(HeadError) as caught:
            choose_bytes(judge, none)
        assert (caught.value.status, caught.value.code) == (400, "bad_x_host")


def test_rules_forbid_streams_of_bytes_too() -> None:
    black = [Rule(url=r"tcp://db\.test:5432/.*")]
    judge = guard(allow=[r"tcp://db\.test:5432"], black=black)
    with pytest.raises(HeadError) as caught:
        choose_bytes(judge, b"tcp://db.test:5432")
    assert (caught.value.status, caught.value.code) == X_HOST_REFUSED
