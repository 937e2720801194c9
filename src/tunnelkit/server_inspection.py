"""An inspector at the server: what it sees of callers' requests, and how it sends one again."""

from __future__ import annotations

import anyio

from .core.routing import ToName
from .core.tokens import token_tag
from .errors import StreamBroken
from .heads import Fields, RequestHead, ResponseHead
from .http.passing import PassingRequest
from .http.request import CallerRequest
from .inside.carrying import Running, carry
from .inside.request import InsideRequest
from .inspector import Inspector, NotReplayed, Send, Watch
from .net.stream import READ_AHEAD, Buffer, ByteStream
from .server_middleware import Handle, Where

__all__ = ["InspectedRequests"]

# Seconds that a replay may take: some answers have no end.
REPLAY_TIME = 60.0


class InspectedRequests:
    """``handle``, under the eyes of ``inspector``; called in its place."""

    def __init__(self, handle: Handle, inspector: Inspector, running: Running) -> None:
        self._handle = handle
        self._inspector = inspector
        self._running = running

    async def __call__(self, request: CallerRequest, where: Where) -> None:
        watch = self._inspector.begin(
            request.head,
            target=where.target,
            tunnel=where.name if isinstance(where, ToName) else token_tag(where.tokens[0]),
            caller=request.peer.forwarded_for or request.peer.address,
            send=_sender(self._running, where, request.head.target, request.scheme),
        )
        seen = _SeenRequest(request, watch)
        try:
            await self._handle(seen, where)
        finally:
            watch.over(complete=seen.complete)


class _SeenRequest(PassingRequest):
    def __init__(self, inner: CallerRequest, watch: Watch) -> None:
        super().__init__(inner)
        self.complete = False
        self._watch = watch
        if not inner.has_body:
            watch.request_end()

    def receive_body_nowait(self, max_bytes: int = READ_AHEAD) -> bytes | None:
        data = self._inner.receive_body_nowait(max_bytes)
        if data:
            self._watch.request_body(data)
        elif data is not None:
            self._watch.request_end()
        return data

    def send_head(self, head: ResponseHead) -> None:
        self._watch.answer(head)
        self._inner.send_head(head)

    def try_send_body(self, data: Buffer) -> bool:
        if not self._inner.try_send_body(data):
            return False
        self._watch.answer_body(data)
        return True

    def send_end(self, trailers: Fields | None = None) -> None:
        self.complete = not self.gone  # a caller may leave as soon as it has all
        self._inner.send_end(trailers)

    async def upgrade(self, head: ResponseHead) -> ByteStream:
        self._watch.answer(head)
        self.complete = True
        return await self._inner.upgrade(head)


def _sender(server: Running, where: Where, target: bytes, scheme: str) -> Send:
    """How an inspector sends a request again: as one of the server's own program."""

    async def send(head: RequestHead, body: bytes) -> None:
        again = RequestHead(head.method, target, list(head.fields), head.version)
        request = InsideRequest(again, scheme=scheme, has_body=bool(body))
        try:
            server.spawn(lambda: carry(server, request, where))
        except RuntimeError:
            raise NotReplayed("the server does not run any more") from None
        try:
            with anyio.move_on_after(REPLAY_TIME):
                if body:
                    for start in range(0, len(body), READ_AHEAD):
                        await request.put(body[start : start + READ_AHEAD])
                    request.end_body()
                await request.response()
                while await request.receive():
                    pass
        except StreamBroken:
            return  # it shows as what it is
        finally:
            request.leave()

    return send
