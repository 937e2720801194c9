"""wsp's way to call: the URL in X-PROXY-DESTINATION, and what the server's rules say of it (design, sections 8, 9).

A URL is taken apart once, at the server, and what was judged is what is requested: origin and target.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from ..errors import HeadError
from ..heads import RequestHead
from .allowlist import HostOrigin, parse_x_host
from .routing import ToDestination, ToName, ToTunnel
from .rules import RuleSet, Verdict

__all__ = ["DESTINATION_LIMIT", "Destination", "check_x_host", "parse_destination", "through_tunnel"]

DESTINATION_LIMIT: Final = 8 * 1024
_FIELD: Final = "X-PROXY-DESTINATION"
# The authority ends at the first of these (RFC 3986 3.2).
_URL = re.compile(rb"([A-Za-z]{1,8}://[^/?#]*)([^#]*)(#?)", re.DOTALL)
_VISIBLE = re.compile(rb"[!-~]*")


@dataclass(frozen=True, slots=True)
class Destination:
    """A URL as it is requested. ``target`` is its path and query, byte for byte."""

    origin: HostOrigin
    target: bytes

    def __repr__(self) -> str:  # a query may hold secrets
        return f"<Destination {self.origin}>"


def parse_destination(value: bytes) -> Destination:
    """Raises ``HeadError`` 400 for anything but ``http(s)://host[:port][/path][?query]``."""
    match = _URL.match(value)
    if len(value) > DESTINATION_LIMIT:
        raise _bad("is too long")
    if match is None:
        raise _bad("must be a URL that begins with http:// or https://")
    authority, target, fragment = match.groups()
    if b"@" in authority:
        raise _bad("must not have a user name or password: send Authorization")
    if fragment:
        raise _bad("must not have a fragment")
    if _VISIBLE.fullmatch(target) is None:
        raise _bad("must be percent-encoded")
    try:
        origin = parse_x_host(authority)
    except HeadError as error:
        raise _bad(error.detail.removeprefix("X-Host ")) from None
    return Destination(origin, target if target.startswith(b"/") else b"/" + target)


def _bad(problem: str) -> HeadError:
    return HeadError(400, "bad_destination", f"{_FIELD} {problem}")


def through_tunnel(where: ToDestination, head: RequestHead, rules: RuleSet) -> ToTunnel:
    """The way of a request with a destination. Raises ``HeadError`` for one that is malformed, or that the server's
    rules do not let through."""
    destination = parse_destination(where.destination)
    _require(rules.judge(head, destination.origin, destination.target), "destination_refused", f"this {_FIELD}")
    return ToTunnel(where.tokens, destination.target, str(destination.origin).encode(), by_destination=True)


def check_x_host(where: ToTunnel | ToName, head: RequestHead, rules: RuleSet) -> None:
    """The server's rules are no more to be gone round by X-Host. Raises ``HeadError``."""
    if rules and where.x_host is not None:
        _require(rules.judge(head, parse_x_host(where.x_host), where.target), "x_host_refused", "this X-Host")


def _require(verdict: Verdict, code: str, what: str) -> None:
    if verdict in (Verdict.FORBIDDEN, Verdict.UNLISTED):
        raise HeadError(403, code, f"the server's rules do not let {what} through")
