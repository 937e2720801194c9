"""The last exchanges, kept for people to look at: bounded, with secrets redacted, at either end.

inspector = Inspector()
async with TunnelServer(inspector=inspector): ...
async for exchange in inspector: print(exchange)
"""

from __future__ import annotations

import itertools
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias
from weakref import WeakSet

import anyio

from .errors import TunnelkitError
from .har import har
from .heads import RequestHead, ResponseHead
from .redaction import redacted, redacted_target

__all__ = ["Inspected", "InspectedBody", "Inspector", "NotReplayed"]  # the public ones; ends and pages use more

# Exchanges kept, and bytes of all that is kept of them: heads and bodies.
EXCHANGES_KEPT: Final = 200
BYTES_KEPT: Final = 16 * 1024 * 1024
# Of one body; the rest passes unseen.
BODY_KEPT: Final = 64 * 1024
# News that wait for one listener.
NEWS_KEPT: Final = 1000
# What an exchange costs besides its heads and bodies.
_OVERHEAD: Final = 1024

# Sends a request through its tunnel again: the head, with all that the caller sent, and the body.
Send: TypeAlias = Callable[[RequestHead, bytes], Awaitable[None]]


class NotReplayed(TunnelkitError):
    """The exchange cannot be replayed: it is not kept, its body was too long to be, or nobody can send it."""


class InspectedBody:
    """The beginning of a body, and how long all of it was."""

    __slots__ = ("_kept", "size")

    def __init__(self) -> None:
        self._kept = bytearray()
        self.size = 0  # bytes that passed

    @property
    def data(self) -> bytes:
        """The bytes that are kept. Nothing in them is redacted."""
        return bytes(self._kept)

    @property
    def kept(self) -> int:
        """How many bytes are."""
        return len(self._kept)

    @property
    def whole(self) -> bool:
        """Whether all that passed is kept."""
        return self.kept == self.size

    def add(self, data: bytes | bytearray | memoryview, most: int) -> int:
        """Keep what of ``data`` is within the first ``most`` bytes: how many are."""
        room = most - self.size
        self.size += len(data)
        if room <= 0:
            return 0
        self._kept += data[:room]
        return min(room, len(data))

    def _forget(self) -> None:
        """Keep its size alone."""
        self._kept = bytearray()

    def __repr__(self) -> str:
        return f"<InspectedBody {self.size} bytes>"


class Inspected:
    """One exchange. What may be a secret is redacted in all that can be read here, bodies excepted."""

    def __init__(
        self, number: int, head: RequestHead, *, target: bytes, tunnel: str, caller: str, send: Send
    ) -> None:
        self.number = number  # for ``get`` and ``replay``
        self.method = head.method.decode("latin-1")
        self.target = redacted_target(target)
        """Path and query, as the origin is asked for them."""
        self.fields = redacted(head.fields)
        """Name and value of each header field, in order."""
        self.tunnel = tunnel
        """At the server: what stands for the tunnel in log lines."""
        self.caller = caller
        """Its address, where this end knows it."""
        self.started = time.time()
        """In seconds since the epoch."""
        self.body = InspectedBody()
        """Of the request, as far as it is kept."""
        self.status: int | None = None
        """Of the answer; None until its head came."""
        self.reason = ""
        self.answer_fields: list[tuple[str, str]] = []
        self.answer_body = InspectedBody()
        self.outcome = ""
        """"" while it runs; then "complete", or "incomplete" where the answer, or all of it, was missing."""
        self.seconds = 0.0
        """From its head to its end."""
        self.answered = 0.0
        """From its head to the answer's head."""
        self.size = _OVERHEAD + sum(len(name) + len(value) for name, value in head.fields) + len(target)
        self._head = RequestHead(head.method, target, list(head.fields), head.version)  # with its secrets: to replay
        self._sent_whole = False  # the request, by its caller
        self._send = send

    def _forget(self) -> None:
        """Let go of its bodies and of what a replay needs: whoever still holds it, a listener that lags say, is not
        to hold more than the inspector may."""
        self.body._forget()
        self.answer_body._forget()
        self._head.fields = []

    def __repr__(self) -> str:
        return f"<Inspected {self.number} {self.method} {self.status or '...'} {self.outcome}>"


class Watch:
    """What either end tells of one exchange as it passes."""

    __slots__ = ("_began", "_inspector", "exchange")

    def __init__(self, inspector: Inspector, exchange: Inspected) -> None:
        self._inspector = inspector
        self._began = time.monotonic()
        self.exchange = exchange

    def request_body(self, data: bytes | bytearray | memoryview) -> None:
        self._inspector._keep(self.exchange, self.exchange.body, data)

    def request_end(self) -> None:
        self.exchange._sent_whole = True

    def answer(self, head: ResponseHead) -> None:
        exchange = self.exchange
        exchange.status, exchange.reason = head.status, head.reason.decode("latin-1")
        exchange.answer_fields = redacted(head.fields)
        exchange.answered = time.monotonic() - self._began
        self._inspector._grow(exchange, sum(len(name) + len(value) for name, value in head.fields))
        self._inspector._tell(exchange)

    def answer_body(self, data: bytes | bytearray | memoryview) -> None:
        self._inspector._keep(self.exchange, self.exchange.answer_body, data)

    def over(self, *, complete: bool) -> None:
        exchange = self.exchange
        if not exchange.outcome:
            exchange.outcome = "complete" if complete else "incomplete"
            exchange.seconds = time.monotonic() - self._began
            self._inspector._tell(exchange)


