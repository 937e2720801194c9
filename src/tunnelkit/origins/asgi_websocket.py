"""ASGI's websocket scope: the caller's upgrade ends here, and the app gets messages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from ..config import Limits
from ..errors import AppError, CallerGone, HeadError
from ..forwarding import OWN_FIELDS
from ..heads import Fields, validate_fields
from ..net.memory import memory_pair
from .asgi_http import AsgiResponse
from .asgi_types import Message, read_fields
from .conversation import Conversation
from .websocket_opening import switch_head
from .websocket_pump import ABNORMAL, CLOSE_TIMEOUT, Closed, WebSocketPump

__all__ = ["WebSocketCycle"]

# RFC 6455 7.4.1.
_NORMAL = 1000
_GOING_WRONG = 1011
# What an app may send beside 3000 to 4999.
_SENT = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014})
# Of a handshake's answer, what is ours to say (RFC 6455 4.2.2, RFC 9110 8.6).
_OURS = frozenset(
    b"connection content-length sec-websocket-accept sec-websocket-extensions sec-websocket-protocol "
    b"transfer-encoding upgrade".split()
)


class _State(Enum):
    CONNECTING = "before it accepted the websocket"
    OPEN = "on an open websocket"
    DENYING = "while it denies the websocket"
    CLOSED = "behind its end"


class WebSocketCycle:
    """``receive`` and ``send`` of one call of an app. ``group`` runs what carries the websocket once it is open."""

    def __init__(self, conversation: Conversation, group: TaskGroup, offered: list[str], *, limits: Limits) -> None:
        self._conversation = conversation
        self._group = group
        self._offered = offered
        self._limits = limits
        self._state = _State.CONNECTING
        self._denial = AsgiResponse(conversation, "websocket.http.response.", limits=limits)
        self._pump: WebSocketPump | None = None
        self._pumped = anyio.Event()  # the pump has ended,
        self._spliced = anyio.Event()  # and so has the joint with the caller
        self._connect_told = False

    # -- what the app receives -----------------------------------------------------------------

    async def receive(self) -> Message:
        """``websocket.connect``, then the messages, then ``websocket.disconnect``, again and again."""
        if not self._connect_told:
            self._connect_told = True
            return {"type": "websocket.connect"}
        if self._pump is None:
            await self._conversation.until_over()
            return _disconnect(Closed(ABNORMAL))
        incoming = await self._pump.receive()
        if isinstance(incoming, Closed):
            return _disconnect(incoming)
        text, data = (incoming, None) if isinstance(incoming, str) else (None, incoming)
        return {"type": "websocket.receive", "text": text, "bytes": data}

    # -- what it sends -------------------------------------------------------------------------

    async def send(self, message: Message) -> None:
        """Raises AppError for a message out of turn, and CallerGone."""
        kind = message["type"]
        if kind.startswith("websocket.http.response."):
            await self._deny(message)
        elif kind == "websocket.accept" and self._state is _State.CONNECTING:
            await self._accept(message)
        elif kind == "websocket.close" and self._state is _State.CONNECTING:
            await self._refuse()
        elif kind == "websocket.close" and self._pump is not None:
            await checkpoint()
            self._close(message)
        elif kind == "websocket.send" and self._pump is not None and self._state is _State.OPEN:
            await self._pump.send(_payload(message))
        else:
            raise AppError(f"the app sent {kind!r} {self._state.value}")

    async def _accept(self, message: Message) -> None:
        self._conversation.check()
        subprotocol = message.get("subprotocol")
        if subprotocol is not None and subprotocol not in self._offered:
            raise AppError(f"the app chose the subprotocol {subprotocol!r}, which the caller did not offer")
        head = switch_head(
            self._conversation.exchange.head,
            None if subprotocol is None else subprotocol.encode("latin-1"),
            _own_fields(message, self._limits),
        )
        near, far = memory_pair()
        pump = WebSocketPump(
            near, max_message=self._limits.app_websocket_message, write_timeout=self._limits.write_timeout
        )
        self._state, self._pump = _State.OPEN, pump
        exchange = self._conversation.exchange
        self._group.start_soon(_tell_end, self._spliced, lambda: exchange.splice(head, far))
        self._group.start_soon(_tell_end, self._pumped, pump.run)
        await checkpoint()

    async def _refuse(self) -> None:
        """What ASGI says a close before the accept means."""
        prefix = "websocket.http.response."
        self._state = _State.DENYING
        await self._denial.send({"type": prefix + "start", "status": 403})
        await self._denial.send({"type": prefix + "body"})
        self._state = _State.CLOSED

    async def _deny(self, message: Message) -> None:
        if self._state is _State.CONNECTING:
            self._state = _State.DENYING
        if self._state is not _State.DENYING:
            raise AppError(f"the app sent {message['type']!r} {self._state.value}")
        await self._denial.send(message)

    def _close(self, message: Message) -> None:
        assert self._pump is not None
        code = message.get("code") or _NORMAL
        if not _may_be_sent(code):
            raise AppError(f"{code!r} is no close code that may be sent")
        if self._state is _State.CLOSED or self._pump.closed is not None:
            raise CallerGone("the websocket is closed")
        self._state = _State.CLOSED
        self._pump.close(code, message.get("reason") or "")

    # -- the end of the call -------------------------------------------------------------------

    async def finish(self, *, failed: bool) -> None:
        """The app's call is over: close what it left open, and see the closing handshake through."""
        if self._pump is not None:
            self._pump.close(_GOING_WRONG if failed else _NORMAL, "")
            await self._pumped.wait()
            with anyio.move_on_after(CLOSE_TIMEOUT):  # for the caller to close its connection
                await self._spliced.wait()
            self._group.cancel_scope.cancel()

    @property
    def caller_left(self) -> bool:
        """The caller closed the websocket, or was lost."""
        return self._pump is not None and self._pump.closed is not None and self._state is not _State.CLOSED

    @property
    def complete(self) -> bool:
        """The caller has an answer to its request."""
        return self._pump is not None or self._denial.complete


async def _tell_end(end: anyio.Event, work: Callable[[], Awaitable[None]]) -> None:
    try:
        await work()
    finally:
        end.set()


def _disconnect(why: Closed) -> Message:
    return {"type": "websocket.disconnect", "code": why.code, "reason": why.reason}


def _may_be_sent(code: object) -> bool:
    return code in _SENT or (isinstance(code, int) and 3000 <= code <= 4999)


def _payload(message: Message) -> str | bytes:
    text, data = message.get("text"), message.get("bytes")
    if isinstance(text, str) and data is None:
        return text
    if isinstance(data, (bytes, bytearray, memoryview)) and text is None:
        return bytes(data)
    raise AppError("'websocket.send' must have either text, a string, or bytes")


def _own_fields(message: Message, limits: Limits) -> Fields:
    fields = read_fields(message)
    try:
        validate_fields(fields, limits)
    except HeadError as error:
        raise AppError(error.detail) from None
    if wrong := sorted(name for name, _ in fields if name.lower() in _OURS | OWN_FIELDS):
        raise AppError(f"the app's fields of the handshake hold {wrong[0]!r}, which is not its own")
    return fields
