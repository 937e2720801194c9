"""What an ASGI scope says, as a request head of the kind that the gateway knows: plain decisions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, unquote_to_bytes

from ..config import Limits
from ..errors import HeadError
from ..forwarding import upgrade_of
from ..heads import Fields, RequestHead, body_length, field_values, validate_request
from ..http.websocket import new_key
from ..net.peer import Peer

__all__ = ["has_body", "http_head", "peer_of", "scheme_of", "websocket_head"]

# What asks for another protocol on the host's own connection; a handshake's are made anew.
_HANDSHAKE: Final = frozenset(
    {
        b"upgrade",
        b"te",
        b"sec-websocket-key",
        b"sec-websocket-version",
        b"sec-websocket-extensions",
        b"sec-websocket-protocol",
    }
)


def http_head(scope: Mapping[str, Any], limits: Limits) -> RequestHead:
    """The head of an ``http`` scope, as an HTTP/1.1 request has it. Raises ``HeadError``."""
    head = RequestHead(str(scope["method"]).encode("ascii", "replace"), _target(scope), _fields(scope))
    validate_request(head, limits)
    # ASGI has no way to hand a connection over. HTTP/2 has no Upgrade (RFC 9113 8.2.2).
    if _is_http_1(scope) and upgrade_of(head) is not None:
        raise HeadError(501, "upgrade_not_implemented", "nothing but websocket can be upgraded to under this server")
    dropped = {b"upgrade"} if _carries_trailers(scope) else {b"upgrade", b"te"}
    head.fields = [field for field in head.fields if field[0].lower() not in dropped]
    return head


def websocket_head(scope: Mapping[str, Any], limits: Limits) -> tuple[RequestHead, bytes]:
    """The opening request that stands for a ``websocket`` scope (RFC 6455 4.1), and its key. Raises ``HeadError``.

    No extension is offered: the host unpacked what its caller compressed."""
    key = new_key()
    fields = [field for field in _fields(scope) if field[0].lower() not in _HANDSHAKE]
    fields += [
        (b"Connection", b"Upgrade"),
        (b"Upgrade", b"websocket"),
        (b"Sec-WebSocket-Version", b"13"),
        (b"Sec-WebSocket-Key", key),
    ]
    protocols = [str(name).encode("latin-1", "replace") for name in scope.get("subprotocols") or ()]
    if protocols:
        fields.append((b"Sec-WebSocket-Protocol", b", ".join(protocols)))
    head = RequestHead(b"GET", _target(scope), fields)
    validate_request(head, limits)
    return head, key


def has_body(scope: Mapping[str, Any], head: RequestHead) -> bool | None:
    """Whether a body comes with the request; None where only what comes tells (HTTP/2 needs no field for it)."""
    if _is_http_1(scope):
        return body_length(head) != 0
    length = body_length(head)
    return None if length == 0 and not field_values(head.fields, b"content-length") else length != 0


def _is_http_1(scope: Mapping[str, Any]) -> bool:
    return str(scope.get("http_version", "1.1")).startswith("1")


def _carries_trailers(scope: Mapping[str, Any]) -> bool:
    """Whether the host sends the trailers of answers."""
    return "http.response.trailers" in (scope.get("extensions") or {})


def peer_of(scope: Mapping[str, Any]) -> Peer:
    """The caller, as the host tells: behind proxies that it trusts, that need not be the socket's peer."""
    address, port = scope.get("client") or ("", 0)
    return Peer(address=str(address or ""), port=int(port or 0), tls=_is_tls(scope), forwarded_for=str(address or ""))


def scheme_of(scope: Mapping[str, Any]) -> str:
    return "https" if _is_tls(scope) else "http"


def _is_tls(scope: Mapping[str, Any]) -> bool:
    return scope.get("scheme") in ("https", "wss")


def _fields(scope: Mapping[str, Any]) -> Fields:
    fields = [(bytes(name), bytes(value)) for name, value in scope["headers"]]
    if len(field_values(fields, b"cookie")) > 1:  # RFC 9113 8.2.3: split for HTTP/2, one field in HTTP/1.1
        cookies = b"; ".join(field_values(fields, b"cookie"))
        fields = [*(field for field in fields if field[0].lower() != b"cookie"), (b"cookie", cookies)]
    return fields


def _target(scope: Mapping[str, Any]) -> bytes:
    """The target below the place where the app is mounted, byte for byte as the caller wrote it, where the host
    tells (``raw_path``)."""
    root = str(scope.get("root_path") or "").rstrip("/")
    raw = scope.get("raw_path")
    path = bytes(raw).partition(b"?")[0] if raw else quote(str(scope["path"]), safe="/!$&'()*+,;=:@~").encode("ascii")
    if root:
        path = _below(path, root)
    query = bytes(scope.get("query_string") or b"")
    return (path or b"/") + (b"?" + query if query else b"")


def _below(path: bytes, root: str) -> bytes:
    """``path`` without ``root``, which is percent-decoded, in whatever way the path has it encoded. Some hosts leave
    the root out of the path."""
    segments = path.split(b"/")
    above = b"/".join(segments[: root.count("/") + 1])
    return path[len(above) :] if root.encode() in (above, unquote_to_bytes(above)) else path
