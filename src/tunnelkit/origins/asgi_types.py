"""The shapes of ASGI 3 (https://asgi.readthedocs.io), and its scopes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, TypeAlias

from ..errors import AppError
from ..heads import Fields, RequestHead, field_values
from .facts import RequestFacts

__all__ = [
    "ASGIApp",
    "Message",
    "Receive",
    "Scope",
    "Send",
    "http_scope",
    "read_bytes",
    "read_fields",
    "websocket_scope",
]

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

# Of the HTTP and WebSocket format. By 2.4 ``send`` raises an OSError once the caller has left, as it does here. But
# an app that relies on this hears of it when it next sends, and a stream of events may wait for long before it does:
# Starlette listens for ``http.disconnect`` beside it only up to 2.3, which is why uvicorn says so too.
_HTTP_VERSIONS: Final = {"version": "3.0", "spec_version": "2.3"}
_WEBSOCKET_VERSIONS: Final = {"version": "3.0", "spec_version": "2.4"}


def http_scope(head: RequestHead, facts: RequestFacts, root_path: str, state: dict[str, Any]) -> Scope:
    extensions: dict[str, dict[str, object]] = {"http.response.early_hint": {}, "http.response.trailers": {}}
    return {
        "type": "http",
        "asgi": dict(_HTTP_VERSIONS),
        "method": head.method.decode("ascii").upper(),
        "scheme": facts.scheme,
        "extensions": extensions,
        **_common(head, facts, root_path, state),
    }


def websocket_scope(head: RequestHead, facts: RequestFacts, root_path: str, state: dict[str, Any]) -> Scope:
    return {
        "type": "websocket",
        "asgi": dict(_WEBSOCKET_VERSIONS),
        "scheme": "wss" if facts.scheme == "https" else "ws",
        "subprotocols": _offered_protocols(head.fields),
        "extensions": {"websocket.http.response": {}},
        **_common(head, facts, root_path, state),
    }


def _common(head: RequestHead, facts: RequestFacts, root_path: str, state: dict[str, Any]) -> dict[str, Any]:
    """``path`` holds ``root_path``, under which the app believes itself to be."""
    return {
        "http_version": head.version.decode("ascii"),
        "path": root_path + facts.path.decode("utf-8", "replace"),
        "raw_path": root_path.encode() + facts.raw_path,
        "query_string": facts.query,
        "root_path": root_path,
        "headers": [(name.lower(), value) for name, value in facts.fields],
        "client": (facts.caller, 0) if facts.caller else None,
        "server": (facts.host, facts.port) if facts.host else None,
        "state": state.copy(),
    }


def _offered_protocols(fields: Fields) -> list[str]:
    """They are case-sensitive, and in the order of the caller's preference (RFC 6455 4.1)."""
    items = [item.strip() for value in field_values(fields, b"sec-websocket-protocol") for item in value.split(b",")]
    return [item.decode("latin-1") for item in items if item]


# -- reading messages --------------------------------------------------------------------------


def read_fields(message: Message, key: str = "headers") -> Fields:
    """The header fields of a message. Raises AppError."""
    try:
        fields = [(bytes(name), bytes(value)) for name, value in message.get(key, ())]
    except (TypeError, ValueError):
        raise AppError(f"{key!r} of {message['type']!r} must be pairs of byte strings") from None
    return fields


def read_bytes(message: Message, key: str = "body") -> bytes:
    """A byte string of a message, "" without it. It is copied if the app could change it."""
    value = message.get(key, b"")
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise AppError(f"{key!r} of {message['type']!r} must be a byte string, not {type(value).__name__}")
    return bytes(value)
