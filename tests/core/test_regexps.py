"""Compiling alone; what patterns may look like for an origin is in test_allowlist."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from tunnelkit.core.regexps import PATTERN_LIMIT, Engine, compile_pattern
from tunnelkit.errors import ConfigError

TWO_STARS = "http://a/.*x.*y"
THREE_STARS = "http://a/.*x.*x.*y"


@dataclass
class Equal:
    text: str

    def fullmatch(self, string: str, /) -> object | None:
        return self if string == self.text else None


def test_a_pattern_and_what_it_is_made_of() -> None:
    regexp, node = compile_pattern("http://a", Engine(), name="x")
    assert regexp == re.compile("http://a")
    assert node is not None
    regexp, _ = compile_pattern("(a+)+", Engine(Equal, linear_time=True), name="x")
    assert isinstance(regexp, Equal)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", f"1 to {PATTERN_LIMIT}"),
        ("a" * (PATTERN_LIMIT + 1), f"1 to {PATTERN_LIMIT}"),
        ("(", "is no regular expression"),
        (r"a\z", r"has \\z; leave it out: the whole must match anyway"),
        (r"a\p{L}", r"has \\p"),
        ("(?x)a b", "has the flag x"),
        ("[[:digit:]]", r"write \[0-9\]"),
        ("[[:print:]]", r"write \[a-z0-9\]"),
        ("(a+)+", "could keep it busy for long; rewrite it"),
    ],
)
def test_patterns_that_are_refused(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        compile_pattern(text, Engine(), name="given", judged="request")
    assert caught.value.field == "given"


def test_the_longer_the_text_the_fewer_repeats() -> None:
    compile_pattern(THREE_STARS, Engine(), name="x", longest=200)
    compile_pattern(TWO_STARS, Engine(), name="x", longest=4096)
    with pytest.raises(ConfigError, match="a hostile request"):
        compile_pattern(THREE_STARS, Engine(), name="x", judged="request", longest=4096)
    compile_pattern(THREE_STARS, Engine(Equal, linear_time=True), name="x", longest=4096)
