"""ASGI's http scope: one request and its response as events."""

from __future__ import annotations

from enum import Enum
from typing import Final

from anyio.lowlevel import checkpoint

from ..config import Limits
from ..errors import AppError, CallerGone
from ..heads import Fields
from .answer import Answer
from .asgi_types import Message, read_bytes, read_fields
from .conversation import Conversation

__all__ = ["AsgiResponse", "HttpCycle"]


class _State(Enum):
    IDLE = "before its response"
    STARTED = "after its response's start"
    BODY = "inside its response's body"
    TRAILERS = "behind its response's body"


# What may come when. After the end everything is ignored, as the specification has it.
_MOVES: Final = {
    "start": {_State.IDLE},
    "early_hint": {_State.IDLE, _State.STARTED, _State.BODY},
    "body": {_State.STARTED, _State.BODY},
    "trailers": {_State.TRAILERS},
}


class AsgiResponse:
    """The messages of a response, whose types begin with ``prefix`` ("http.response.", or that of a denial)."""

    def __init__(self, conversation: Conversation, prefix: str, *, limits: Limits) -> None:
        self._prefix = prefix
        self._conversation = conversation
        self._answer = Answer(conversation, limits=limits)
        self._state = _State.IDLE
        self._trailers: Fields | None = None  # None: the app announced none

    @property
    def complete(self) -> bool:
        return self._answer.complete

    async def send(self, message: Message) -> None:
        """Raises AppError for a message out of turn, CallerGone, and nothing after the end."""
        kind = message["type"].removeprefix(self._prefix)
        if self._conversation.over:
            await checkpoint()  # or an app that goes on and on would stop the event loop
            self._conversation.check()
            self._conversation.tell()
            return
        if self._state not in _MOVES.get(kind, ()):
            raise AppError(f"the app sent {message['type']!r} {self._state.value}")
        if kind == "start":
            self._start(message)
        elif kind == "body":
            await self._body(message)
        elif kind == "early_hint":
            self._answer.hint([(b"Link", bytes(link)) for link in message.get("links", ())])
        else:
            self._end(message)

    def _start(self, message: Message) -> None:
        self._answer.start(message.get("status", 0), read_fields(message))
        self._trailers = [] if message.get("trailers") else None
        self._state = _State.STARTED

    async def _body(self, message: Message) -> None:
        data = read_bytes(message)
        if message.get("more_body"):
            self._state = _State.BODY
            await self._answer.send(data)
        elif self._trailers is None:
            await (self._answer.send if self._state is _State.BODY else self._answer.send_whole)(data)
            self._answer.end()
        else:
            await self._answer.send(data)
            self._state = _State.TRAILERS

    def _end(self, message: Message) -> None:
        assert self._trailers is not None
        self._trailers += read_fields(message)
        if not message.get("more_trailers"):
            self._answer.end(self._trailers)


class HttpCycle:
    """``receive`` and ``send`` of one call of an app. Any number of its tasks may use them at once."""

    def __init__(self, conversation: Conversation, *, limits: Limits) -> None:
        self._conversation = conversation
        self._response = AsgiResponse(conversation, "http.response.", limits=limits)
        self._body_told = False

    @property
    def complete(self) -> bool:
        return self._response.complete

    async def receive(self) -> Message:
        """The request's body; after its end ``http.disconnect``, once the caller leaves or the response is there."""
        conversation = self._conversation
        if not self._body_told and not conversation.over and (message := await self._receive_body()) is not None:
            return message
        await conversation.until_over()
        return {"type": "http.disconnect"}

    async def _receive_body(self) -> Message | None:
        try:
            body = await self._conversation.receive()
        except CallerGone:
            return None
        self._body_told = self._conversation.body_ended
        return {"type": "http.request", "body": body, "more_body": not self._body_told}

    async def send(self, message: Message) -> None:
        await self._response.send(message)
