"""TLS over any byte stream, with the same synchronous interface: ``ssl.MemoryBIO`` in between.

Held at most: one read of the stream below as ciphertext, one record decrypted, and ciphertext of one call's
plaintext (``_CHUNK``) that the stream below did not take. There is no task of its own: a task that waits for this
stream pushes that ciphertext on.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import cast

import anyio
from anyio.lowlevel import checkpoint

from ..errors import StreamBroken
from .buffer import ReadBuffer
from .stream import CLOSE_TIMEOUT, READ_AHEAD, WRITE_BUFFER, Buffer, ByteStream, Taker

__all__ = ["TlsFailure", "TlsStream"]

# Plaintext encrypted at a time: four records.
_CHUNK = 64 * 1024
# A peer can make OpenSSL answer (key updates) without reading the answers; nobody does that for good.
_ANSWERS_LIMIT = 2 * WRITE_BUFFER

_local = threading.local()


def _shared_buffer() -> memoryview:
    """Where this thread's streams decrypt to; used within one synchronous call only."""
    try:
        buffer: memoryview = _local.buffer
    except AttributeError:
        buffer = _local.buffer = memoryview(bytearray(READ_AHEAD))
    return buffer


class TlsFailure(StreamBroken):
    """The handshake failed, or what the peer said of it later: in TLS 1.3 a client is told only then what the server
    thinks of its certificate. ``error`` is OpenSSL's view, None when the stream below ended."""

    def __init__(self, message: str, error: ssl.SSLError | None = None) -> None:
        self.error = error
        super().__init__(message)


