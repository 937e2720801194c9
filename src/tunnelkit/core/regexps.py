"""Compiling the regular expressions that guard a network: what an operator could mean otherwise, or a hostile caller
could keep busy, is refused at start (design, section 9)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from ..errors import ConfigError
from . import backtracking, patterns

__all__ = ["PATTERN_LIMIT", "Compiled", "Engine", "compile_pattern"]

PATTERN_LIMIT: Final = 1000  # characters


class Compiled(Protocol):
    """A pattern as ``re`` or google-re2 compiles it."""

    def fullmatch(self, string: str, /) -> object | None: ...


@dataclass(frozen=True, slots=True)
class Engine:
    """``linear_time``: it never backtracks (google-re2), so that patterns of any shape are safe."""

    compiler: Callable[[str], Compiled] = re.compile
    linear_time: bool = False


def compile_pattern(
    text: str, engine: Engine, *, name: str, judged: str = "X-Host", longest: int = backtracking.LONGEST
) -> tuple[Compiled, patterns.Node]:
    """The pattern, and what it is made of. ``judged`` is what it will be matched against, whole, and has at most
    ``longest`` characters.

    Raises ``ConfigError`` naming ``name`` for a pattern that does not compile, that is written for another engine, or
    that a backtracking one could be kept busy with.
    """
    if not text or len(text) > PATTERN_LIMIT:
        raise ConfigError(name, f"a pattern must have 1 to {PATTERN_LIMIT} characters")
    _refuse_foreign(text, name)
    try:
        regexp = engine.compiler(text)
        node = patterns.read_pattern(text)
    except Exception as error:  # whatever the given compiler raises for a pattern that it does not like
        raise ConfigError(name, f"'{text}' is no regular expression: {error}") from error
    if not engine.linear_time and (reason := backtracking.explosive(node, longest=longest)) is not None:
        problem = f"'{text}' {reason}: a hostile {judged} could keep it busy for long"
        raise ConfigError(name, problem, "rewrite it, or install tunnelkit[re2]")
    return regexp, node


_PAIR = re.compile(r"\\(.)", re.DOTALL)
_VERBOSE = re.compile(r"\(\?[a-zA-Z]*x")
_POSIX = re.compile(r"\[:\^?([a-z]+):\]")
_POSIX_SPELLINGS: Final = {
    "alnum": "a-z0-9",
    "alpha": "a-z",
    "digit": "0-9",
    "lower": "a-z",
    "word": r"\w",
    "xdigit": "0-9a-f",
}


def _refuse_foreign(text: str, name: str) -> None:
    """Spellings of other engines. Python's would take some for something else, or say "bad escape"."""
    escapes = {match[1] for match in _PAIR.finditer(text)}
    if "z" in escapes:
        raise ConfigError(name, rf"'{text}' has \z", "leave it out: the whole must match anyway")
    if _VERBOSE.search(text):  # its blanks and comments would be read as what they are not
        raise ConfigError(name, f"'{text}' has the flag x", "write it without blanks and comments")
    if escapes & {"p", "P"}:
        raise ConfigError(name, rf"'{text}' has \p, which Python does not know", "write a set such as [a-z0-9-]")
    posix = _POSIX.search(text)
    if posix is not None:
        spelling = _POSIX_SPELLINGS.get(posix[1], "a-z0-9")
        raise ConfigError(name, f"'{text}' has {posix[0]}, which Python does not know", f"write [{spelling}]")
