"""A transport over plain TCP: every message behind its length, the handshake as the first one each way. There is no
encryption here: it is for trusted networks."""

from contextlib import suppress

import anyio
from anyio.abc import TaskStatus

from tunnelkit.errors import ConnectionLost, DialError, LocalProtocolError, RegistrationRefused, StreamBroken
from tunnelkit.errors import RemoteProtocolError as Garbage
from tunnelkit.handshake import Grant, Handshake, Refusal, from_bytes, refusal_of, to_bytes
from tunnelkit.net.listen import Listener
from tunnelkit.net.stream import ByteStream
from tunnelkit.transports.base import Accepted, Connection, DialRequest, Offer, Peer, Transport

HEADER = 4  # bytes of a length
CLOSE = 1 << 31  # set in a length: no message, but a close; its code and reason follow


class TcpConnection(Connection):
    transport = "tcp"
    max_message = 64 * 1024 - HEADER

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._buffer = bytearray()  # at most a message, and one read beyond it
        self._sending = False
        self._lost: ConnectionLost | None = None

    async def ready(self) -> int:
        await self._stream.wait(writable=True)
        self._check()
        return self.max_message

    async def send(self, message: bytes) -> None:
        self._check()
        if len(message) > self.max_message:
            raise LocalProtocolError(f"a message above {self.max_message} bytes", code="message_too_big")
        self._sending = True
        try:
            await self._stream.send(len(message).to_bytes(HEADER) + message)
        except StreamBroken as exc:
            raise self._lose(str(exc)) from exc
        except BaseException:
            self.abort()  # part of the message may be out: nothing can follow it
            raise
        self._sending = False

    async def receive(self) -> bytes:
        while (message := self._next_message()) is None:
            try:
                data = await self._stream.receive()
            except StreamBroken as exc:
                raise self._lose(str(exc)) from exc
            if not data:
                raise self._lose("the peer ended the stream without a close")
            self._buffer += data
        return message

    def _next_message(self) -> bytes | None:
        self._check()
        length = int.from_bytes(self._buffer[:HEADER].ljust(HEADER, b"\0"))  # or the least it can be
        end = HEADER + (length & ~CLOSE)
        if end > HEADER + self.max_message:
            raise self._lose(f"the peer announced {length} bytes", code=1009)
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[HEADER:end])
        del self._buffer[:end]
        if length & CLOSE:
            raise self._lose(body[2:].decode(errors="replace"), clean=True, code=int.from_bytes(body[:2]))
        return body

    @property
    def last_received(self) -> float:
        return self._stream.last_received

    async def aclose(self, code: int = 1000, reason: str = "") -> None:
        if self._lost is None and not self._sending:
            self._lose("closed at this end")
            body = code.to_bytes(2) + reason.encode()[:1000]
            with suppress(StreamBroken), anyio.move_on_after(1):
                await self._stream.send((CLOSE | len(body)).to_bytes(HEADER) + body)
                await self._stream.aclose()
        self.abort()

    def abort(self) -> None:
        self._lose("aborted at this end")
        self._stream.abort()

    def _lose(self, reason: str, *, clean: bool = False, code: int | None = None) -> ConnectionLost:
        self._lost = self._lost or ConnectionLost(reason, clean=clean, code=code)
        return ConnectionLost(self._lost.reason, clean=self._lost.clean, code=self._lost.code)

    def _check(self) -> None:
        if self._lost is not None:
            raise self._lose("")


class TcpTransport(Transport):
    name = "tcp"

    def __init__(self, address: str = "127.0.0.1:8090") -> None:
        self.address = address  # where the server half listens, and the client half dials

    async def dial(self, request: DialRequest) -> tuple[Connection, Grant]:
        host, _, port = self.address.rpartition(":")
        connection = TcpConnection(await request.dialler(host, int(port), tls=False))
        try:
            with anyio.fail_after(request.timeout):
                await connection.send(to_bytes(request.handshake))
                answer = from_bytes(await connection.receive())
            if isinstance(answer, Refusal):
                raise RegistrationRefused(answer.status, answer.code, answer.detail, retry_after=answer.retry_after)
            if not isinstance(answer, Grant):
                raise DialError("handshake", "what answered is no tunnel server")
        except BaseException as exc:
            connection.abort()
            if isinstance(exc, (ConnectionLost, Garbage, TimeoutError)):
                raise DialError("handshake", str(exc) or "the server did not answer in time") from exc
            raise
        return connection, answer

    async def listen(self, offer: Offer, *, task_status: TaskStatus[None]) -> None:
        async def serve(stream: ByteStream) -> None:
            connection = TcpConnection(stream)
            with suppress(ConnectionLost, TimeoutError):  # before it was served: nothing is lost with it
                answer = await self._answer(connection, Peer(address=stream.peer_address[0]), offer)
                try:
                    await connection.send(to_bytes(answer if isinstance(answer, Refusal) else answer.grant))
                except BaseException:
                    if not isinstance(answer, Refusal):
                        answer.abandon()
                    raise
                await (connection.aclose() if isinstance(answer, Refusal) else answer.serve(connection))

        listener = Listener.bind(self.address)
        self.address = "{}:{}".format(*listener.addresses[0])  # port 0 has picked one
        await listener.serve(serve, task_status=task_status)

    async def _answer(self, connection: Connection, peer: Peer, offer: Offer) -> Accepted | Refusal:
        try:
            with anyio.fail_after(10):
                handshake = from_bytes(await connection.receive())
        except Garbage as exc:
            return refusal_of(exc)
        if not isinstance(handshake, Handshake):
            return Refusal(status=400, code="bad_request", detail="this is no handshake")
        return await offer(handshake, peer)
