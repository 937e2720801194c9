"""How long a backtracking matcher may take: patterns that a hostile host could keep busy are refused at start.

``re`` runs in the event loop, and tries every way in which a pattern can share out a text. A part that repeats leaves
a choice only where the text may go on with the part as well as with what follows it; the numbers of these choices
multiply. (google-re2 needs none of this: its time is linear.)
"""

from __future__ import annotations

from functools import reduce
from typing import Final

from .patterns import ALL, AnyOf, Char, Choice, Node, Repeat, Sequence

__all__ = ["LONGEST", "explosive", "ways"]

# What is matched: scheme, "://", at most 253 characters of host, colon and port.
LONGEST: Final = len("https://") + 253 + len(":65535")
# Three repeats of any character, or 24 optional ones: a tenth of a second at the worst.
MAX_WAYS: Final = 300**3

_NOTHING: Final[frozenset[str]] = frozenset()


def explosive(node: Node, *, longest: int = LONGEST) -> str | None:
    """Why a backtracking matcher may need long for a text of at most ``longest`` characters, or None.

    On the safe side: two ways through the inside of a repeat double the work with each turn, if they can match the
    same text, and whether they can is not looked at.
    """
    reason = _nested(node)
    if reason is None and ways(node, longest=longest) > MAX_WAYS:
        return "has too many repeats that may share the same text"
    return reason


def _nested(node: Node, *, repeated: bool = False) -> str | None:
    if isinstance(node, Repeat):
        if repeated and node.low != node.high:
            return "has a repeat inside a repeat"
        return _nested(node.inner, repeated=repeated or node.high is None or node.high > 1)
    if isinstance(node, Choice):
        if repeated:
            return "has alternatives inside a repeat"
        return _first_reason(node.branches, repeated=False)
    return _first_reason(node.nodes, repeated=repeated) if isinstance(node, Sequence) else None


def _first_reason(nodes: tuple[Node, ...], *, repeated: bool) -> str | None:
    reasons = (_nested(node, repeated=repeated) for node in nodes)
    return next((reason for reason in reasons if reason is not None), None)


def ways(node: Node, follow: frozenset[str] = _NOTHING, *, longest: int = LONGEST) -> int:
    """In how many ways a text of at most ``longest`` characters could be shared out, with ``follow`` as what may come
    next. Never too few; for patterns without repeats inside repeats."""
    if isinstance(node, Repeat):
        return _ways_of_repeat(node, follow, longest)
    if isinstance(node, Choice):
        found = [ways(branch, follow, longest=longest) for branch in node.branches]
        return sum(found) if _overlap(node.branches, follow) else max(found)
    total = 1
    for part in reversed(node.nodes if isinstance(node, Sequence) else ()):
        total *= ways(part, follow, longest=longest)
        follow = _first_or(part, follow)
    return total


def _ways_of_repeat(node: Repeat, follow: frozenset[str], longest: int) -> int:
    if node.high == 0:  # looks around, and takes nothing
        return ways(node.inner, longest=longest)
    inside = ways(node.inner, follow | _first(node.inner), longest=longest)
    if not _first(node.inner) & follow:
        return inside  # the next character says whether to go on
    most = longest if node.high is None else min(node.high, longest)
    return inside * max(most - node.low + 1, 1)


def _overlap(branches: tuple[Node, ...], follow: frozenset[str]) -> bool:
    seen: frozenset[str] = _NOTHING
    for branch in branches:
        first = _first_or(branch, follow)
        if first & seen:
            return True
        seen |= first
    return False


# -- what a text may begin with ------------------------------------------------------------------


def _first_or(node: Node, follow: frozenset[str]) -> frozenset[str]:
    return _first(node) | follow if _may_be_empty(node) else _first(node)


def _first(node: Node) -> frozenset[str]:
    """The characters that a match may begin with, in lower case, for a flag may make the case meaningless."""
    if isinstance(node, Char):
        return frozenset(node.text.lower())
    if isinstance(node, AnyOf):
        return node.chars
    if isinstance(node, Choice):
        return reduce(frozenset.union, map(_first, node.branches))
    if isinstance(node, Repeat):
        return ALL if node.high == 0 else _first(node.inner)  # what looks around may fail anywhere
    first = _NOTHING
    for part in node.nodes:
        first |= _first(part)
        if not _may_be_empty(part):
            break
    return first


def _may_be_empty(node: Node) -> bool:
    if isinstance(node, Repeat):
        return node.low == 0 or _may_be_empty(node.inner)
    if isinstance(node, Choice):
        return any(map(_may_be_empty, node.branches))
    return isinstance(node, Sequence) and all(map(_may_be_empty, node.nodes))
