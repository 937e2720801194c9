"""The public transport API, version 1. ``docs/writing-a-transport.md`` explains it with an example.

A *connection* carries whole binary messages. A *transport* makes connections: its client half dials, its
server half lives on the tunnel server's HTTP port (``mounted``), has a listener of its own (``listen``), or both.
Transports know no session, frame or exchange.
"""

from __future__ import annotations

import ssl
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, NoReturn, Protocol, TypeAlias

from anyio.abc import TaskGroup, TaskStatus
from anyio.lowlevel import checkpoint

from ..errors import ConfigError, LocalProtocolError
from ..handshake import Grant, Handshake, Refusal
from ..heads import Fields
from ..net.loop import loop_clock
from ..net.peer import Peer
from ..net.stream import ByteStream
from ..proof import Prover

__all__ = [
    "API_VERSION",
    "Accepted",
    "Connection",
    "DialRequest",
    "Dialler",
    "ForwardProxy",
    "MountedRequest",
    "Offer",
    "Peer",
    "Transport",
]

# Of this interface. A transport that names another is refused.
API_VERSION = 1

# Seconds that what was received may be worked on before the other tasks have their turn: a peer can send faster than
# it is handled, and a connection that always has another message need not wait.
TURN: Final = 0.005
# The same where small exchanges come beside transfers, and where they are few.
SHORT_TURN: Final = 0.0003
SHORTEST_TURN: Final = 0.00015


class Connection(Protocol):
    """One live use of a transport: whole binary messages, in both directions.

    Contract: every message that ``send`` took is delivered at least once, or the connection fails as a whole.
    With ``ordered`` False it may reorder and repeat, never lose. One task sends and one receives at a time.
    """

    transport: str  # the transport's name, for logs and events
    max_message: int  # the largest message that send takes, and that receive gives
    ordered: bool = True
    wants_pings: bool = True  # False: it has its own liveness, and raises ConnectionLost by itself
    # So many messages may be under way, and the next waits until one of them is answered; None: they follow one
    # another. Of few messages in a round trip each must be larger, or they would bring little. It may change.
    at_once: int | None = None
    active: bool = False  # set from outside: exchanges run, so a liveness of its own should watch closely
    # Set from outside: seconds that it may work for before the other tasks have their turn. Where it is below 0.005
    # small exchanges come beside transfers, and other programs that serve them should have theirs too. It may be
    # ignored.
    turn: float = TURN

    @abstractmethod
    async def ready(self) -> int:
        """Wait until a message can be taken without piling up, and say how many bytes it may have (at least
        4,096, at most ``max_message``). Called only when there is something to send. Raises ``ConnectionLost``.
        Cancelling changes nothing."""

    @abstractmethod
    async def send(self, message: bytes) -> None:
        """Take one message, which leaves though nothing else is called. Called after ``ready``, by one task. Raises
        ``ConnectionLost``, or ``LocalProtocolError`` for one that is too large (or empty, where empty ones cannot be
        carried; no session sends any), which changes nothing. Cancelled, the connection is dead and must be aborted
        (the session resumes and drops duplicates)."""

    def room_now(self) -> int:
        """What ``ready`` would say, where it would say so without waiting; else 0. A transport that always says 0, as
        this does, loses nothing but a turn of the loop now and then."""
        return 0

    def send_now(self, message: bytes) -> None:
        """``send`` without waiting, called right after ``room_now`` gave room, while no ``send`` is under way. What
        the way does not take at once leaves all the same. Raises ``ConnectionLost``."""
        raise LocalProtocolError("a transport whose room_now gives room needs a send_now", code="no_send_now")

    @abstractmethod
    async def receive(self) -> bytes:
        """The next message. Raises ``ConnectionLost`` at the end (``clean`` when the peer closed in order).
        Cancelling loses no message."""

    async def receive_into(self, take: Callable[[bytes], None]) -> NoReturn:
        """Give ``take`` each message as it comes, to the end: raises what ``receive`` raises there, or ``take``.

        A transport that can saves a task's turn for each message: it may call ``take`` from the loop's own callback
        (``ByteStream.wait``'s ``taker``).
        """
        clock, worked = loop_clock(), 0.0
        while True:
            message = await self.receive()
            began = clock()
            take(message)
            worked += clock() - began
            if worked >= self.turn:
                worked = 0.0
                await checkpoint()

    @property
    @abstractmethod
    def last_received(self) -> float:
        """``anyio.current_time()`` when the last byte came: any byte is life."""

    @abstractmethod
    async def aclose(self, code: int = 1000, reason: str = "") -> None:
        """Close in order, bounded by a deadline of its own (about 1 s); when cancelled, abort. Idempotent.
        ``code`` has the meanings of RFC 6455 7.4.1."""

    @abstractmethod
    def abort(self) -> None:
        """Drop the connection now; pending calls raise ``ConnectionLost``. Idempotent, synchronous."""


