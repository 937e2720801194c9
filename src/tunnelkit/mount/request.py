"""A caller's request that an ASGI server carries: ``CallerRequest`` on ``receive`` and ``send``.

Two tasks beside the request's own await what ASGI only awaits: one receives the body, a message ahead; one sends
what was given, ``SEND_AHEAD`` bytes ahead.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final, TypeAlias

import anyio
from anyio.lowlevel import checkpoint

from ..errors import HeadError, LocalProtocolError
from ..heads import Fields, RequestHead, ResponseHead, body_length, field_values
from ..http.request import CallerRequest
from ..net.peer import Peer
from ..net.stream import READ_AHEAD, Buffer, ByteStream

__all__ = ["HttpRequest", "Message", "Receive", "ScopeRequest", "Send"]

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

_logger = logging.getLogger("tunnelkit.server")

# Bytes of the answer that wait for the host; it has a buffer of its own.
SEND_AHEAD: Final = 64 * 1024

# Seconds for a host to hear that an answer is broken: it may wait for a caller that does not read.
BROKEN_TIMEOUT: Final = 1.0

_EARLY_HINTS: Final = 103  # RFC 8297

# What frames a message on HTTP/1.1 alone is the host's to say.
_FRAMING: Final = frozenset({b"connection", b"transfer-encoding", b"keep-alive", b"upgrade"})


class ScopeRequest(CallerRequest):
    """What ``http`` and ``websocket`` scopes share: the answer on its way, and waiting.

    ``run`` is to be entered beside the task that drives the request.
    """

    mounted = True

    def __init__(
        self, head: RequestHead, peer: Peer, scheme: str, receive: Receive, send: Send, *, write_timeout: float
    ) -> None:
        self.head = head
        self.peer = peer
        self.scheme = scheme
        self.has_body = False
        self.expects_continue = False  # the host answers 100 by itself
        self.trailers: Fields = []  # ASGI has none in requests
        self.answered = False  # a final head, or 101, was given
        self._write_timeout = write_timeout
        self._receive = receive
        self._send = send
        self._out: deque[Message] = deque()
        self._out_size = 0
        self._sending = False
        self._gone = False
        self._aborted = False
        self._finished = False
        self._started = False  # the host was given a part of the answer
        self._woken = False
        self._bell = anyio.Event()
        self._work = anyio.Event()  # for the sending task

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'gone' if self.gone else 'open'}>"

    def be_link(self) -> None: ...

    @property
    def gone(self) -> bool:
        return self._gone or self._aborted

    # -- the answer ----------------------------------------------------------------------------

    def send_info(self, head: ResponseHead) -> None:
        """ASGI has no interim responses: they are dropped (RFC 9110 15.2 lets a proxy only when it must)."""

    def _put(self, message: Message, size: int = 0) -> None:
        if not self.gone:
            self._out.append(message)
            self._out_size += size
            self._work.set()

    @property
    def _idle(self) -> bool:
        return not self._out and not self._sending

    def try_send_body(self, data: Buffer) -> bool:
        if self.gone:
            return True
        if self._out_size >= SEND_AHEAD:
            return False
        self._put_body(bytes(data))
        return True

    @abstractmethod
    def _put_body(self, data: bytes) -> None: ...

    def flush(self) -> bool:
        return self.gone or self._idle

    def abort(self) -> None:
        """The app is left without the end of its answer, which hosts take for a failure: they break the caller's
        connection (or HTTP/2 stream) off."""
        self._aborted = True
        self._drop()
        self.wake()

    async def send_all(self) -> None:
        """The sending task."""
        while True:
            while self._out and not self._gone:
                await self._send_one(self._out.popleft())
            if self._gone:
                self._drop()
            self._ring()
            self._work = anyio.Event()
            await self._work.wait()

    def _drop(self) -> None:
        """Nobody takes what was not sent yet."""
        self._out.clear()
        self._out_size = 0

    async def _send_one(self, message: Message) -> None:
        self._sending = self._started = True
        try:
            with anyio.move_on_after(self._write_timeout) as clock:
                await self._send(message)
            self._gone = self._gone or clock.cancelled_caught
        except OSError:  # ASGI 2.4: the caller has left
            self._gone = True
        except Exception as error:  # some hosts raise errors of their own for that
            _logger.info("the ASGI server takes no more of an answer: %s", type(error).__name__)
            self._gone = True
        finally:
            self._sending = False
        self._out_size -= min(self._out_size, len(message.get("body", b"")))
        if self._out_size < SEND_AHEAD:
            self._ring()

    # -- waiting -------------------------------------------------------------------------------

    async def wait(self, *, readable: bool = False, writable: bool = False) -> None:
        if self._woken or self.gone or (readable and self._has_news) or (writable and self._may_write):
            await checkpoint()
        else:
            self._bell = anyio.Event()
            await self._bell.wait()
        self._woken = False

    @property
    def _may_write(self) -> bool:
        return self._out_size < SEND_AHEAD and self._idle

    @property
    @abstractmethod
    def _has_news(self) -> bool: ...

    def wake(self) -> None:
        self._woken = True
        self._ring()

    def _ring(self) -> None:
        self._bell.set()


class HttpRequest(ScopeRequest):
    """Of an ``http`` scope. ``has_body`` None: what comes first tells."""

    def __init__(
        self,
        head: RequestHead,
        peer: Peer,
        scheme: str,
        receive: Receive,
        send: Send,
        *,
        extensions: Mapping[str, Any],
        has_body: bool | None,
        write_timeout: float,
    ) -> None:
        super().__init__(head, peer, scheme, receive, send, write_timeout=write_timeout)
        self.has_body = has_body is not False
        self._undecided = has_body is None
        self._with_trailers = "http.response.trailers" in extensions
        self._with_hints = "http.response.early_hint" in extensions
        self._body = memoryview(b"")  # of one message
        self._body_came = not self.has_body
        self._left = False
        self._room = anyio.Event()
        self._news = False

    # -- the request's body --------------------------------------------------------------------

    async def decide_body(self) -> None:
        """Where nothing tells whether a body comes: the first message does."""
        if self._undecided:
            await self._receive_one()
            self.has_body = bool(self._body) or not self._body_came

    def receive_body_nowait(self, max_bytes: int = READ_AHEAD) -> bytes | None:
        if self._body:
            data, self._body = self._body[:max_bytes], self._body[max_bytes:]
            if not self._body:
                self._room.set()
            return bytes(data)
        self._news = False
        if self._gone and not self._body_came:
            raise HeadError(400, "incomplete_request", "the caller left within the request's body")
        return b"" if self._body_came else None

    @property
    def _has_news(self) -> bool:
        news, self._news = self._news, False
        return news

    async def receive_all(self) -> None:
        """The receiving task. It never takes a message before the last one was read."""
        while not self._left:
            self._room = anyio.Event()
            if self._body:
                await self._room.wait()
            await self._receive_one()

    async def _receive_one(self) -> None:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._left = True
            self._gone = not self._finished  # hosts say so too when the answer is complete
        else:
            self._body = memoryview(bytes(message.get("body", b"")))
            self._body_came = not message.get("more_body", False)
        self._news = True
        self._ring()

    # -- the answer ----------------------------------------------------------------------------

    def send_info(self, head: ResponseHead) -> None:
        """103 (Early Hints) where the host has it. All else is dropped, and so are hints that come faster than the
        host takes them."""
        links = field_values(head.fields, b"link")
        if self._with_hints and head.status == _EARLY_HINTS and links and self.flush():
            self._put({"type": "http.response.early_hint", "links": links})

    def send_head(self, head: ResponseHead) -> None:
        self.answered = True
        # ASGI wants to know it now, and a host that was told of trailers may not stand their absence: hypercorn
        # breaks the stream off. So those count that the origin announces (RFC 9110 6.6.2).
        announced = bool(field_values(head.fields, b"trailer")) and body_length(head, self.head.method) != 0
        self._with_trailers = self._with_trailers and announced
        message: Message = {
            "type": "http.response.start",
            "status": head.status,
            "headers": response_fields(head),
        }
        if self._with_trailers:
            message["trailers"] = True
        self._put(message)

    def _put_body(self, data: bytes) -> None:
        self._put({"type": "http.response.body", "body": data, "more_body": True}, len(data))

    def send_end(self, trailers: Fields | None = None) -> None:
        self._put({"type": "http.response.body", "body": b"", "more_body": False})
        if self._with_trailers:
            fields = [(name.lower(), value) for name, value in trailers or ()]
            self._put({"type": "http.response.trailers", "headers": fields, "more_trailers": False})
        self._finished = True

    async def tell_broken(self) -> None:
        """When all is over: an answer that began and was not completed must not look complete. Hosts break off what
        an app leaves without its end, but what may stand between (Starlette's BaseHTTPMiddleware) completes it. To
        all of them a message of an unknown type is an error, as the specification has it."""
        if not self._started or self._gone or (self._finished and not self._aborted and not self._out):
            return
        try:
            with anyio.move_on_after(BROKEN_TIMEOUT):
                await self._send({"type": "tunnelkit.answer.broken"})
        except Exception as error:
            _logger.debug("the ASGI server breaks an answer off: %s", type(error).__name__)

    async def upgrade(self, head: ResponseHead) -> ByteStream:
        raise LocalProtocolError("an http scope cannot be upgraded")


def response_fields(head: ResponseHead) -> Fields:
    """The fields of an answer as ASGI wants them."""
    dropped = _FRAMING | {b"content-length"} if head.status == 204 else _FRAMING
    return [(name.lower(), value) for name, value in head.fields if name.lower() not in dropped]
