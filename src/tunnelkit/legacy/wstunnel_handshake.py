"""WStunnel's handshake, from both ends, as plain decisions: the opening of a websocket on ``/_tunnel`` without
subprotocol, with the token in ``Origin``.

The rules are those of the running programs, rightscale/wstunnel and its successor rshade/wstunnel.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Final

from ..config import Limits
from ..core.tokens import TOKEN_MAX, TOKEN_MIN, is_token
from ..handshake import Handshake, Refusal
from ..heads import Fields, field_values, list_items
from ..transports.answers import Answer, Target

__all__ = [
    "handshake_fields",
    "is_handshake",
    "is_theirs",
    "probe_fields",
    "read_handshake",
    "refusal_answer",
]


_NO_TOKEN: Final = b"Origin header with rendez-vous token required"


# -- their client asks -------------------------------------------------------------------------------


def is_handshake(fields: Fields) -> bool:
    """Whether a websocket request is theirs: no subprotocol, and an Origin that is none (no browser sends such)."""
    origins = field_values(fields, b"origin")
    return (
        len(origins) == 1
        and b"://" not in origins[0]
        and origins[0] != b"null"
        and not field_values(fields, b"sec-websocket-protocol")
        and b"websocket" in list_items(field_values(fields, b"upgrade"))
    )


def read_handshake(fields: Fields) -> Handshake | Answer:
    """Their handshake as one of ours, or the answer that their server gives."""
    origins = field_values(fields, b"origin")
    if len(origins) != 1:
        return _plain(400, _NO_TOKEN.decode())
    token = origins[0].decode("latin-1")
    if len(token) < TOKEN_MIN:
        return _plain(400, f"Rendez-vous token is too short (must be {TOKEN_MIN} chars)")
    if not is_token(token):
        return _plain(400, f"Rendez-vous token is no token (up to {TOKEN_MAX} visible characters but , and :)")
    versions = field_values(fields, b"x-client-version")
    version = versions[0].decode("ascii", "replace") if versions else ""
    return Handshake(
        token=token,
        password=_password(fields, token),
        client_version=f"wstunnel {version}".strip()[:80],
    )


def _password(fields: Fields, token: str) -> str | None:
    """By Basic authentication: of ``token:password``, or of the tunnel URL's userinfo."""
    values = field_values(fields, b"authorization")
    if len(values) != 1 or values[0][:6].lower() != b"basic ":
        return None
    try:
        user, colon, password = b64decode(values[0][6:].strip(), validate=True).decode("utf-8").partition(":")
    except ValueError:
        return None
    return password if colon and user in (token, "") else None


def refusal_answer(refusal: Refusal, fields: Fields, limits: Limits) -> Answer:
    """As theirs: a status and a line of text, which their client prints before it tries again. ``fields`` are the
    handshake's."""
    status, text = refusal.status, refusal.detail
    extra: Fields = []
    if refusal.code in ("unauthorized", "forbidden"):
        status = 401
        extra.append((b"WWW-Authenticate", b'Basic realm="wstunnel"'))
    if refusal.code == "unauthorized":
        text = _complaint(field_values(fields, b"authorization"))
    elif refusal.code == "too_many_clients" and limits.max_clients_per_token:
        text = f"Maximum number of clients ({limits.max_clients_per_token}) reached for this token"
    if refusal.retry_after is not None:
        extra.append((b"Retry-After", b"%d" % max(1, round(refusal.retry_after))))
    return _plain(status, text, extra)


def _complaint(values: list[bytes]) -> str:
    """What their server says of a password that is wrong."""
    if not values:
        return "Authorization required for this token"
    if values[0][:6].lower() != b"basic ":
        return "Invalid authorization type (must be Basic)"
    try:
        pair = b64decode(values[0][6:].strip(), validate=True)
    except ValueError:
        return "Invalid authorization encoding"
    return "Invalid token or password" if b":" in pair else "Invalid authorization format"


def _plain(status: int, text: str, extra: Fields | None = None) -> Answer:
    fields = [(b"Content-Type", b"text/plain; charset=utf-8"), (b"X-Content-Type-Options", b"nosniff")]
    return Answer(status, fields + (extra or []), text.encode())


# -- their server answers ----------------------------------------------------------------------------


def probe_fields(target: Target, key: bytes, user_agent: str) -> Fields:
    """A handshake without a token, which tells their servers from all others."""
    return _opening_fields(target, key, user_agent, origin=[])


def is_theirs(status: int, fields: Fields, body: bytes) -> bool:
    """Whether this is what their servers answer to a handshake without ``Origin``, to the letter (rightscale's ends
    with a line feed)."""
    return (
        status == 400
        and body in (_NO_TOKEN, _NO_TOKEN + b"\n")
        and field_values(fields, b"content-type") == [b"text/plain; charset=utf-8"]
        and field_values(fields, b"x-content-type-options") == [b"nosniff"]
    )


def handshake_fields(target: Target, key: bytes, handshake: Handshake, user_agent: str) -> Fields:
    """What their client asks with. The token stands in Origin as it is."""
    fields = _opening_fields(target, key, user_agent, origin=[(b"Origin", handshake.token.encode("ascii"))])
    fields.append((b"X-Client-Version", handshake.client_version.encode("latin-1", "replace")))
    return fields + _authorization(handshake)


def _opening_fields(target: Target, key: bytes, user_agent: str, *, origin: Fields) -> Fields:
    return [
        (b"Host", target.authority),
        *([(b"User-Agent", user_agent.encode())] if user_agent else []),
        (b"Connection", b"Upgrade"),
        *origin,
        (b"Sec-WebSocket-Key", key),
        (b"Sec-WebSocket-Version", b"13"),
        (b"Upgrade", b"websocket"),
    ]


def _authorization(handshake: Handshake) -> Fields:
    """The token's password goes first; the userinfo of the URL, for a proxy in front, has a field of its own then."""
    for_proxy = handshake.authorization
    if handshake.password is None:
        return [(b"Authorization", for_proxy.encode("ascii"))] if for_proxy is not None else []
    pair = f"{handshake.token}:{handshake.password}".encode()
    fields = [(b"Authorization", b"Basic " + b64encode(pair))]
    return fields + ([(b"X-Tunnel-Authorization", for_proxy.encode("ascii"))] if for_proxy is not None else [])
