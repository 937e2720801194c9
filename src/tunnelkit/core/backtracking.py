"""How long a backtracking matcher may take: patterns that a hostile host could keep busy are refused at start.

``re`` runs in the event loop, and tries every way in which a pattern can share out a text. A part that repeats leaves
a choice only where the text may go on with the part as well as with what follows it; the numbers of these choices
multiply. Where the next character does say how far a part goes, it still runs that far, and, if a choice before it
moves its beginning, anew for each of these ways. (google-re2 needs none of this: its time is linear.)
"""

from __future__ import annotations

from functools import reduce
from typing import Final

from .patterns import ALL, AnyOf, Char, Choice, Node, Repeat, Sequence

__all__ = ["LONGEST", "explosive", "runs", "ways"]

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
    if reason is None and ways(node, longest=longest) * (1 + runs(_without_rest(node), longest=longest)) > MAX_WAYS:
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


# -- runs ----------------------------------------------------------------------------------------


def runs(
    node: Node, before: frozenset[str] = _NOTHING, follow: frozenset[str] = _NOTHING, *, longest: int = LONGEST
) -> int:
    """How many characters a repeat runs over for each of the ways that lead to it, though the next one says where it
    ends; several share the text, so that the longest counts. ``before`` is what may come before the node, ``follow``
    what may come after it."""
    if isinstance(node, Repeat):
        return _runs_of_repeat(node, before, follow, longest)
    if isinstance(node, Choice):
        return max(runs(branch, before, follow, longest=longest) for branch in node.branches)
    most = 0
    parts = node.nodes if isinstance(node, Sequence) else ()
    for number, part in enumerate(parts):
        most = max(most, runs(part, before, _first_or(Sequence(parts[number + 1 :]), follow), longest=longest))
        before = _last_or(part, before)
    return most


def _without_rest(node: Node) -> Node:
    """A dot's repeat at the end runs over the rest of the text, and matches: no text that is judged has line ends."""
    parts = node.nodes if isinstance(node, Sequence) else ()
    rest = parts[-1] if parts else None
    if isinstance(rest, Repeat) and rest.high is None and isinstance(rest.inner, AnyOf) and rest.inner.dot:
        return Sequence(parts[:-1])
    return node


def _runs_of_repeat(node: Repeat, before: frozenset[str], follow: frozenset[str], longest: int) -> int:
    if node.high == 0:  # looks around, and takes nothing
        return runs(node.inner, before, longest=longest)
    inside = runs(node.inner, before, follow | _first(node.inner), longest=longest)
    if node.high == 1 or not before or _first(node.inner) & follow:
        return inside  # there is nothing to run over, one beginning, or it counts as ways
    if isinstance(node.inner, Char | AnyOf) and not _first(node.inner) & before:
        return inside  # it begins where others of its characters end: no two runs share any
    return max(inside, longest if node.high is None else min(node.high, longest))


# -- what a text may begin and end with ----------------------------------------------------------


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


def _last_or(node: Node, before: frozenset[str]) -> frozenset[str]:
    return _last(node) | before if _may_be_empty(node) else _last(node)


def _last(node: Node) -> frozenset[str]:
    """The characters that a match may end with."""
    if isinstance(node, Choice):
        return reduce(frozenset.union, map(_last, node.branches))
    if isinstance(node, Repeat):
        return _NOTHING if node.high == 0 else _last(node.inner)
    if not isinstance(node, Sequence):
        return _first(node)
    last = _NOTHING
    for part in reversed(node.nodes):
        last |= _last(part)
        if not _may_be_empty(part):
            break
    return last


def _may_be_empty(node: Node) -> bool:
    if isinstance(node, Repeat):
        return node.low == 0 or _may_be_empty(node.inner)
    if isinstance(node, Choice):
        return any(map(_may_be_empty, node.branches))
    return isinstance(node, Sequence) and all(map(_may_be_empty, node.nodes))
