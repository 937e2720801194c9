"""One call of a WSGI app, as it runs in its thread: ``start_response``, ``write``, ``wsgi.input``, ``close``."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sized
from types import TracebackType
from typing import Any, Final, TypeAlias, TypeVar
from wsgiref.types import WSGIApplication

import anyio.from_thread
from anyio.lowlevel import EventLoopToken

from ..errors import AppError
from ..heads import Fields
from .answer import Answer
from .conversation import Conversation

__all__ = ["InputStream", "WsgiCall"]

_STATUS: Final = re.compile(r"([2-9][0-9]{2})(?: (.*))?", re.DOTALL)

_T = TypeVar("_T")
_ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]


class WsgiCall:
    """Called in a thread. ``token`` is of the event loop where ``conversation`` lives."""

    def __init__(
        self,
        app: WSGIApplication,
        environ: dict[str, Any],
        conversation: Conversation,
        answer: Answer,
        token: EventLoopToken,
    ) -> None:
        self.token = token
        self._app = app
        self._environ = environ
        self._answer = answer
        environ["wsgi.input"] = InputStream(lambda: self._run(conversation.receive))

    def _run(self, function: Callable[..., Coroutine[Any, Any, _T]], *arguments: Any) -> _T:
        return anyio.from_thread.run(function, *arguments, token=self.token)

    def __call__(self) -> None:
        """Raises what the app raised, AppError for what it must not do, CallerGone."""
        result = self._app(self._environ, self._start_response)
        try:
            self._send_all(result)
        finally:
            close = getattr(result, "close", None)
            if close is not None:
                close()

    def _send_all(self, result: Iterable[bytes]) -> None:
        """Each piece goes out before the next is asked for (PEP 3333, "Buffering and Streaming"); one that is all
        there is goes with its length."""
        if isinstance(result, Sized) and len(result) <= 1 and not self._answer.begun:
            self._run(self._finish_whole, b"".join(map(_piece, result)))
            return
        for piece in result:
            if data := _piece(piece):
                self._run(self._answer.send, data)
        self._run(self._finish)

    async def _finish_whole(self, body: bytes) -> None:
        await self._answer.send_whole(body)
        self._answer.end()

    async def _finish(self) -> None:
        self._answer.end()

    def _start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: _ExcInfo | None = None, /
    ) -> Callable[[bytes], object]:
        try:
            if exc_info and exc_info[1] is not None and self._answer.begun:
                raise exc_info[1].with_traceback(exc_info[2])
            if self._answer.started and not exc_info:
                raise AppError("start_response was called again without exc_info")
        finally:
            exc_info = None  # as PEP 3333 does, against a circle of references
        match = _STATUS.fullmatch(status)
        if match is None:
            raise AppError(f"{status!r} is no status of a final response")
        self._answer.start(int(match[1]), _encoded(headers), (match[2] or "").encode("latin-1", "replace"))
        return self._write

    def _write(self, data: bytes) -> None:
        if piece := _piece(data):
            self._run(self._answer.send, piece)


def _piece(data: object) -> bytes:
    if not isinstance(data, bytes):
        raise AppError(f"the app gave {type(data).__name__} where only bytes may be")
    return data


def _encoded(headers: Iterable[tuple[str, str]]) -> Fields:
    try:
        return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    except (TypeError, ValueError, AttributeError):
        raise AppError("response headers must be pairs of strings in Latin-1") from None


class InputStream:
    """``wsgi.input``: the request's body as it comes. At most what was asked for and one piece more is held."""

    def __init__(self, receive: Callable[[], bytes]) -> None:
        self._receive = receive
        self._held = bytearray()
        self._ended = False

    def _fill(self) -> bool:
        """Hold one more piece; False at the end."""
        if not self._ended:
            piece = self._receive()
            self._ended = not piece
            self._held += piece
        return not self._ended

    def _take(self, size: int) -> bytes:
        data = bytes(memoryview(self._held)[:size])
        del self._held[:size]
        return data

    def read(self, size: int | None = -1, /) -> bytes:
        """Up to ``size`` bytes, fewer only at the end; all with -1 or None."""
        wanted = _bound(size)
        while len(self._held) < wanted and self._fill():
            pass
        return self._take(min(wanted, len(self._held)))

    def readline(self, size: int | None = -1, /) -> bytes:
        wanted = _bound(size)
        searched = 0
        while (found := self._held.find(b"\n", searched)) < 0 and len(self._held) < wanted:
            searched = len(self._held)
            if not self._fill():
                break
        return self._take(min(wanted, found + 1 if found >= 0 else len(self._held)))

    def readlines(self, hint: int | None = -1, /) -> list[bytes]:
        wanted, lines, size = _bound(hint), [], 0
        while size < wanted and (line := self.readline()):
            lines.append(line)
            size += len(line)
        return lines

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")


_EVERYTHING: Final = 1 << 62


def _bound(size: int | None) -> int:
    return _EVERYTHING if size is None or size < 0 else size
