"""One request at a time over one HTTP connection, without waiting but in ``wait``."""

from __future__ import annotations

from typing import Final

from anyio.lowlevel import checkpoint

from ...errors import HeadError, RemoteProtocolError, StreamBroken
from ...heads import ResponseHead
from ...http.client import OriginConnection
from ...http.client_codec import RequestBlock
from ...http.codec import Body, End
from ...net.stream import READ_AHEAD, Taker
from .client_answers import Reply
from .records import RecordReader
from .wire import is_own_answer, is_streamed

__all__ = ["FAILURES", "PAGE_LIMIT", "Call"]

# What ``Call.step`` raises: the connection is only good for ``abort`` then.
FAILURES: Final = (StreamBroken, HeadError, RemoteProtocolError)

# Of what is no answer of the server's: an error page. The rest of it costs the connection.
PAGE_LIMIT: Final = 16 * 1024

# Parts of an answer in one step: what comes faster than it is read must not keep the loop from everybody else.
_STEP: Final = 8

_NOTHING: Final = memoryview(b"")


class Call:
    """``max_body`` bounds the body of an answer 200, or where that is streamed each of its messages."""

    def __init__(self, http: OriginConnection, *, max_body: int) -> None:
        self.moved = False  # bytes passed since somebody last set this to False; interim answers do not count
        self._http = http
        self._max_body = max_body
        self._number = 0
        self._rest = _NOTHING  # of the request's body
        self._sent = True
        self._pushed = True  # all of it is with the stream
        self._head: ResponseHead | None = None
        self._pieces: list[bytes] = []
        self._room = 0
        self._own = False  # the answer is the server's own, and no page of somebody's
        self._records: RecordReader | None = None
        self._more = False  # the last step left off where it might have gone on

    def __repr__(self) -> str:
        return f"<Call {self._number} over {self._http!r}>"

    # -- the request ---------------------------------------------------------------------------

    def begin(self, request: RequestBlock, body: bytes = b"", *, number: int = 0) -> None:
        """Send as much as the stream takes now; ``step`` goes on, and shows what fails. ``number`` is the request's,
        which a streamed answer must have."""
        self._number = number
        self._rest = memoryview(body)
        self._sent = self._pushed = False
        self.moved = False  # what passed was of the request before, the opening perhaps
        self._head = None
        self._pieces = []
        self._records = None
        if body:
            self._http.send_block(request)
        else:
            self._sent = True
            self._http.send_whole(request)
        self._push()

    def _push(self) -> bool:
        """True when nothing is left to write."""
        if self._pushed:
            return True
        http = self._http
        while self._rest and http.try_send_body(self._rest[:READ_AHEAD]):
            self._rest = self._rest[READ_AHEAD:]
            self.moved = True
        if self._rest:
            return False
        if not self._sent:
            self._sent = True
            http.send_end()
        self._pushed = http.flush()
        return self._pushed

    # -- the answer ----------------------------------------------------------------------------

    def step(self) -> Reply | bytes | None:
        """The answer, a message of it where it is streamed, or None: ``wait`` then. Raises ``FAILURES``."""
        self._push()
        self._more = False
        for _ in range(_STEP):
            if self._records is not None and (message := self._records.next_message()) is not None:
                return message
            if (event := self._next_event()) is None:
                return None
            if isinstance(event, ResponseHead):
                self._begin_reply(event)
                if self._own and self._records is None and (body := self._http.take_rest()) is not None:
                    self._take(body)
                    return self._reply()
            elif isinstance(event, Body):
                self._take(event.data)
            if isinstance(event, End) or self._room < 0:
                self.moved = True
                return self._reply()
        self._more = True
        return None

    def _next_event(self) -> ResponseHead | Body | End | None:
        try:
            return self._http.next_event_nowait()
        except (StreamBroken, HeadError):
            if self._records is not None and self._records.ended:
                return End([])  # all is there; the last chunk is not worth a repeat
            raise

    def _begin_reply(self, head: ResponseHead) -> None:
        """Interim answers are passed over (RFC 9110 15.2)."""
        if head.status < 200:
            return
        self.moved = True
        self._head = head
        self._own = is_own_answer(head.status, head.fields, self._number)
        if self._own and is_streamed(head.fields):
            self._records = RecordReader(self._max_body)
        self._room = self._max_body if self._own else PAGE_LIMIT

    def _take(self, data: bytes) -> None:
        self.moved = True
        if self._records is not None:
            self._records.feed(data)
            return
        self._pieces.append(data)
        self._room -= len(data)

    def _reply(self) -> Reply:
        head = self._head
        assert head is not None
        if self._records is not None and not self._records.ended:
            raise HeadError(502, "truncated_response", "a streamed answer broke off")
        if self._own and self._room < 0:
            raise HeadError(502, "response_too_large", f"the answer is larger than {self._max_body} bytes")
        return Reply(head.status, head.fields, b"".join(self._pieces), self._own)

    # -- the connection ------------------------------------------------------------------------

    @property
    def unsent(self) -> bool:
        """Some of the request is not taken yet."""
        return bool(self._rest) or not (self._pushed or self._http.flush())

    @property
    def last_received(self) -> float:
        return self._http.stream.last_received

    @property
    def kept(self) -> bool:
        """After an answer: the connection may carry another request."""
        return self._http.reusable

    @property
    def idle(self) -> bool:
        """Nothing is expected, and the connection can carry a request: it is new, or kept alive and quiet."""
        return not self._http.exchanges or self._http.check_idle()

    @property
    def rests(self) -> bool:
        """Nothing is left to do before more bytes come."""
        return not (self._more or self.unsent)

    async def wait(self, taker: Taker | None = None) -> None:
        """Until ``step`` may get further or, after an answer, until the connection stirs. ``taker``, which does what
        is to be done then, may be called instead (``ByteStream.wait``)."""
        if self._more:
            await checkpoint()
            return
        unsent = self.unsent
        await self._http.wait(readable=True, writable=unsent, taker=None if unsent else taker)

    def wake(self) -> None:
        self._http.wake()

    def abort(self) -> None:
        self._rest = _NOTHING
        self._sent = self._pushed = True  # or what is left of it: the next step only finds out that it failed
        self._http.abort()

    async def aclose(self) -> None:
        await self._http.aclose()
