"""An inspector at the client: what it sees of the exchanges with origins, and how it sends one again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol
from urllib.parse import urlsplit

import anyio

from .config import Limits
from .errors import DialError, HeadError, StreamBroken
from .heads import Fields, RequestHead, ResponseHead
from .http.client import simple_request
from .inspector import BODY_KEPT, Inspector, NotReplayed, Watch
from .net.stream import Buffer, ByteStream
from .origins.base import Origin, OriginExchange
from .origins.passing import PassingExchange
from .problem import problem

__all__ = ["InspectedOrigin", "sender"]

# Seconds that a replay may take, and bytes of its answer that are read: some have no end.
REPLAY_TIME = 60.0
REPLAY_BYTES = 64 * BODY_KEPT


class InspectedOrigin(Origin):
    """``origin``, under the eyes of ``inspector``."""

    def __init__(self, origin: Origin, inspector: Inspector, replay: Replay, *, tunnel: str) -> None:
        self._origin = origin
        self._inspector = inspector
        self._replay = replay
        self._tunnel = tunnel

    async def serve(self, exchange: OriginExchange) -> None:
        watch = self._inspector.begin(
            exchange.head,
            target=exchange.head.target,
            tunnel=self._tunnel,
            caller=exchange.caller,
            send=partial(self._replay, x_host=str(exchange.x_host or "")),
        )
        seen = _SeenExchange(exchange, watch)
        try:
            await self._origin.begin(seen).finish()
        finally:
            seen.over()

    async def aclose(self) -> None:
        """The origin inside is closed by whoever made it."""


class _SeenExchange(PassingExchange):
    def __init__(self, inner: OriginExchange, watch: Watch) -> None:
        super().__init__(inner)
        self.complete = False
        self._watch = watch
        if not inner.has_body:
            watch.request_end()

    @property
    def body_waiting(self) -> bytes | None:
        waiting = self._inner.body_waiting
        if waiting == b"":
            self._watch.request_end()
        return waiting

    def over(self) -> None:
        """An origin may know the end by the length, and never have looked for it."""
        if self._inner.body_waiting == b"":
            self._watch.request_end()
        self._watch.over(complete=self.complete)

    def body_taken(self) -> None:
        if data := self._inner.body_waiting:
            self._watch.request_body(data)
        self._inner.body_taken()

    def send_head(self, head: ResponseHead, *, fin: bool = False) -> None:
        if head.status >= 200:
            self._watch.answer(head)
        self.complete = self.complete or (fin and not self.gone)
        self._inner.send_head(head, fin=fin)

    def send_body(self, data: Buffer) -> None:
        self._watch.answer_body(data)
        self._inner.send_body(data)

    def send_last(self, data: Buffer) -> None:
        self.complete = not self.gone
        self._watch.answer_body(data)
        self._inner.send_last(data)

    def send_end(self, trailers: Fields | None = None) -> None:
        self.complete = not self.gone  # what happens after the end changes nothing
        self._inner.send_end(trailers)

    def fail(self, status: int, code: str, detail: str) -> None:
        if not self.answered and not self.gone:
            head, body = problem(status, code, detail, self.head)
            self.send_head(head)
            self.send_body(body)
            self.send_end()
        else:
            self._inner.fail(status, code, detail)

    async def splice(self, head: ResponseHead, peer: ByteStream) -> None:
        self._watch.answer(head)
        await self._inner.splice(head, peer)
        self.complete = True


class Dialler(Protocol):
    def __call__(self, host: str, port: int, *, tls: bool) -> Awaitable[ByteStream]: ...


class Replay(Protocol):
    async def __call__(self, head: RequestHead, body: bytes, *, x_host: str) -> None: ...


def sender(dial: Dialler, url: Callable[[], str], *, limits: Limits) -> Replay:
    """How an inspector sends a request again: as a caller, at the tunnel's public ``url``."""

    async def send(head: RequestHead, body: bytes, *, x_host: str) -> None:
        parts = urlsplit(url())
        tls = parts.scheme == "https"
        again = _as_caller(head, parts.netloc, parts.path.rstrip("/"), body, x_host=x_host)
        try:
            with anyio.move_on_after(REPLAY_TIME):
                stream = await dial(parts.hostname or "", parts.port or (443 if tls else 80), tls=tls)
                try:
                    await simple_request(stream, again, body, limits=limits, max_body=REPLAY_BYTES)
                finally:
                    stream.abort()
        except DialError as error:
            raise NotReplayed(f"the tunnel's public address cannot be reached: {error.stage}") from None
        except (HeadError, StreamBroken):
            return  # it shows as what it is

    return send


# What the server adds, or what is this message's own.
_DROPPED = frozenset(
    {b"host", b"content-length", b"transfer-encoding", b"via", b"forwarded", b"connection", b"expect", b"x-host"}
)


def _as_caller(head: RequestHead, host: str, prefix: str, body: bytes, *, x_host: str) -> RequestHead:
    fields: Fields = [(b"Host", host.encode("ascii"))]
    for name, value in head.fields:
        if name.lower() not in _DROPPED and not name.lower().startswith(b"x-forwarded-"):
            fields.append((name, value))
    if x_host:
        fields.append((b"X-Host", x_host.encode("ascii")))
    if body:
        fields.append((b"Content-Length", b"%d" % len(body)))
    target = prefix.encode("ascii") + head.target if head.target[:1] == b"/" else head.target
    return RequestHead(head.method, target, [*fields, (b"Connection", b"close")])
