"""Rules over requests that name their destination: by method, URL and fields, what is forbidden first, then what is
allowed (design, section 9; wsp's blacklist and whitelist).

Every pattern must match whole. What is judged is the URL that will be requested, in each spelling that an origin may
take for the same: what is forbidden is so in any of them, what is allowed must be so in all.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote

from ..errors import ConfigError
from ..heads import RequestHead
from . import patterns
from .allowlist import HostOrigin
from .regexps import Compiled, Engine, compile_pattern

__all__ = ["JUDGED_LIMIT", "RULES_LIMIT", "Rule", "RuleSet", "Verdict"]

RULES_LIMIT: Final = 100
# Characters of a URL or a value that patterns are tried on; what is longer cannot be judged.
JUDGED_LIMIT: Final = 4096

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """Regular expressions for the method, the URL (``scheme://host[:port]/path?query``) and fields by name. Each must
    match whole; what is left out matches anything. A field that a request does not have counts as "". Whoever is
    given rules raises ConfigError for a pattern that is none.

        >>> rule = Rule(method="GET|HEAD", url=r"http://wiki\\.internal(:80)?/.*", headers={"X-Team": "docs"})
    """

    method: str | None = None
    url: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class Verdict(enum.Enum):
    FORBIDDEN = enum.auto()  # by the blacklist, or it is too long to be judged
    ALLOWED = enum.auto()  # by the whitelist
    UNLISTED = enum.auto()  # there is a whitelist, and it is not on it
    OPEN = enum.auto()  # there is none


# -- what is judged ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Asked:
    methods: tuple[str, ...]  # as it was sent, and as an origin reads it to which case means nothing
    origins: tuple[str, ...]  # spellings of the same
    targets: tuple[str, ...]  # as it was sent, and as a lax origin reads it
    head: RequestHead
    _values: dict[str, list[str]] = field(default_factory=dict)  # of its fields, once a rule asks for any

    @classmethod
    def of(cls, head: RequestHead, origin: HostOrigin, target: bytes) -> _Asked:
        method, sent = head.method.decode("latin-1"), target.decode("latin-1")
        return cls(_both(method, method.upper()), origin.spellings, _both(sent, _plain(sent)), head)

    def values(self, name: str) -> list[str]:
        """Of the lines that an origin may take for the field: CGI, and what is like it, has no "-" in names."""
        if not self._values:
            for key, value in self.head.fields:
                self._values.setdefault(_field_key(key.decode("latin-1")), []).append(value.decode("latin-1"))
        return self._values.get(name, [""])

    @property
    def too_long(self) -> bool:
        return any(len(self.origins[-1]) + len(target) > JUDGED_LIMIT for target in self.targets)


def _both(sent: str, read: str) -> tuple[str, ...]:
    return (sent,) if sent == read else (sent, read)


def _field_key(name: str) -> str:
    return name.lower().replace("_", "-")


def _plain(target: str) -> str:
    """Decoded once, with backslashes as slashes, without empty segments, dot segments and parameters of segments;
    with blanks for line ends, which no dot of a pattern would match."""
    path, mark, query = target.partition("?")
    segments: list[str] = []
    parts = [part.partition(";")[0] for part in unquote(path).replace("\\", "/").split("/")]
    for part in parts:
        if part == "..":
            del segments[-1:]
        elif part not in ("", "."):
            segments.append(part)
    end = "/" if segments and parts[-1] in ("", ".", "..") else ""
    return f"/{'/'.join(segments)}{end}{mark}{unquote(query)}".replace("\n", " ")


# -- rules ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Compiled:
    method: Compiled | None
    url: Compiled | None
    headers: tuple[tuple[str, Compiled], ...]

    def forbids(self, asked: _Asked) -> bool:
        return (
            any(_fits(self.method, method) for method in asked.methods)
            and any(self._is_at(asked, target) for target in asked.targets)
            and all(
                any(len(value) > JUDGED_LIMIT or _fits(pattern, value) for value in asked.values(name))
                for name, pattern in self.headers
            )
        )

    def allows(self, asked: _Asked) -> bool:
        return (
            all(_fits(self.method, method) for method in asked.methods)
            and all(self._is_at(asked, target) for target in asked.targets)
            and all(
                all(len(value) <= JUDGED_LIMIT and _fits(pattern, value) for value in asked.values(name))
                for name, pattern in self.headers
            )
        )

    def _is_at(self, asked: _Asked, target: str) -> bool:
        return self.url is None or any(_fits(self.url, origin + target) for origin in asked.origins)


def _fits(pattern: Compiled | None, text: str) -> bool:
    return pattern is None or pattern.fullmatch(text) is not None


class RuleSet:
    """An immutable blacklist and whitelist; empty, they say nothing."""

    __slots__ = ("_blacklist", "_whitelist", "warnings")

    def __init__(
        self,
        blacklist: tuple[_Compiled, ...] = (),
        whitelist: tuple[_Compiled, ...] = (),
        warnings: tuple[str, ...] = (),
    ) -> None:
        self._blacklist = blacklist
        self._whitelist = whitelist
        self.warnings = warnings  # for the operator, at start

    @classmethod
    def compile(cls, blacklist: Sequence[Rule], whitelist: Sequence[Rule], *, engine: Engine) -> RuleSet:
        """Raises ``ConfigError`` that names the list, the rule by its number, and its part: ``whitelist[2].url``."""
        forbidding = _compile_all(blacklist, engine, "blacklist")
        allowing = _compile_all(whitelist, engine, "whitelist")
        warnings = [warning for number, rule in enumerate(whitelist, 1) for warning in _doubts(rule, number, engine)]
        return cls(forbidding, allowing, tuple(warnings))

    def __bool__(self) -> bool:
        return bool(self._blacklist or self._whitelist)

    def __repr__(self) -> str:
        return f"<RuleSet blacklist={len(self._blacklist)} whitelist={len(self._whitelist)}>"

    def judge(self, head: RequestHead, origin: HostOrigin, target: bytes) -> Verdict:
        """Of ``head``, whose request goes to ``target`` of ``origin``."""
        if not self:
            return Verdict.OPEN
        asked = _Asked.of(head, origin, target)
        if asked.too_long or any(rule.forbids(asked) for rule in self._blacklist):
            return Verdict.FORBIDDEN
        if not self._whitelist:
            return Verdict.OPEN
        return Verdict.ALLOWED if any(rule.allows(asked) for rule in self._whitelist) else Verdict.UNLISTED


# -- compiling -----------------------------------------------------------------------------------


def _compile_all(rules: Sequence[Rule], engine: Engine, name: str) -> tuple[_Compiled, ...]:
    if len(rules) > RULES_LIMIT:
        raise ConfigError(name, f"has {len(rules)} rules", f"give at most {RULES_LIMIT}")
    return tuple(_compile(rule, engine, f"{name}[{number}]") for number, rule in enumerate(rules, 1))


def _compile(rule: Rule, engine: Engine, name: str) -> _Compiled:
    if rule.method is None and rule.url is None and not rule.headers:
        raise ConfigError(name, "is empty, and would match every request", 'give url = ".*" if that is meant')
    headers = tuple(
        (_field(key, name), _pattern(text, engine, f"{name}.headers")) for key, text in rule.headers.items()
    )
    method = None if rule.method is None else _pattern(rule.method, engine, f"{name}.method")
    return _Compiled(method, None if rule.url is None else _pattern(rule.url, engine, f"{name}.url"), headers)


def _field(name: str, where: str) -> str:
    if _TOKEN.fullmatch(name) is None:
        raise ConfigError(f"{where}.headers", f"{name!r} is no name of a field", "give one such as X-Api-Key")
    return _field_key(name)


def _pattern(text: str, engine: Engine, name: str) -> Compiled:
    return compile_pattern(text, engine, name=name, judged="request", longest=JUDGED_LIMIT)[0]


def _doubts(rule: Rule, number: int, engine: Engine) -> Iterable[str]:
    """Somebody else's host under the pattern's own beginning, should it match."""
    if rule.url is None:
        return
    pattern, node = compile_pattern(rule.url, engine, name="whitelist", judged="request", longest=JUDGED_LIMIT)
    for prefix in patterns.prefixes(node):
        for stranger in (f"{prefix}.attacker.example/", f"{prefix}attacker.example/"):
            host = stranger.partition("://")[2].partition("/")[0]
            if host.endswith("attacker.example") and prefix.partition("://")[2] and _fits(pattern, stranger):
                yield f"whitelist[{number}].url: '{rule.url}' also matches {stranger}: end the host with a slash"
                return
