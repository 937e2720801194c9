"""What answers requests at the client: the interface, and the exchange that an origin is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar

from ..core.allowlist import HostOrigin
from ..core.known_heads import KnownResponse
from ..heads import Fields, RequestHead, ResponseHead
from ..net.stream import Buffer, ByteStream, Taker

__all__ = ["Begun", "Origin", "OriginExchange", "Perch"]

T = TypeVar("T")


class OriginExchange(Protocol):
    """One request, and the way to answer it. Driven by one task; everything but ``splice`` is synchronous."""

    head: RequestHead  # Host is the caller's: an origin puts its own there if it wants to
    x_host: HostOrigin | None = None  # another origin than the configured one, allowed already
    caller: str = ""  # its address, where trusted proxies told the server another than that of its peer; else ""
    has_body: bool

    def plan(self, make: Callable[[RequestHead], T]) -> T:
        """What ``make`` makes of ``head``; of one that came before, what it made then."""
        return make(self.head)

    # -- the request's body --------------------------------------------------------------------

    @property
    @abstractmethod
    def body_waiting(self) -> bytes | None:
        """The next piece of the body; ``b""`` at its end (``trailers`` are complete then); None: not there yet."""

    @abstractmethod
    def body_taken(self) -> None:
        """The waiting piece was used: the caller may send as much more."""

    @property
    @abstractmethod
    def trailers(self) -> Fields: ...

    @property
    @abstractmethod
    def body_started(self) -> bool:
        """Any piece of the body was taken: the request cannot be made a second time."""

    # -- the answer ----------------------------------------------------------------------------

    @property
    @abstractmethod
    def room(self) -> int:
        """Answer bytes that fit now."""

    @abstractmethod
    def send_head(self, head: ResponseHead, *, fin: bool = False) -> None:
        """An interim response, or the final head."""

    def send_known(self, known: KnownResponse, *, more: bool = False) -> None:
        """A final head that is in its block already. ``more``: ``send_last`` follows at once."""
        self.send_head(known.head)

    @abstractmethod
    def send_body(self, data: Buffer) -> None: ...

    @abstractmethod
    def send_end(self, trailers: Fields | None = None) -> None: ...

    def send_last(self, data: Buffer) -> None:
        """The last of the body, and the end without trailers."""
        self.send_body(data)
        self.send_end()

    @property
    @abstractmethod
    def answered(self) -> bool:
        """A final head was sent."""

    @abstractmethod
    def fail(self, status: int, code: str, detail: str) -> None:
        """Answer with a problem; where an answer has begun, break it off so that it is seen to be partial."""

    def withdraw(self, *, sent: bool) -> None:
        """End it without an answer, and let the server judge what that means: it was never sent to anybody, or
        whoever had it is lost. Where an answer has begun, it is broken off."""
        what = "was lost before it answered" if sent else "did not take the request"
        self.fail(502, "tunnel_lost" if sent else "refused", f"the tunnel client {what}")

    @abstractmethod
    async def splice(self, head: ResponseHead, peer: ByteStream) -> None:
        """Send ``head`` (101) and join the caller with ``peer`` until both directions ended."""

    # -- news ----------------------------------------------------------------------------------

    @property
    @abstractmethod
    def gone(self) -> bool:
        """The caller, or the session, is gone: nobody waits for the answer."""

    @abstractmethod
    def on_news(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` whenever body, room or ``gone`` changed. Synchronous; it must not call back."""


class Perch(Protocol):
    """Where a task may wait between two exchanges, and so need not be woken to begin the next: an idle connection to
    an origin. It wakes when something comes that ``taker`` leaves (``ByteStream.wait``)."""

    async def wait(self, *, readable: bool = False, writable: bool = False, taker: Taker | None = None) -> None: ...


class Begun(Protocol):
    """An exchange for which was done what could be done without waiting. Either ``finish`` is awaited or ``drop`` is
    called, once; neither after ``advance`` was True."""

    __slots__ = ()

    @property
    @abstractmethod
    def perch(self) -> Perch | None:
        """What the exchange goes out on: a task that waits there already is the one to ``finish`` it."""

    def advance(self) -> bool:
        """Do as much more as can be done without waiting, when something came to the perch. True: that was the rest,
        and the next exchange may begin there. Else ``finish`` goes on, with what went wrong here too: nothing is
        raised."""
        return False

    @abstractmethod
    async def finish(self) -> Perch | None:
        """Do the rest; where the task may wait for the next exchange, if anywhere. What it raises becomes a 502, or
        breaks off an answer that has begun."""

    @abstractmethod
    def drop(self) -> None:
        """Nobody will finish it."""


class Origin(ABC):
    """Answers requests. One object serves any number of exchanges at a time."""

    @abstractmethod
    async def serve(self, exchange: OriginExchange) -> None:
        """Answer one request. What it raises becomes a 502, or breaks off an answer that has begun."""

    def begin(self, exchange: OriginExchange) -> Begun:
        """The same in two parts, for origins of which the first needs no waiting."""
        return _Serve(self, exchange)

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        """Around the client's life: entered before it registers, left after its session. What entering raises comes
        out of the client's start."""
        yield

    @abstractmethod
    async def aclose(self) -> None:
        """Let go of kept-alive connections and the like; no exchange comes any more."""


class _Serve(Begun):
    """All is yet to be done."""

    __slots__ = ("_exchange", "_origin")

    def __init__(self, origin: Origin, exchange: OriginExchange) -> None:
        self._origin = origin
        self._exchange = exchange

    @property
    def perch(self) -> None:
        return None

    async def finish(self) -> None:
        if not self._exchange.gone:
            await self._origin.serve(self._exchange)

    def drop(self) -> None: ...
