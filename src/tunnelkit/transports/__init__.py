"""Transports, and all that one written outside of the package needs. ``docs/writing-a-transport.md`` is the guide."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__all__ = [
    "API_VERSION",
    "Accepted",
    "ByteStream",
    "Connection",
    "DialRequest",
    "Dialler",
    "ForwardProxy",
    "Grant",
    "Handshake",
    "Listener",
    "LongPollTransport",
    "MemoryTransport",
    "MountedRequest",
    "Offer",
    "Peer",
    "Refusal",
    "StreamConnection",
    "Transport",
    "WebSocketTransport",
    "find_transport",
    "greet_client",
    "greet_server",
    "transport_names",
]

if TYPE_CHECKING:
    from ..handshake import Grant, Handshake, Refusal
    from ..net.listen import Listener
    from ..net.peer import Peer
    from ..net.stream import ByteStream
    from .base import (
        API_VERSION,
        Accepted,
        Connection,
        Dialler,
        DialRequest,
        ForwardProxy,
        MountedRequest,
        Offer,
        Transport,
    )
    from .greeting import greet_client, greet_server
    from .longpoll import LongPollTransport
    from .lookup import find_transport, transport_names
    from .memory import MemoryTransport
    from .over_stream import StreamConnection
    from .websocket import WebSocketTransport

# Imported when they are asked for, as by the package itself.
_HOMES = {
    ".base": (
        *("API_VERSION", "Accepted", "Connection", "DialRequest", "Dialler", "ForwardProxy", "MountedRequest"),
        *("Offer", "Transport"),
    ),
    ".greeting": ("greet_client", "greet_server"),
    ".longpoll": ("LongPollTransport",),
    ".lookup": ("find_transport", "transport_names"),
    ".memory": ("MemoryTransport",),
    ".over_stream": ("StreamConnection",),
    ".websocket": ("WebSocketTransport",),
    "..handshake": ("Grant", "Handshake", "Refusal"),
    "..net.listen": ("Listener",),
    "..net.peer": ("Peer",),
    "..net.stream": ("ByteStream",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home, __name__), name)
