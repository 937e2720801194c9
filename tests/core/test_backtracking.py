from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tunnelkit.core.backtracking import LONGEST, explosive, runs, ways
from tunnelkit.core.patterns import AnyOf, Char, Choice, Node, Repeat, read_pattern


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(a+)+", "repeat inside a repeat"),
        ("((ab)*c)*", "repeat inside a repeat"),
        ("([a-z]+[.]?)+", "repeat inside a repeat"),
        ("(a?){30}", "repeat inside a repeat"),
        ("(?=(a+)+)", "repeat inside a repeat"),
        ("(a|(b+)+)", "repeat inside a repeat"),
        ("(a|a)+", "alternatives inside a repeat"),
        ("((a|b)c){2,}", "alternatives inside a repeat"),
        (".*.*.*.*x", "too many repeats"),
        (r"[^x]*\S+\W*\D*x", "too many repeats"),
        # Any repeats that share a character with what follows, not only those of any character.
        (r"[a-z.]+\.[a-z.]+\.[a-z.]+\.[a-z.]+\.corp", "too many repeats"),
        (r"\w+\w+\w+\w+\w+", "too many repeats"),
        ("a+a+a+a+a+b", "too many repeats"),
        ("(?i)[A-Z]+a+[A-Z]+a+a", "too many repeats"),
        ("a?" * 30 + "a" * 30, "too many repeats"),
        ("(a|ab)" * 30 + "x", "too many repeats"),
        ("(a|)" * 30 + "x", "too many repeats"),
        ("[a-z]{0,60}" * 6 + "x", "too many repeats"),
        ("(?=.*.*.*.*x)a", "too many repeats"),
        ("a*a*a*(?=b)a*(?!c)", "too many repeats"),
        (r"(.+).+\1.+\1.+x", "too many repeats"),
    ],
)
def test_patterns_that_explode(pattern: str, reason: str) -> None:
    found = explosive(read_pattern(pattern))
    assert found is not None
    assert reason in found


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "a+",
        "(a+)?",
        "(a{3})+",
        "(a|b)",
        "(a|b)?",
        "(?=a|b)",
        "(.*|.*)",
        ".*.*.*",
        r"[a-z]+-[0-9]+\.[a-z]+\.[a-z]+\.x",
        # However many there are, the next character says where each ends.
        r"https?://[a-z0-9-]+(\.[a-z0-9-]+)?(\.[a-z0-9-]+)?\.example\.com(:\d+)?",
        r"http://[a-z]+\.[a-z]+\.[a-z]+\.[a-z]+\.[a-z]+\.[a-z]+\.[a-z]+\.corp:\d{2,5}",
        "(a|b)" * 40,
        "([a-z][0-9]?)" * 40,
    ],
)
def test_patterns_that_do_not(pattern: str) -> None:
    assert explosive(read_pattern(pattern)) is None


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        ("", 1),
        ("abc", 1),
        ("a*", 1),
        ("a*b", 1),
        ("a*a", LONGEST + 1),
        ("a+a", LONGEST),
        ("a{2,4}a", 3),
        ("a{2}a", 1),
        ("a?b?a", 2),  # b? may be empty, and then a follows a?
        ("(a|b)", 1),
        ("(a|a)", 2),
        ("(a|b*a)a", 2),
        ("(a?a|b)", 2),
        ("x{300,400}x", 1),  # no origin is as long
    ],
)
def test_counting(pattern: str, count: int) -> None:
    assert ways(read_pattern(pattern)) == count


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        ("a*b", 0),  # it begins at one place
        (".*a*a", 0),  # it counts as ways
        (".*/[a-z]*/", 0),  # runs that begin behind a slash share no letter
        (".*[a-z]*/", LONGEST),
        (".*[a-z]{2,9}/", 9),
        (".*(?:a/)*b", LONGEST),  # such a run may begin inside another
        (".*(?:a/)?b", 0),
        (".*(?:a|b+)c", LONGEST),
        (".*/.*", LONGEST),
        (".*/(?=.*)", LONGEST),
        ("(?=a)b*c", 0),
        ("(?:.*|a)b*c", LONGEST),
        ("(?:a.*|b)(?:b?|c)b*c", LONGEST),
        ("", 0),
    ],
)
def test_runs(pattern: str, count: int) -> None:
    assert runs(read_pattern(pattern)) == count


@pytest.mark.parametrize(
    "pattern",
    [
        ".*[ab]*[ac]*x",
        "http://h/a*[ab]*[ac]*x",
        ".*/.*[a-z]+/x",
        ".*(?=a*a*b)x",
        r".*(a*)\1x",
        r"http://h/(a*)(a*)\1\2x",
    ],
)
def test_what_takes_long_for_a_long_text_though_few_ends_are_a_choice(pattern: str) -> None:
    assert explosive(read_pattern(pattern), longest=4096) is not None


@pytest.mark.parametrize(
    "pattern", [".*/admin/.*", "https?://[^/]+/a/.*", ".*a.*b", r"http://(\S+\.)?example/.*", ".*a*b*x"]
)
def test_what_does_not(pattern: str) -> None:
    assert explosive(read_pattern(pattern), longest=4096) is None


class Matcher:
    """A backtracking matcher as simple as can be, which counts its steps."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.steps = 0

    def fullmatch(self, node: Node) -> bool:
        return any(end == len(self.text) for end in self.ends(node, 0))

    def ends(self, node: Node, at: int) -> Iterator[int]:
        self.steps += 1
        if isinstance(node, Char | AnyOf):
            chars = node.text if isinstance(node, Char) else node.chars
            if at < len(self.text) and self.text[at] in chars:
                yield at + 1
        elif isinstance(node, Choice):
            for branch in node.branches:
                yield from self.ends(branch, at)
        elif isinstance(node, Repeat):
            yield from self.turns(node, at, 0)
        else:
            yield from self.one_after_another(node.nodes, at)

    def turns(self, node: Repeat, at: int, done: int) -> Iterator[int]:
        self.steps += 1
        if node.high is None or done < node.high:
            for end in self.ends(node.inner, at):
                if end > at or done < node.low:
                    yield from self.turns(node, end, done + 1)
        if done >= node.low:
            yield at

    def one_after_another(self, nodes: tuple[Node, ...], at: int) -> Iterator[int]:
        if not nodes:
            yield at
            return
        for end in self.ends(nodes[0], at):
            yield from self.one_after_another(nodes[1:], end)


PATTERNS = st.recursive(
    st.sampled_from(["a", "b", "[ab]", r"\.", "[^a]"]),
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=5).map("".join),
        st.tuples(inner, inner).map(lambda two: f"(?:{two[0]}|{two[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,3}"])).map(lambda two: f"({two[0]}){two[1]}"),
    ),
    max_leaves=10,
)


@given(PATTERNS, st.text("ab.", max_size=16))
@example("a*a*a*b", "a" * 16)
@example("a*b*a*b*x", "ab" * 8)
@example("a?a?a?a?aaaa", "aaaaaaa")
@example("(a|ab)(a|ba)(b|a)", "aba")
def test_no_pattern_takes_more_steps_than_were_counted(pattern: str, text: str) -> None:
    node = read_pattern(pattern)
    if (reason := explosive(node)) is not None and "inside" in reason:
        return
    matcher = Matcher(text)
    matcher.fullmatch(node)
    # Each way costs at most a step for each part of the pattern, and each character.
    assert matcher.steps <= ways(node, longest=len(text)) * 2 * (len(pattern) + 1) * (len(text) + 2)
