"""Which origins a caller may pick with X-Host: normalise first, then match the whole (design, section 9).

Only ``scheme://host[:port]`` takes part: no path, query, fragment or userinfo ever reaches a pattern, so that ``.*``
cannot jump over a delimiter. What is judged is what is dialled: the normalised origin, never the caller's spelling.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ..errors import ConfigError, HeadError
from . import patterns
from .regexps import Compiled, Engine, compile_pattern

__all__ = ["HTTP_SCHEMES", "TCP_SCHEMES", "X_HOST_LIMIT", "HostAllowlist", "HostOrigin", "parse_x_host"]

HTTP_SCHEMES: Final = frozenset({"http", "https"})
TCP_SCHEMES: Final = frozenset({"tcp"})

PATTERNS_LIMIT: Final = 100
# A host name has at most 253 characters in ASCII; non-ASCII ones may need four bytes each.
X_HOST_LIMIT: Final = 1024
HOST_LIMIT: Final = 253  # and so the text that is matched is bounded too

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


# -- origins -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HostOrigin:
    """A normalised origin. ``host`` is what is dialled: lower case ASCII, an IPv6 address without brackets."""

    scheme: str
    host: str
    port: int

    @property
    def spellings(self) -> tuple[str, ...]:
        """What patterns are tried on: the default port may be left out of a pattern, or written."""
        bare = f"{self.scheme}://[{self.host}]" if ":" in self.host else f"{self.scheme}://{self.host}"
        explicit = f"{bare}:{self.port}"
        return (bare, explicit) if _DEFAULT_PORTS.get(self.scheme) == self.port else (explicit,)

    def __str__(self) -> str:
        return self.spellings[0]


# Every character that could end the authority early, or mean another to some parser, is out: "/?#@\\%", blanks and
# controls (urlsplit drops a newline silently, and takes "http://a\\@b/" for b).
_ORIGIN = re.compile(
    r"(?P<scheme>[A-Za-z]{1,8})://"
    r"(?P<host>\[[0-9A-Fa-f:.]{2,45}\]|[^\x00-\x20\x7f-\x9f/?#@\\%\[\]:]+)"
    r"(?::(?P<port>[1-9][0-9]{0,4}))?"
)
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
# getaddrinfo takes 2130706433, 0x7f.1, 0177.0.0.1 and 127.1 for 127.0.0.1: a host whose last label is a number is
# an IPv4 address in its usual spelling, or refused (the URL standard's rule "ends in a number").
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


def parse_x_host(value: bytes | str, *, schemes: frozenset[str] = HTTP_SCHEMES) -> HostOrigin:
    """The origin that X-Host names. Raises ``HeadError`` 400 for anything but ``scheme://host[:port]``."""
    match = _ORIGIN.fullmatch(_decode(value))
    if match is None:
        raise _bad("must read scheme://host[:port] and nothing more")
    scheme = match["scheme"].lower()
    if scheme not in schemes:
        raise _bad(f"must begin with {' or '.join(f'{known}://' for known in sorted(schemes))}")
    port = int(match["port"] or _DEFAULT_PORTS.get(scheme, 0))
    if not 1 <= port <= 65535:
        raise _bad("must have a port from 1 to 65535")
    return HostOrigin(scheme, _normalise_host(match["host"]), port)


def _decode(value: bytes | str) -> str:
    if len(value) > X_HOST_LIMIT:
        raise _bad("is too long")
    if isinstance(value, str):
        return value
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise _bad("is neither ASCII nor UTF-8") from None


def _normalise_host(host: str) -> str:
    if host.startswith("["):
        return _normalise_ipv6(host[1:-1])
    name = _to_ascii(host).removesuffix(".")
    labels = name.split(".")
    if len(name) > HOST_LIMIT or not all(_LABEL.fullmatch(label) for label in labels):
        raise _bad("must name a host")
    if _NUMBER.fullmatch(labels[-1]):
        return _normalise_ipv4(name)
    return name


def _to_ascii(host: str) -> str:
    if host.isascii():
        return host.lower()
    if len(host) > HOST_LIMIT:  # before the codec: its time grows with the square of a label's length
        raise _bad("must name a host")
    try:
        return host.encode("idna").decode("ascii").lower()
    except UnicodeError:
        raise _bad("must name a host that IDNA knows") from None


