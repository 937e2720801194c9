from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelkit.core.patterns import (
    ALL,
    AnyOf,
    Char,
    Choice,
    Repeat,
    Sequence,
    leading_text,
    prefixes,
    read_pattern,
    samples,
    stray_dots,
)

A, B = Char("a"), Char("b")
DOT = AnyOf("a1", dot=True)
NOTHING = Sequence()


@pytest.mark.parametrize(
    ("pattern", "node"),
    [
        ("", NOTHING),
        ("a", A),
        ("ab", Sequence((A, B))),
        ("a|b", Choice((A, B))),
        ("a|", Choice((A, NOTHING))),
        ("(a)", A),
        ("(?:a)b", Sequence((A, B))),
        ("(?P<name>a)", A),
        ("(?>a)", A),
        ("(?i:a)", A),
        ("(?-i:a)", A),
        ("(?i)a", Sequence((NOTHING, A))),
        ("(?#no (comment)a", Sequence((NOTHING, A))),
        ("(a)(?P=x)", Sequence((A, Repeat(AnyOf("a"), 0, None)))),
        ("(a)?(?(1)b|a)", Sequence((Repeat(A, 0, 1), Choice((B, A))))),
        ("(?=a)", Repeat(A, 0, 0)),
        ("(?!a)", Repeat(A, 0, 0)),
        ("(?<=a)", Repeat(A, 0, 0)),
        ("(?<!a)", Repeat(A, 0, 0)),
        (".", DOT),
        ("^a$", Sequence((NOTHING, A, NOTHING))),
        ("a*", Repeat(A, 0, None)),
        ("a+?", Repeat(A, 1, None)),
        ("a?+", Repeat(A, 0, 1)),
        ("a{2}", Repeat(A, 2, 2)),
        ("a{2,}", Repeat(A, 2, None)),
        ("a{,3}", Repeat(A, 0, 3)),
        ("a{2,3}?", Repeat(A, 2, 3)),
        ("a{}", Sequence((A, Char("{"), Char("}")))),
        ("{a", Sequence((Char("{"), A))),
        ("[b]", AnyOf("b")),
        ("[a-z0-9-]", AnyOf("a1")),
        ("[]x]", AnyOf("]x")),
        (r"[\]x]", AnyOf("]x")),
        ("[^a]", AnyOf("1-")),
        (r"\.", Char(".")),
        (r"\/", Char("/")),
        (r"\\", Char("\\")),
        (r"\d", AnyOf("1")),
        (r"\w", AnyOf("a1")),
        (r"\S", AnyOf("a1")),
        (r"\b", NOTHING),
        (r"\A", NOTHING),
        (r"\Z", NOTHING),
        (r"\n", AnyOf("a")),
        (r"\x2e", AnyOf("a")),
        (r"\u002e", AnyOf("a")),
        (r"(a)\1", Sequence((A, Repeat(AnyOf("a"), 0, None)))),
    ],
)
def test_reading(pattern: str, node: object) -> None:
    assert read_pattern(pattern) == node


@pytest.mark.parametrize(
    ("pattern", "chars"),
    [
        ("[a-c]", "abc"),
        ("[A-C]", "abc"),  # a flag may make the case meaningless
        (r"[\d.]", "0123456789."),
        (r"\d", "0123456789"),
        (r"\s", " "),
        ("[^ -y]", "z{|}~"),
    ],
)
def test_what_a_set_may_be(pattern: str, chars: str) -> None:
    node = read_pattern(pattern)
    assert isinstance(node, AnyOf)
    assert node.chars == set(chars)


def test_what_may_be_any() -> None:
    for pattern in (".", r"\x2e"):
        node = read_pattern(pattern)
        assert isinstance(node, AnyOf)
        assert node.chars == ALL


@pytest.mark.parametrize(
    ("pattern", "stray"),
    [
        ("a.b", True),
        (".", True),
        ("(a|b.c)", True),
        ("a.*b", False),
        (r"a\.b", False),
        ("[.]", False),
        ("(a|b)", False),
        ("a.{3}", False),
    ],
)
def test_stray_dots(pattern: str, stray: bool) -> None:
    assert stray_dots(read_pattern(pattern)) is stray


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("tcp://h", "tcp://h"),
        (r"^tcp:\/\/.*", "tcp://"),
        (r"\Atcp", "tcp"),
        ("(tcp|http)://h", ""),
        ("tcp|http", ""),
        ("tcp?", "tc"),
        ("a", "a"),
        ("", ""),
    ],
)
def test_leading_text(pattern: str, text: str) -> None:
    assert leading_text(read_pattern(pattern)) == text


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("abc", []),
        ("ab.*", ["ab"]),
        ("https?://h.*", ["http://h", "https://h"]),
        ("(a|b.)c.", ["ac", "b"]),
        ("ab+c", ["ab"]),
        ("a(?=b)c*", ["ac"]),
        ("x{2}y", ["x"]),
        ("a*", ["a"]),
    ],
)
def test_prefixes(pattern: str, found: list[str]) -> None:
    assert prefixes(read_pattern(pattern)) == found


def test_what_is_made_up_is_bounded() -> None:
    wild = read_pattern("(?:a|b|c)" * 20 + "[a-z]?" * 20 + "x{1000}")
    assert len(samples(wild)) <= 64
    assert max(map(len, samples(wild))) <= 400
    assert len(prefixes(wild)) <= 16


@pytest.mark.parametrize(
    "pattern",
    [
        "abc",
        "a|b",
        "a*b+c?d{2}e{2,}f{,2}",
        r"https?://([a-z]{1,3}|\d+)\.[^x]\w\S(?:x|y)*",
        r"[]\]]\.\\[^a]",
        "(?P<n>a)(?i:b)",
        "",
    ],
)
def test_samples_match(pattern: str) -> None:
    made_up = samples(read_pattern(pattern))
    assert made_up
    assert all(re.fullmatch(pattern, text) for text in made_up)


@given(
    st.recursive(
        st.sampled_from(["a", "b", "[a-c]", r"\d", ".", r"\.", "[^a]"]),
        lambda inner: st.one_of(
            st.tuples(inner, inner).map("".join),
            st.tuples(inner, inner).map(lambda two: f"(?:{two[0]}|{two[1]})"),
            st.tuples(inner, st.sampled_from(["*", "+?", "?", "{2}", "{1,3}"])).map(
                lambda two: f"({two[0]}){two[1]}"
            ),
        ),
        max_leaves=12,
    )
)
def test_any_pattern_is_read_to_its_end(pattern: str) -> None:
    node = read_pattern(pattern)
    assert all(re.fullmatch(pattern, text) for text in samples(node))
    assert all(any(text.startswith(prefix) for text in samples(node)) for prefix in prefixes(node)[:1])