class MountedRequest(Protocol):
    """An HTTP request for a transport on the server's own port, under whichever HTTP server carries it."""

    method: bytes
    path: str  # below the transport's mount path: "" for itself, else with its leading slash
    fields: Fields
    peer: Peer

    # Every async method raises ``StreamBroken`` once the caller is gone.

    async def body(self, max_bytes: int) -> bytes:
        """The whole body. Raises ``HeadError``: 413 when it is longer than ``max_bytes``."""
        ...

    async def respond(self, status: int, fields: Fields, body: bytes = b"") -> None:
        """A whole response; Content-Length is added."""
        ...

    def respond_now(self, status: int, fields: Fields, body: bytes = b"") -> bool:
        """``respond`` without waiting, by whoever has the answer while the request's own task is in ``wait``. That is
        left to wait where nothing is left to do for it: it returns once the caller asks again, or is gone. False,
        with nothing done: ``respond``."""
        ...

    async def start(self, status: int, fields: Fields) -> None:
        """Begin a response whose body comes in pieces, of a length that nobody knows yet. The head leaves with the
        first of them."""
        ...

    async def send(self, *pieces: bytes) -> None:
        """Pieces of it, written out at once, together."""
        ...

    def send_now(self, *pieces: bytes) -> bool:
        """``send`` without waiting, of at most 16 KiB in all. False: not all is with the socket, and ``send`` of
        nothing waits for the rest."""
        ...

    async def finish(self) -> None:
        """It is complete."""
        ...

    async def upgrade(self, fields: Fields) -> ByteStream:
        """Answer 101 with these fields and hand over the connection, early bytes included."""
        ...

    @property
    def gone(self) -> bool:
        """The caller's connection failed or ended."""
        ...

    async def wait(self) -> None:
        """Return when ``wake`` was called since the last return, or the caller is gone. Spurious returns are
        allowed; cancelling changes nothing. For a request whose body was read."""
        ...

    def wake(self) -> None:
        """Make the ``wait`` under way, or the next one, return. Synchronous."""
        ...


class Accepted(Protocol):
    """An offer that was granted. Either ``serve`` or ``abandon`` is called, once."""

    grant: Grant
    prover: Prover  # for proofs of the connection's own requests, where it makes any

    async def serve(self, connection: Connection) -> None:
        """Hand over the connection; returns when it has ended (it is closed by then). Never raises but for
        cancellation."""
        ...

    def abandon(self) -> None:
        """The connection did not come about."""
        ...


# What the server half asks for each client: whether it may. The operator's own authorisation runs in it, so it may
# take its time; cancel it when the client is gone.
Offer: TypeAlias = Callable[[Handshake, Peer], Awaitable[Accepted | Refusal]]


class ForwardProxy(Protocol):
    """An HTTP proxy that takes requests for ``http`` URLs in absolute form (RFC 9112 3.2.2)."""

    @property
    def fields(self) -> Fields:
        """Of each request: Proxy-Authorization, where the proxy's URL holds credentials."""
        ...

    async def dial(self) -> ByteStream:
        """A connection to the proxy itself. Raises ``DialError``."""
        ...


class Dialler(Protocol):
    """``net.dial``'s way out: TCP, then proxy, then TLS, as the client is configured. Raises ``DialError``."""

    async def __call__(self, host: str, port: int, *, tls: bool) -> ByteStream: ...

    def forward_proxy(self, host: str, port: int) -> ForwardProxy | None:
        """The proxy for plain requests to ``http://host:port``; None for none, or for one that only tunnels."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class DialRequest:
    """What a transport's client half is given."""

    url: str  # of the tunnel server, "http(s)://host:port/base", without userinfo and trailing slash
    handshake: Handshake
    dialler: Dialler
    timeout: float
    tasks: TaskGroup  # outlives the connection: for what it does beside send and receive. No task may raise
    prover: Callable[[Grant], Prover]  # of the connection that this grant is for; see ``Accepted.prover``
    user_agent: str = ""
    # For transports that dial by themselves: what the client was given or made of its files; None for
    # ``ssl.create_default_context()``. The dialler has it already.
    ssl_context: ssl.SSLContext | None = None
    # Nobody named this transport: it was added by "auto". One that shows the token to whoever answers must make sure
    # first that this is a server of its kind.
    guessed: bool = False


class Transport(ABC):
    """A named pair of halves. ``api_version`` must equal ``API_VERSION``."""

    api_version: int = API_VERSION
    name: str

    async def dial(self, request: DialRequest) -> tuple[Connection, Grant]:
        """The client half: one connection, with the grant for it.

        Raises ``RegistrationRefused`` when the tunnel server itself said no, ``AnsweredByOther`` when something
        in between answered, ``DialError`` otherwise; ``ConfigError`` and ``LocalProtocolError`` for a mistake of the
        user, which ends the client. Anything else is a bug: it is logged, and tried again slowly. Cancelling closes
        what was opened.
        """
        raise ConfigError("transport", f"{self.name!r} has no client half")

    def mount_path(self) -> str | None:
        """The path below ``/_tunnel`` on the server's port that ``mounted`` answers, with what lies below it: "" is
        ``/_tunnel`` itself and nothing below, "/name" is ``/_tunnel/name`` and ``/_tunnel/name/...``. None when it
        has none."""
        return None

    def own_path(self) -> str | None:
        """A path of the server's port, beside /_tunnel, that ``mounted`` answers as if it were ``mount_path``: for
        peers that know no other. A request with X-Token is for its tunnel all the same. None when it has none."""
        return None

    def claims(self, request: MountedRequest) -> bool:
        """Where several transports are mounted at one path: whether this request can only be this one's. Others go
        to the first of them. Decided from the head alone."""
        return False

    async def mounted(self, request: MountedRequest, offer: Offer) -> None:
        """The server half on the server's own port: answer ``request``, and serve its connection to the end."""
        raise TypeError(f"transport {self.name!r} is not mounted")

    async def listen(self, offer: Offer, *, task_status: TaskStatus[None]) -> None:
        """The server half with a listener of its own: runs until cancelled; ``started`` once it is bound.
        The default has none and returns at once."""
        task_status.started()