def _normalise_ipv4(host: str) -> str:
    try:
        return str(ipaddress.IPv4Address(host))
    except ValueError:
        raise _bad("must write an IPv4 address as four decimal numbers") from None


def _normalise_ipv6(host: str) -> str:
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError:
        raise _bad("must hold a valid IPv6 address") from None
    # Both spellings lead to the same socket, and Pythons differ in how they write the mapped one.
    return str(address.ipv4_mapped or address)


def _bad(problem: str) -> HeadError:
    return HeadError(400, "bad_x_host", f"X-Host {problem}")


# -- the list ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Rule:
    pattern: str
    regexp: Compiled
    node: patterns.Node
    tcp: bool  # for byte streams, and for nothing else

    def allows(self, origin: HostOrigin) -> bool:
        if self.tcp != (origin.scheme in TCP_SCHEMES):
            return False
        return any(self.regexp.fullmatch(spelling) is not None for spelling in origin.spellings)


_PYTHONS: Final = Engine()


class HostAllowlist:
    """An immutable list of patterns; empty, it allows nothing."""

    __slots__ = ("_rules", "warnings")

    def __init__(self, rules: tuple[_Rule, ...] = (), warnings: tuple[str, ...] = ()) -> None:
        self._rules = rules
        self.warnings = warnings  # for the operator, at start

    @classmethod
    def compile(
        cls,
        texts: Iterable[str],
        *,
        engine: Engine = _PYTHONS,
        name: str = "regexp",
    ) -> HostAllowlist:
        """``name``: the setting, for errors.

        Raises ``ConfigError`` for a pattern that does not compile, that is written for another engine, or that a
        hostile X-Host could keep a backtracking one busy with.
        """
        texts = list(texts)
        if len(texts) > PATTERNS_LIMIT:
            raise ConfigError(name, f"has {len(texts)} patterns", f"give at most {PATTERNS_LIMIT}")
        rules = [_compile(text, engine, name) for text in texts]
        warnings = [f"{name}: '{text}' {warning}" for rule in rules for text, warning in _doubts(rule)]
        return cls(tuple(rules), tuple(warnings))

    def __len__(self) -> int:
        return len(self._rules)

    def __repr__(self) -> str:
        return f"<HostAllowlist {[rule.pattern for rule in self._rules]}>"

    def allows(self, origin: HostOrigin) -> bool:
        return any(rule.allows(origin) for rule in self._rules)


def _compile(text: str, engine: Engine, name: str) -> _Rule:
    regexp, node = compile_pattern(text, engine, name=name)
    # ".*" was hardly meant to open every TCP port: a pattern for these must begin with their scheme.
    return _Rule(text, regexp, node, tcp=patterns.leading_text(node).startswith("tcp://"))


# -- doubts --------------------------------------------------------------------------------------

# For patterns that are too open for a sample made up from them to look like an origin.
_MADE_UP: Final = ("http://host.example", "https://host.example", "http://10.1.2.3:8080", "tcp://host.example:22")


def _doubts(rule: _Rule) -> list[tuple[str, str]]:
    stranger = _stranger(rule)
    if stranger is None and not any(_is_allowed(rule, text) for text in (*patterns.samples(rule.node), *_MADE_UP)):
        hint = "it is matched against scheme://host[:port] in lower case, without path"
        return [(rule.pattern, f"seems to match no origin: {hint}")]
    doubts = []
    if patterns.stray_dots(rule.node):
        doubts.append((rule.pattern, r"has a dot that matches any character: write \. for a dot"))
    if stranger is not None:
        doubts.append((rule.pattern, f"also matches {stranger}: end it with the host's last label or the port"))
    return doubts


# With a dot before them and without, with a port for tcp and without.
_STRANGERS: Final = tuple(f"{dot}attacker.example{port}" for dot in (".", "") for port in ("", ":22"))


def _stranger(rule: _Rule) -> str | None:
    """Somebody else's host under the pattern's own beginning, should it match."""
    for prefix in patterns.prefixes(rule.node):
        if prefix.partition("://")[2]:
            for suffix in _STRANGERS:
                if _is_allowed(rule, prefix + suffix):
                    return prefix + suffix
    return None


def _is_allowed(rule: _Rule, text: str) -> bool:
    try:
        return rule.allows(parse_x_host(text, schemes=HTTP_SCHEMES | TCP_SCHEMES))
    except HeadError:
        return False