class TlsStream(ByteStream):
    """Made by ``TlsStream.client`` and ``TlsStream.server``, which return after the handshake.

    With ``require_close_notify`` an end of the stream below that TLS did not announce is ``StreamBroken``: what came
    may have been cut short by somebody else (RFC 8446 6.1). Without, it is an end like any other.
    """

    def __init__(
        self,
        stream: ByteStream,
        wrap: Callable[[ssl.MemoryBIO, ssl.MemoryBIO], ssl.SSLObject],
        require_close_notify: bool,
    ) -> None:
        self._stream = stream
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = wrap(self._incoming, self._outgoing)
        self._require_close_notify = require_close_notify
        self._held = ReadBuffer()  # decrypted by send_eof, at most a record
        self._unsent = memoryview(b"")  # ciphertext that the stream below did not take
        # OpenSSL is not told of the end below: in a context with OP_IGNORE_UNEXPECTED_EOF, which some versions of
        # Python set by default, it would take it for close_notify.
        self._ended_below = False
        self._ended = self._eof_sent = self._closed = self._woken = False
        self._failure: str | None = None  # of reading, and so of all
        self._error: ssl.SSLError | None = None  # OpenSSL's, where the failure is one
        self._send_failure: str | None = None  # what came before can still be read
        self._waiting = self._writers = 0  # tasks in wait; those of them that wait to write
        self._pushing = False  # one of the others waits for the stream below to take ciphertext

    def __repr__(self) -> str:
        return f"<TlsStream over {self._stream!r}>"

    # -- handshake -----------------------------------------------------------------------------

    @classmethod
    async def client(
        cls,
        stream: ByteStream,
        context: ssl.SSLContext,
        *,
        server_hostname: str,
        timeout: float | None = None,
        require_close_notify: bool = True,
    ) -> TlsStream:
        """Shake hands as client. Raises ``TlsFailure`` or ``TimeoutError``; then, and when cancelled, ``stream`` is
        closed."""

        def wrap(incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
            return context.wrap_bio(incoming, outgoing, server_hostname=server_hostname)

        return await _shake_hands(stream, lambda: cls(stream, wrap, require_close_notify), timeout)

    @classmethod
    async def server(
        cls,
        stream: ByteStream,
        context: ssl.SSLContext,
        *,
        timeout: float | None = None,
        require_close_notify: bool = True,
        plain_http_answer: bytes = b"",
    ) -> TlsStream:
        """Shake hands as server; errors as with ``client``. A peer that speaks plain HTTP is sent
        ``plain_http_answer`` before ``stream`` is closed."""

        def wrap(incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
            return context.wrap_bio(incoming, outgoing, server_side=True)

        return await _shake_hands(
            stream, lambda: cls(stream, wrap, require_close_notify), timeout, plain_http_answer=plain_http_answer
        )

    async def _handshake(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._stream.send(self._outgoing.read())
                await self._receive_below()
            else:
                await self._stream.send(self._outgoing.read())
                return

    async def _receive_below(self) -> None:
        data = await self._stream.receive()
        if not data:
            raise TlsFailure("the peer closed the connection during the TLS handshake")
        self._incoming.write(data)

    # -- reading -------------------------------------------------------------------------------

    def receive_nowait(self, max_bytes: int = READ_AHEAD) -> bytes | None:
        if self._closed:
            raise StreamBroken("closed")
        if self._held:
            return self._held.take(max_bytes)
        room = _shared_buffer()[:max_bytes]
        got = self._decrypt(room)
        if got:
            return bytes(room[:got])
        if self._failure is not None:
            raise StreamBroken(self._failure) if self._error is None else TlsFailure(self._failure, self._error)
        return b"" if self._ended else None

    def is_silent(self) -> bool:
        # What the peer says about the encryption alone is taken for more: a new connection costs little.
        return ByteStream.is_silent(self) and self._stream.is_silent()

    def _decrypt(self, room: memoryview) -> int:
        """Fill ``room`` as far as what came goes, and say how far."""
        got = 0
        while got < len(room) and not self._ended and self._failure is None:
            if not self._has_ciphertext() and (got or not self._take_ciphertext()):
                break
            try:
                count = _read_into(self._tls, room[got:])
            except ssl.SSLWantReadError:
                self._send_answers()
                if self._ended_below:
                    self._end_unannounced()
            except ssl.SSLZeroReturnError:
                self._ended = True
            except ssl.SSLError as exc:
                self._failure, self._error = _text_of(exc), exc
                self._push_alert()
            else:
                self._ended = count == 0
                got += count
        return got

    def _has_ciphertext(self) -> bool:
        """Whether it makes sense to ask OpenSSL; also for what is left at the end of the stream below."""
        return bool(self._incoming.pending or self._ended_below or self._tls.pending())

    def _take_ciphertext(self) -> bool:
        try:
            data = self._stream.receive_nowait()
        except StreamBroken as exc:
            self._failure = str(exc)
            return False
        if data is None:
            return False
        if data:
            self._incoming.write(data)
        else:
            self._ended_below = True
        return True

    def _end_unannounced(self) -> None:
        if self._require_close_notify:
            self._failure = "truncated: the connection ended without TLS close_notify"
        else:
            self._ended = True

    def _push_alert(self) -> None:
        with suppress(StreamBroken):
            self._stream.try_send(bytes(self._unsent) + self._outgoing.read())

    def _send_answers(self) -> None:
        """What OpenSSL says on its own: key updates, tickets."""
        self._push()
        if self._failure is None and self._outgoing.pending + len(self._unsent) > _ANSWERS_LIMIT:
            self._failure = "the peer asks for more TLS answers than it reads"

    # -- writing -------------------------------------------------------------------------------

    def try_send(self, data: Buffer) -> int:
        self._check_open()
        if self._eof_sent:
            raise StreamBroken("the sending half is closed")
        view = memoryview(data)
        taken = 0
        while taken < len(view) and self._push():
            taken += self._encrypt(view[taken : taken + _CHUNK])
        if not self._push() and self._waiting and not (self._writers or self._pushing):
            self._stream.wake()  # for the waiting task to push the rest
        self._check_open()
        return taken

    async def send(self, data: Buffer) -> None:
        await super().send(data)
        # Nobody may wait for this stream next, and then nobody would push the rest.
        while not self._push():
            await self.wait(writable=True)

    @property
    def needs_wait(self) -> bool:
        unsent = self._unsent or self._outgoing.pending
        return self._stream.needs_wait or (self._broken is None and bool(unsent))

    def _encrypt(self, plaintext: memoryview) -> int:
        try:
            return self._tls.write(plaintext)
        except ssl.SSLWantReadError:
            self._failure = "TLS renegotiation is not supported"
        except ssl.SSLError as exc:
            self._failure = _text_of(exc)
        raise StreamBroken(self._failure)

    def _push(self) -> bool:
        """Give the stream below what it takes of the ciphertext. True when none is left (or no sense in it)."""
        try:
            while self._broken is None and (self._unsent or self._outgoing.pending):
                if not self._unsent:
                    self._unsent = memoryview(self._outgoing.read())
                count = self._stream.try_send(self._unsent)
                if not count:
                    return False
                self._unsent = self._unsent[count:]
        except StreamBroken as exc:
            self._send_failure = str(exc)
        return True

    @property
    def _broken(self) -> str | None:
        return self._failure or self._send_failure

    async def send_eof(self) -> None:
        self._check_open()
        if not self._eof_sent:
            self._eof_sent = True
            self._announce_end()
        while not self._push():
            await self.wait(writable=True)
        await checkpoint()

    def _announce_end(self) -> None:
        """Encrypt close_notify, without waiting for the peer's.

        ``SSL_shutdown`` also looks for the peer's and throws away what comes before that, so what came is set aside.
        """
        while self._tls.pending():
            self._held.append(self._tls.read(self._tls.pending()))
        early = self._incoming.read()
        with suppress(ssl.SSLError):
            self._tls.unwrap()
        if early:
            self._incoming.write(early)

    def _check_open(self) -> None:
        if self._closed:
            raise StreamBroken("closed")
        if self._broken is not None:
            raise StreamBroken(self._broken)

    # -- waiting -------------------------------------------------------------------------------

    async def wait(self, *, readable: bool = False, writable: bool = False, taker: Taker | None = None) -> None:
        if self._is_ready(readable, writable):
            await checkpoint()
        elif writable:
            await self._wait_as_writer(readable)
        elif self._unsent and not self._writers and not self._pushing:
            await self._wait_and_push(readable)
        else:
            await self._wait_below(readable, False, taker)
        # Only now: a cancelled wait must not swallow a wake.
        self._woken = False

    async def _wait_as_writer(self, readable: bool) -> None:
        if self._pushing:
            self._stream.wake()  # frees the place of the one writer for us
        self._writers += 1
        try:
            await self._wait_below(readable, True)
        finally:
            self._writers -= 1
            self._hand_over()

    async def _wait_and_push(self, readable: bool) -> None:
        self._pushing = True
        try:
            await self._wait_below(readable, True)
        finally:
            self._pushing = False
            self._hand_over()

    async def _wait_below(self, readable: bool, writable: bool, taker: Taker | None = None) -> None:
        self._waiting += 1
        try:
            await self._stream.wait(readable=readable, writable=writable, taker=taker and self._above(taker))
        finally:
            self._waiting -= 1

    def _above(self, taker: Taker) -> Taker:
        """``taker`` takes what was decrypted. What is left here after it, both ways, is for its task; so is an end,
        or a failure, that came in one piece with what it took."""
        return lambda: taker() and not (self._unsent or self._is_readable() or self._broken is not None)

    def _hand_over(self) -> None:
        """Another waiting task pushes what is left from now on."""
        if not self._push() and self._waiting and not self._writers:
            self._stream.wake()

    def _is_ready(self, readable: bool, writable: bool) -> bool:
        pushed = self._push()
        if self._woken or self._closed or self._broken is not None:
            return True
        return (readable and self._is_readable()) or (writable and pushed)

    def _is_readable(self) -> bool:
        return bool(self._held or self._ended or self._has_ciphertext())

    def wake(self) -> None:
        self._woken = True
        if self._waiting:
            self._stream.wake()

    # -- closing -------------------------------------------------------------------------------

    def abort(self) -> None:
        self._closed = True
        self._held.clear()
        self._unsent = memoryview(b"")
        self._stream.abort()

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            self._held.clear()
            self.wake()
            if not self._eof_sent and self._broken is None:
                self._announce_end()
            if not self._push():
                await self._push_or_abort()
        await self._stream.aclose()

    async def _push_or_abort(self) -> None:
        try:
            with anyio.move_on_after(CLOSE_TIMEOUT):
                while not self._push():
                    await self._stream.wait(writable=True)
        finally:
            if not self._push():
                self._stream.abort()

    # -- facts ---------------------------------------------------------------------------------

    @property
    def last_received(self) -> float:
        return self._stream.last_received

    @property
    def write_buffered(self) -> int:
        return len(self._unsent) + self._outgoing.pending + self._stream.write_buffered

    @property
    def peer_address(self) -> tuple[str, int]:
        return self._stream.peer_address

    @property
    def local_address(self) -> tuple[str, int]:
        return self._stream.local_address

    @property
    def tls(self) -> bool:
        return True

    @property
    def peer_certificate(self) -> dict[str, object] | None:
        certificate: dict[str, object] | None = self._tls.getpeercert()  # type: ignore[assignment]  # dict is invariant
        return certificate or None


async def _shake_hands(
    stream: ByteStream, make: Callable[[], TlsStream], timeout: float | None, *, plain_http_answer: bytes = b""
) -> TlsStream:
    try:
        made = make()
    except BaseException:
        stream.abort()
        raise
    try:
        with anyio.fail_after(timeout):
            await made._handshake()
    except StreamBroken as exc:
        await stream.aclose()
        if isinstance(exc, TlsFailure):
            raise
        raise TlsFailure(f"the connection broke during the TLS handshake: {exc}") from exc
    except ssl.SSLError as exc:
        await _send_last_words(stream, plain_http_answer if exc.reason == "HTTP_REQUEST" else made._outgoing.read())
        raise TlsFailure(_text_of(exc), exc) from exc
    except BaseException:
        stream.abort()
        raise
    return made


def _read_into(tls: ssl.SSLObject, room: memoryview) -> int:
    # The stubs know neither that any writable buffer will do nor that a count comes back when there is one.
    return cast(int, tls.read(len(room), cast(bytearray, room)))


async def _send_last_words(stream: ByteStream, data: bytes) -> None:
    """The alert that tells the peer why, or the answer to a plain HTTP request."""
    with suppress(StreamBroken):
        stream.try_send(data)
    await stream.aclose()


def _text_of(exc: ssl.SSLError) -> str:
    reason = (exc.reason or "error").lower().replace("_", " ")
    return f"TLS: {getattr(exc, 'verify_message', '') or reason}"