class Inspector:
    """Given to a server or to clients (``inspector=``), keeps what passes there: the last ``exchanges``, with at most
    ``body_bytes`` of each body and ``total_bytes`` of all, whichever is reached first; the oldest go.

    ``async for exchange in inspector`` gives each when it starts, when its answer's head comes, and when it is over.
    A listener that lags loses the oldest news. Raises ValueError for a limit below 1.
    """

    def __init__(
        self, *, exchanges: int = EXCHANGES_KEPT, body_bytes: int = BODY_KEPT, total_bytes: int = BYTES_KEPT
    ) -> None:
        if min(exchanges, body_bytes, total_bytes) < 1:
            raise ValueError("an inspector keeps at least one exchange and one byte")
        self._most = exchanges
        self._body_bytes = body_bytes
        self._total_bytes = total_bytes
        self._size = 0
        self._kept: OrderedDict[int, Inspected] = OrderedDict()
        self._numbers = itertools.count(1)
        self._listeners: WeakSet[_News] = WeakSet()

    def __repr__(self) -> str:
        return f"<Inspector of {len(self._kept)} exchanges>"

    # -- for its user --------------------------------------------------------------------------

    @property
    def exchanges(self) -> list[Inspected]:
        """What is kept, the oldest first."""
        return list(self._kept.values())

    def get(self, number: int) -> Inspected | None:
        """The exchange of that number, None where it is not kept any more."""
        return self._kept.get(number)

    def clear(self) -> None:
        """Forget all of them."""
        while self._kept:
            self._forget_oldest()

    def __aiter__(self) -> _News:
        news = _News()
        self._listeners.add(news)
        return news

    def har(self) -> dict[str, object]:
        """What is kept as HAR 1.2, to be written as JSON: readable by browsers and other tools."""
        return har(self.exchanges)

    async def replay(self, number: int) -> None:
        """Send the request again, through the tunnel, with all that its caller sent; returns when that is over.
        It shows as an exchange of its own. Raises NotReplayed, which says why. Cancelled, the request is taken back.
        """
        exchange = self.get(number)
        if exchange is None:
            raise NotReplayed("this exchange is not kept any more")
        if not exchange.outcome:
            raise NotReplayed("the exchange is not over yet")
        if not exchange.body.whole or not exchange._sent_whole:  # a part is not to arrive as the whole
            raise NotReplayed("the request's body is not known whole")
        if exchange.status == 101:
            raise NotReplayed("an upgraded connection cannot be replayed")
        await exchange._send(exchange._head, exchange.body.data)

    # -- for the end that it was given to ------------------------------------------------------

    def begin(self, head: RequestHead, *, target: bytes, tunnel: str = "", caller: str = "", send: Send) -> Watch:
        """An exchange begins. ``send`` sends it again."""
        number = next(self._numbers)
        exchange = Inspected(number, head, target=target, tunnel=tunnel, caller=caller, send=send)
        self._kept[exchange.number] = exchange
        self._size += exchange.size
        self._trim()
        self._tell(exchange)
        return Watch(self, exchange)

    def _keep(self, exchange: Inspected, body: InspectedBody, data: bytes | bytearray | memoryview) -> None:
        most = self._body_bytes if exchange.number in self._kept else 0
        if kept := body.add(data, most):
            self._grow(exchange, kept)

    def _grow(self, exchange: Inspected, count: int) -> None:
        if exchange.number in self._kept:
            exchange.size += count
            self._size += count
            self._trim()

    def _trim(self) -> None:
        while self._kept and (len(self._kept) > self._most or self._size > self._total_bytes):
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        _, oldest = self._kept.popitem(last=False)
        self._size -= oldest.size
        oldest._forget()

    def _tell(self, exchange: Inspected) -> None:
        for listener in self._listeners:
            listener._add(exchange)


class _News:
    """One listener's."""

    __slots__ = ("__weakref__", "_bell", "_waiting")

    def __init__(self) -> None:
        self._waiting: deque[Inspected] = deque(maxlen=NEWS_KEPT)
        self._bell = anyio.Event()

    def _add(self, exchange: Inspected) -> None:
        self._waiting.append(exchange)
        self._bell.set()

    def __aiter__(self) -> _News:
        return self

    async def __anext__(self) -> Inspected:
        """Cancelling loses nothing."""
        while not self._waiting:
            if self._bell.is_set():  # others may wait for the one that is not
                self._bell = anyio.Event()
            await self._bell.wait()
        return self._waiting.popleft()
