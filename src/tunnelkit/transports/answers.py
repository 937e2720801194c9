"""Where a tunnel URL leads, how a server says no, and what an HTTP answer that is no grant means: for every transport
that opens by HTTP.

A refusal of the tunnel server carries a ``code`` of its own; what has none came from something in between, or says
that something in between spoilt the handshake (design, section 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, quote, urlsplit

from ..errors import AnsweredByOther, ConfigError, DialError, RegistrationRefused
from ..handshake import Refusal, refusal_from_problem, refusal_to_problem
from ..heads import Fields, field_values

__all__ = ["MOUNT", "Answer", "Target", "check_origin", "judge_answer", "refusal_answer", "retry_after"]

MOUNT: Final = "/_tunnel"  # where transports live on the server's port, below its base path

_PATH: Final = "/%:@!$&'()*+,;=~"  # beside letters, digits and "-._": RFC 3986 3.3


@dataclass(frozen=True, slots=True)
class Target:
    """Where a tunnel URL leads."""

    host: str
    port: int
    tls: bool
    path: str  # of the transports
    authority: bytes  # the Host field

    @classmethod
    def parse(cls, url: str) -> Target:
        """Raises ``ConfigError`` for a URL that is not ``http(s)://host[:port][/base]``."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as exc:
            raise ConfigError("url", f"is not a URL: {exc}") from exc
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError("url", "is not a tunnel's URL", "give http(s)://host[:port][/base]")
        tls = parts.scheme == "https"
        default = 443 if tls else 80
        port = port or default
        path = quote(parts.path.rstrip("/"), safe=_PATH) + MOUNT
        return cls(parts.hostname, port, tls, path, _authority(parts, port, default))


def _authority(parts: SplitResult, port: int, default: int) -> bytes:
    assert parts.hostname is not None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    if not host.isascii():
        host = host.encode("idna").decode()
    return (host if port == default else f"{host}:{port}").encode()


def judge_answer(status: int, fields: Fields, body: bytes, *, tls: bool) -> RegistrationRefused | DialError:
    """What any answer means that is neither 101 nor a grant."""
    refusal = refusal_from_problem(status, fields, body)
    if refusal is not None:
        detail = refusal.detail or refusal.code
        return RegistrationRefused(status, refusal.code, detail, retry_after=refusal.retry_after)
    who = "the proxy" if status == 407 else "something other than the tunnel server"
    hint = _hint(status, fields, body, tls=tls)
    return AnsweredByOther(
        status, f"{who} answered, with status {status}", hint=hint, retry_after=retry_after(fields)
    )


def retry_after(fields: Fields) -> float | None:
    """In seconds; the form with a date is not worth a clock."""
    values = field_values(fields, b"retry-after")
    if len(values) != 1 or not values[0].isdigit() or len(values[0]) > 9:
        return None
    return float(values[0])


def _hint(status: int, fields: Fields, body: bytes, *, tls: bool) -> str:
    if 300 <= status <= 399:
        return _redirect_hint(fields, tls=tls)
    if status == 400 and not tls and any(complaint in body.lower() for complaint in _PLAIN_TO_TLS):
        return "that port speaks TLS: use wss://"
    if status == 400 and body.startswith(b"Origin header with rendez-vous token"):
        return 'this is a WStunnel server: name its wire (transport "wstunnel"), or allow it (allow_legacy)'
    if status == 426:
        return "something in between, such as a reverse proxy, must be told to pass the Upgrade field"
    return _HINTS.get(status, "") or ("the tunnel server may be down" if status >= 500 else "")


# What is said to plain HTTP on a port for TLS by nginx and Apache, by servers in Go, and by tunnelkit's.
_PLAIN_TO_TLS = (b"plain http", b"http request to an https server", b"tls is required")

_HINTS = {
    200: "a captive portal or a proxy in between may have answered with a page of its own",
    404: "no tunnel server at this URL: check host and base path",
    407: "the proxy asks for authentication: give user and password in the proxy's URL",
    502: "a reverse proxy in between does not reach the tunnel server",
    503: "a reverse proxy in between does not reach the tunnel server",
    504: "a reverse proxy in between does not reach the tunnel server",
}


def _redirect_hint(fields: Fields, *, tls: bool) -> str:
    location = b"".join(field_values(fields, b"location"))[:200]
    if not tls and location.lower().startswith(b"https://"):
        return "redirects are not followed, and this one leads to https: use wss://"
    return "redirects are not followed: give the URL it leads to"


# -- the server's half ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer that grants nothing. Whoever carries it gives it its length."""

    status: int
    fields: Fields
    body: bytes


def refusal_answer(refusal: Refusal) -> Answer:
    return Answer(refusal.status, *refusal_to_problem(refusal))


def check_origin(fields: Fields) -> Answer | None:
    """A page that a browser loaded elsewhere must not become a tunnel client (cross-site websocket hijacking)."""
    if any(b"://" in value or value == b"null" for value in field_values(fields, b"origin")):
        refusal = Refusal(status=403, code="forbidden", detail="a browser's Origin may not open a tunnel")
        return refusal_answer(refusal)
    return None
