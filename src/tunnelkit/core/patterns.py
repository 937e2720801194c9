"""What a regular expression is made of, as far as an operator can be warned about it before it guards a network.

A reader of Python's syntax that keeps what the checks ask for: literals, sets, repeats and alternatives. It is only
given patterns that a compiler took, so it never refuses one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import product
from typing import Final, TypeAlias

__all__ = [
    "ALL",
    "AnyOf",
    "Char",
    "Choice",
    "Node",
    "Repeat",
    "Sequence",
    "leading_text",
    "prefixes",
    "read_pattern",
    "samples",
    "stray_dots",
]

# The characters that an origin may hold, and some more, in lower case.
ALL: Final = frozenset("".join(map(chr, range(0x20, 0x7F))).lower())
_MAX_SAMPLES: Final = 64
_MAX_PREFIXES: Final = 16
_MAX_REPEAT: Final = 300  # no origin is longer


@dataclass(frozen=True, slots=True)
class Char:
    text: str


@dataclass(frozen=True, slots=True)
class AnyOf:
    """One character of a set, some of which are ``examples``; ``chars`` are all that it may be."""

    examples: str
    chars: frozenset[str] = field(default=ALL, compare=False, repr=False)
    dot: bool = False


@dataclass(frozen=True, slots=True)
class Repeat:
    inner: Node
    low: int
    high: int | None


@dataclass(frozen=True, slots=True)
class Sequence:
    nodes: tuple[Node, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    branches: tuple[Node, ...]


Node: TypeAlias = Char | AnyOf | Repeat | Sequence | Choice


# What a back reference stands for: a text of any length.
_SAME: Final = Repeat(AnyOf("a"), 0, None)


# -- reading -------------------------------------------------------------------------------------

_QUANTIFIER = re.compile(r"(?:([*+?])|\{(\d*)(,?)(\d*)\})[?+]?")
_SIMPLE: Final = {"*": (0, None), "+": (1, None), "?": (0, 1)}
# What follows "(?", to its end: a comment, a back reference, flags alone, a condition, or the start of a group.
_COMMENT = re.compile(r"\(\?#[^)]*\)")
_BACK_REFERENCE = re.compile(r"\(\?P=\w+\)")
_FLAGS_ALONE = re.compile(r"\(\?[a-zA-Z-]+\)")
_LOOK_AROUND = re.compile(r"\(\?<?[=!]")
_GROUP = re.compile(r"\((?:\?(?:P?<\w+>|\(\w+\)|>|[a-zA-Z-]*:))?")
_SET = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
_ESCAPE = re.compile(r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|N\{[^}]*\}|[0-9]{1,3}|.)", re.DOTALL)
# Escapes that stand for sets, with an example of each; what stands for a place rather than a character.
_ESCAPED_SETS: Final = {"d": "1", "w": "a1", "s": " ", "D": "a", "W": "-", "S": "a1"}
_PLACES: Final = frozenset("AbBZzG")
# The likeliest in an origin first, then all visible ones.
_EXAMPLES: Final = "a1-.:/" + "".join(map(chr, range(0x20, 0x7F)))


def read_pattern(pattern: str) -> Node:
    return _Reader(pattern).choice()


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def choice(self) -> Node:
        branches = [self._sequence()]
        while self._peek() == "|":
            self._at += 1
            branches.append(self._sequence())
        return branches[0] if len(branches) == 1 else Choice(tuple(branches))

    def _sequence(self) -> Node:
        nodes: list[Node] = []
        while self._peek() not in ("", "|", ")"):
            nodes.append(self._quantified(self._atom()))
        return nodes[0] if len(nodes) == 1 else Sequence(tuple(nodes))

    def _quantified(self, node: Node) -> Node:
        match = _QUANTIFIER.match(self._text, self._at)
        if match is None:
            return node
        simple, low, comma, high = match.groups()
        if simple is None and not low and not high:
            return node  # "{}" and "{,}" are literals
        self._at = match.end()
        if simple is not None:
            return Repeat(node, *_SIMPLE[simple])
        first = int(low or 0)
        return Repeat(node, first, first if not comma else int(high) if high else None)

    def _atom(self) -> Node:
        start = self._peek()
        if start == "(":
            return self._group()
        if start == "[":
            return self._set()
        if start == "\\":
            return self._escape()
        self._at += 1
        if start == ".":
            return AnyOf("a1", dot=True)
        return Sequence() if start in "^$" else Char(start)

    def _group(self) -> Node:
        if self._take(_COMMENT) or self._take(_FLAGS_ALONE):
            return Sequence()
        if self._take(_BACK_REFERENCE):
            return _SAME
        looks = bool(self._take(_LOOK_AROUND))
        if not looks:
            self._take(_GROUP)
        inner = self.choice()
        self._at += 1  # the ")"
        return Repeat(inner, 0, 0) if looks else inner

    def _set(self) -> Node:
        text = self._take(_SET)
        pattern = re.compile(text)
        examples = "".join(char for char in _EXAMPLES if pattern.fullmatch(char))
        return AnyOf(examples[:2], frozenset(examples.lower()))

    def _escape(self) -> Node:
        text = self._take(_ESCAPE)[1:]
        if text in _ESCAPED_SETS:
            chars = frozenset(filter(re.compile(f"\\{text}").fullmatch, ALL))
            return AnyOf(_ESCAPED_SETS[text], chars)
        if text in _PLACES:
            return Sequence()
        if text[0] in "123456789":
            return _SAME
        return AnyOf("a") if text[0].isalnum() else Char(text)  # "\n", "\x2e": nothing that an origin needs

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self, token: re.Pattern[str]) -> str:
        match = token.match(self._text, self._at)
        if match is None:
            return ""
        self._at = match.end()
        return match[0]


# -- judging -------------------------------------------------------------------------------------


def stray_dots(node: Node) -> bool:
    """Is there a dot that stands for exactly one character? It was hardly meant so in an origin."""
    if isinstance(node, AnyOf):
        return node.dot
    if isinstance(node, Sequence):
        return any(map(stray_dots, node.nodes))
    return isinstance(node, Choice) and any(map(stray_dots, node.branches))


def leading_text(node: Node) -> str:
    """The literal text that every match begins with, as far as the pattern shows it without alternatives."""
    text = ""
    for part in node.nodes if isinstance(node, Sequence) else (node,):
        if isinstance(part, Char):
            text += part.text
        elif part != Sequence():
            break
    return text


def prefixes(node: Node) -> list[str]:
    """Literal texts after which the pattern goes on with something that is not literal."""
    return [text for text, complete in _prefixes(node) if not complete]


def _prefixes(node: Node) -> list[tuple[str, bool]]:
    """(text, whether that is all of the node)."""
    if isinstance(node, Char):
        return [(node.text, True)]
    if isinstance(node, AnyOf):
        return [("", False)]
    if isinstance(node, Choice):
        return [prefix for branch in node.branches for prefix in _prefixes(branch)][:_MAX_PREFIXES]
    if isinstance(node, Repeat):
        optional = [("", True)] if node.low == 0 else []
        if node.high == 0:
            return optional
        return optional + [(text, complete and node.high == 1) for text, complete in _prefixes(node.inner)]
    found = [("", True)]
    for part in node.nodes:
        found = [
            (text + more, further)
            for text, complete in found
            for more, further in (_prefixes(part) if complete else [("", False)])
        ][:_MAX_PREFIXES]
    return found


def samples(node: Node) -> list[str]:
    """Some texts that match, made up from the pattern."""
    if isinstance(node, Char):
        return [node.text]
    if isinstance(node, AnyOf):
        return list(node.examples)
    if isinstance(node, Choice):
        return [text for branch in node.branches for text in samples(branch)][:_MAX_SAMPLES]
    if isinstance(node, Repeat):
        least = [text * min(node.low, _MAX_REPEAT) for text in samples(node.inner)] if node.low else [""]
        return least + (samples(node.inner) if node.low == 0 and node.high != 0 else [])
    found = [""]
    for part in node.nodes:
        found = [text + more for text, more in product(found, samples(part))][:_MAX_SAMPLES]
    return found
