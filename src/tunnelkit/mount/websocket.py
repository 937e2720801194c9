"""A websocket that an ASGI server unpacked, as the upgraded connection that it was: the gateway splices bytes to an
origin that speaks RFC 6455 itself, and the websocket transport reads frames. The bytes between are made here.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

import anyio
from anyio.abc import TaskGroup

from ..errors import StreamBroken
from ..heads import Fields, RequestHead, ResponseHead, field_values
from ..http.websocket import NO_STATUS, Close, Message, MessageCodec, Ping, answers_key
from ..net.memory import MemoryStream, memory_pair
from ..net.peer import Peer
from ..net.stream import READ_AHEAD, ByteStream
from .request import Message as Event
from .request import Receive, ScopeRequest, Send, response_fields

__all__ = ["Bridge", "WebSocketRequest"]

# Seconds for the far side to answer a close.
CLOSE_TIMEOUT: Final = 5.0
# What a caller is told when the tunnel's side ended without a close frame: 1006 is never sent.
_BROKEN: Final = 1011


class WebSocketRequest(ScopeRequest):
    """Of a ``websocket`` scope whose ``websocket.connect`` was received. ``tasks`` is where the bridge runs."""

    def __init__(
        self,
        head: RequestHead,
        peer: Peer,
        scheme: str,
        receive: Receive,
        send: Send,
        *,
        key: bytes,
        extensions: Mapping[str, Any],
        max_message: int,
        write_timeout: float,
        tasks: TaskGroup,
    ) -> None:
        super().__init__(head, peer, scheme, receive, send, write_timeout=write_timeout)
        self._key = key
        self._may_answer = "websocket.http.response" in extensions
        self._max_message = max_message
        self._tasks = tasks
        self.bridge: Bridge | None = None
        self._first: Event | None = None  # what came from the caller, until the bridge takes it
        self._first_came = anyio.Event()

    # -- what the caller sends -----------------------------------------------------------------

    async def receive_first(self) -> None:
        """The receiving task: a caller that leaves before the websocket is open is noticed by it, and taken out of
        the queue. It takes one message; the others wait in the host until the bridge takes them."""
        self._first = await self._receive()
        self._first_came.set()
        if self._first["type"] == "websocket.disconnect":
            self._gone = not self._finished
            self._ring()

    async def _receive_next(self) -> Event:
        await self._first_came.wait()
        if self._first is None:
            return await self._receive()
        first, self._first = self._first, None
        return first

    # -- no body comes -------------------------------------------------------------------------

    def receive_body_nowait(self, max_bytes: int = READ_AHEAD) -> bytes | None:
        return b""

    @property
    def _has_news(self) -> bool:
        return False

    # -- a refusal: an ordinary response where the host can send one, else its 403 ---------------

    def send_head(self, head: ResponseHead) -> None:
        self.answered = True
        if self._may_answer:
            fields = response_fields(head)
            self._put({"type": "websocket.http.response.start", "status": head.status, "headers": fields})
        else:
            self._put({"type": "websocket.close", "code": 1008})

    def _put_body(self, data: bytes) -> None:
        if self._may_answer:
            self._put({"type": "websocket.http.response.body", "body": data, "more_body": True}, len(data))

    def send_end(self, trailers: Fields | None = None) -> None:
        if self._may_answer:
            self._put({"type": "websocket.http.response.body", "body": b"", "more_body": False})
        self._finished = True

    # -- the upgrade ---------------------------------------------------------------------------

    async def upgrade(self, head: ResponseHead) -> ByteStream:
        """Accept at the host. Raises ``StreamBroken`` when the 101 is none for this request, or the caller left."""
        if not answers_key(head, self._key) or field_values(head.fields, b"sec-websocket-extensions"):
            self._put({"type": "websocket.close", "code": 1002})
            self._finished = True
            raise StreamBroken("the answer 101 does not belong to this websocket's request")
        self.answered = True
        protocols = field_values(head.fields, b"sec-websocket-protocol")
        fields = [field for field in response_fields(head) if not field[0].startswith(b"sec-websocket-")]
        accept: Event = {"type": "websocket.accept", "headers": fields}
        accept["subprotocol"] = protocols[0].decode("latin-1") if protocols else None
        await self._send_one(accept)
        if self.gone:
            raise StreamBroken("the caller is gone")
        near, far = memory_pair()
        codec = MessageCodec(client=True, max_message=self._max_message)
        self.bridge = Bridge(far, codec, self._receive_next, self._send)
        self._tasks.start_soon(self.bridge.run)
        self._finished = True
        return near


class Bridge:
    """Between the host's messages and ``stream``, on which it stands for the caller: frames of a client.

    Holds one message each way. Both sides' closes are passed on with their codes.
    """

    def __init__(self, stream: MemoryStream, codec: MessageCodec, receive: Receive, send: Send) -> None:
        self._stream = stream
        self._codec = codec
        self._receive = receive
        self._send = send
        self._message: Message | None = None  # from the caller, to be written
        self._close: tuple[int, str] | None = None  # to be written, and nothing after it
        self._pong: bytes | None = None  # the last ping's payload: older ones need no answer (RFC 6455 5.5.3)
        self._work = anyio.Event()
        self._taken = anyio.Event()
        self.ended = anyio.Event()

    async def run(self) -> None:
        """To the end of the websocket. Raises nothing but cancellation."""
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._write)
                group.start_soon(self._from_caller)
                await self._to_caller()
                group.cancel_scope.cancel()
        finally:
            self._stream.abort()
            self.ended.set()

    # -- from the caller -----------------------------------------------------------------------

    async def _from_caller(self) -> None:
        while (event := await self._receive())["type"] == "websocket.receive":
            text, data = event.get("text"), event.get("bytes")
            self._taken = anyio.Event()
            self._message = str(text) if text is not None else bytes(data or b"")
            self._work.set()
            await self._taken.wait()
        self._close = (int(event.get("code") or NO_STATUS), str(event.get("reason") or ""))
        self._work.set()
        await anyio.sleep(CLOSE_TIMEOUT)  # for the far side to answer, which ends the bridge
        self._stream.abort()

    async def _write(self) -> None:
        """The one writer: a pong must not wait for the caller's next message, nor stop the reading."""
        with suppress(StreamBroken):  # the reading side notices it too
            while not self._codec.closed:
                data = self._next_frame()
                if data:
                    await self._stream.send(data)
                else:
                    self._work = anyio.Event()
                    await self._work.wait()
            await self._stream.send_eof()

    def _next_frame(self) -> bytes:
        if self._pong is not None:
            payload, self._pong = self._pong, None
            return self._codec.pong(payload)
        if self._message is not None:
            message, self._message = self._message, None
            self._taken.set()
            return self._codec.message(message)
        if self._close is not None:
            close, self._close = self._close, None
            return self._codec.close(*close)
        return b""

    # -- to the caller -------------------------------------------------------------------------

    async def _to_caller(self) -> None:
        with suppress(StreamBroken):
            code, reason = await self._pass_messages()
            self._close = (code, reason)
            self._work.set()
            await self._tell(
                {"type": "websocket.close", "code": 1000 if code == NO_STATUS else code, "reason": reason}
            )
            with anyio.move_on_after(CLOSE_TIMEOUT):
                while not self._codec.closed and await self._stream.receive():
                    pass

    async def _pass_messages(self) -> tuple[int, str]:
        """Until the tunnel's side closes; with what it closed. Raises ``StreamBroken`` when the caller has left."""
        while data := await self._receive_bytes():
            for event in self._codec.receive(data):
                if isinstance(event, Close):
                    return event.code, event.reason
                if isinstance(event, Ping):
                    self._pong = event.payload
                    self._work.set()
                else:
                    await self._tell({"type": "websocket.send", "text" if isinstance(event, str) else "bytes": event})
        return _BROKEN, "the tunnel ended"

    async def _receive_bytes(self) -> bytes:
        try:
            return await self._stream.receive()
        except StreamBroken:
            return b""

    async def _tell(self, event: Event) -> None:
        try:
            await self._send(event)
        except Exception as error:  # an OSError (ASGI 2.4), or what else a host raises once the caller has left
            raise StreamBroken(f"the ASGI server takes no more: {type(error).__name__}") from error
