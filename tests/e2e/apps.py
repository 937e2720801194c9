"""Apps in the tunnel client's own process, and callers that play them by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

from wsproto import ConnectionType, WSConnection
from wsproto.connection import Connection
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, Request, TextMessage

from tunnelkit import Limits
from tunnelkit.config import DEFAULT_LIMITS

from .by_hand import Side, caller_side
from .tunnel import Ends, exchange, open_ends

__all__ = ["App", "Message", "Receive", "Scope", "Send", "WebSocketSide", "respond", "serve_app", "still_serves"]

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


@asynccontextmanager
async def serve_app(app: object, *, limits: Limits = DEFAULT_LIMITS, **options: Any) -> AsyncIterator[Ends]:
    """``app`` behind a tunnel by the way of the running test."""
    async with open_ends(limits=limits) as ends, ends.join(origin=app, **options):
        yield ends


async def respond(send: Send, body: bytes = b"fine", *, status: int = 200) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def still_serves(ends: Ends) -> None:
    """Nothing else was hurt: the app answers ``/fine``."""
    assert (await exchange(ends.port, "GET", ends.path("/fine")))[::2] == (200, b"fine")


class WebSocketSide:
    """A caller's websocket, by wsproto."""

    def __init__(self, side: Side) -> None:
        self.side = side
        self.head = b""
        self._frames = Connection(ConnectionType.CLIENT)

    @classmethod
    @asynccontextmanager
    async def open(cls, ends: Ends, target: str = "/", **options: Any) -> AsyncIterator[WebSocketSide]:
        """After its handshake, whatever the answer was."""
        async with caller_side(ends) as side:
            opening = WSConnection(ConnectionType.CLIENT).send(Request(host="a", target=ends.path(target), **options))
            await side.send(opening)
            made = cls(side)
            made.head = await side.head()
            yield made

    async def send(self, event: Event) -> None:
        await self.side.send(self._frames.send(event))

    async def event(self) -> Event:
        """The next frame; a message's only when it is complete."""
        text, data = "", b""
        while True:
            for event in self._frames.events():
                if isinstance(event, TextMessage):
                    text += event.data
                    if event.message_finished:
                        return TextMessage(text)
                elif isinstance(event, BytesMessage):
                    data += event.data
                    if event.message_finished:
                        return BytesMessage(data)
                else:
                    assert isinstance(event, Ping | Pong | CloseConnection)
                    return event
            self._frames.receive_data(await self.side.more() or None)
