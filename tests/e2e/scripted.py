"""A tunnel client that follows a test's script, not the protocol's: a real handshake, then whatever it is told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import anyio
from anyio.abc import TaskGroup

from tunnelkit.core.frames import DATA, DATA_FIN, HEAD, HEAD_FIN, OPEN, RESET, Frame, FrameDecoder, pack_header
from tunnelkit.core.message import HEADER_SIZE, Kind, build, split_header
from tunnelkit.errors import ConnectionLost
from tunnelkit.handshake import Handshake, Resume, to_fields
from tunnelkit.heads import Fields, ResponseHead, encode_response
from tunnelkit.net.dial import connect_tcp
from tunnelkit.proof import attach_tag
from tunnelkit.transports.websocket.connection import WebSocketConnection

from .tunnel import TOKEN, read_head

__all__ = ["ScriptedClient", "data", "handshake", "head", "scripted_client"]

UPGRADE = (
    "GET /_tunnel HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: tunnelkit.v1\r\n"
)
LARGEST = 60_000  # bytes of frames in one message


def handshake(token: str = TOKEN, *, resume: Resume | None = None, **changes: str) -> bytes:
    announced = to_fields(Handshake(token=token, resume=resume))
    fields = {name.decode(): value.decode() for name, value in announced} | changes
    return (UPGRADE + "".join(f"{name}: {value}\r\n" for name, value in fields.items()) + "\r\n").encode()


def head(stream_id: int, status: int, fields: Fields | None = None, *, fin: bool = False) -> bytes:
    """The frame of a response's head."""
    block = encode_response(ResponseHead(status, fields or []))
    return pack_header(HEAD_FIN if fin else HEAD, len(block), stream_id) + block


def data(stream_id: int, payload: bytes = b"", *, fin: bool = False) -> bytes:
    return pack_header(DATA_FIN if fin else DATA, len(payload), stream_id) + payload


class ScriptedClient:
    """``frames`` are those that the server sent, in order; they are acknowledged unless ``acks`` is cleared."""

    def __init__(self, connection: WebSocketConnection, epoch: int, session_id: str, key: bytes) -> None:
        self.connection = connection
        self.session_id = session_id
        self.key = key
        self.frames: list[Frame] = []
        self.lost: ConnectionLost | None = None
        self.acks = True
        self.sent = 0
        self._epoch = epoch
        self._received = 0
        self._decoder = FrameDecoder()
        self._bell = anyio.Event()

    async def message(self, kind: int, payload: bytes = b"", *, offset: int = 0, ack: int | None = None) -> None:
        ack = (self._received if self.acks else 0) if ack is None else ack
        await self.connection.ready()
        await self.connection.send(build(kind, self._epoch, offset, ack, (payload,)))

    async def say(self, *frames: bytes) -> None:
        """Send frames, packed into large messages."""
        flow = b"".join(frames)
        for start in range(0, len(flow), LARGEST):
            piece = flow[start : start + LARGEST]
            await self.message(Kind.DATA, piece, offset=self.sent)
            self.sent += len(piece)

    async def flood(self, *frames: bytes) -> None:
        """``say`` for as long as the server listens: it may end the session meanwhile."""
        with suppress(ConnectionLost):
            await self.say(*frames)

    def resume(self, epoch: int) -> Resume:
        """What a handshake says that resumes this session; its proof is ATTACH's too."""
        return Resume(session_id=self.session_id, epoch=epoch, proof=attach_tag(self.key, self.session_id, epoch))

    async def read(self) -> None:
        try:
            while True:
                message = await self.connection.receive()
                kind, _, _, _, offset, _ = split_header(message)
                if kind == Kind.DATA:
                    assert offset == self._received
                    self._received += len(message) - HEADER_SIZE
                    self.frames += self._decoder.feed(memoryview(message)[HEADER_SIZE:])
                    if self.acks:
                        await self.message(Kind.ACK)
                self._ring()
        except ConnectionLost as error:
            self.lost = error
            self._ring()

    def _ring(self) -> None:
        self._bell.set()
        self._bell = anyio.Event()

    async def until(self, condition: Callable[[], object]) -> None:
        with anyio.fail_after(10):
            while not condition():
                await self._bell.wait()

    async def asked(self, count: int = 1) -> list[int]:
        """Wait until the server has sent so many requests in all; their streams."""
        await self.until(lambda: len(self._requests()) >= count)
        return self._requests()

    def _requests(self) -> list[int]:
        opened = [stream_id for code, stream_id, _ in self.frames if code == OPEN]
        return [stream_id for stream_id in opened if self.got(stream_id, HEAD, HEAD_FIN)]

    def got(self, stream_id: int, *codes: int) -> bool:
        return any(code in codes and each == stream_id for code, each, _ in self.frames)

    async def was_reset(self, stream_id: int) -> int:
        """Wait until the server resets a stream; the code."""
        await self.until(lambda: self.got(stream_id, RESET))
        return next(
            int.from_bytes(payload) for code, each, payload in self.frames if (code, each) == (RESET, stream_id)
        )


@asynccontextmanager
async def scripted_client(group: TaskGroup, port: int, token: str = TOKEN) -> AsyncIterator[ScriptedClient]:
    """One with a session of its own, attached; what the server sends is read in ``group``."""
    stream = await connect_tcp("127.0.0.1", port, timeout=5)
    try:
        await stream.send(handshake(token))
        status, answer, early = await read_head(stream)
        assert status == 101
        fields = {name.lower(): value for name, value in answer}
        connection = WebSocketConnection(stream, client=True, early=early)
        session_id, key = fields["tunnelkit-session"], bytes.fromhex(fields["tunnelkit-resume-key"])
        await connection.ready()
        await connection.send(build(Kind.ATTACH, 1, 0, 0, (attach_tag(key, session_id, 1),)))
        assert split_header(await connection.receive())[0] == Kind.ATTACH
        client = ScriptedClient(connection, 1, session_id, key)
        group.start_soon(client.read)
        yield client
    finally:
        stream.abort()
