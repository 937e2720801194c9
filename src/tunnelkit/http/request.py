"""One request of a caller and the way to answer it, whichever server carries it: the seam under the gateway.

Everything but ``wait`` and ``upgrade`` is synchronous, so that an answer can be written from the link's reader as
long as the caller's socket takes it; the request's one task only waits.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Protocol, TypeVar

from ..heads import Fields, RequestHead, ResponseHead
from ..net.peer import Peer
from ..net.stream import READ_AHEAD, Buffer, ByteStream

__all__ = ["CallerRequest"]

T = TypeVar("T")


class CallerRequest(Protocol):
    """Driven by one task. After ``abort``, or once the caller is ``gone``, the methods that write do nothing."""

    head: RequestHead
    peer: Peer
    scheme: str  # "http" or "https", as the caller's socket speaks it
    has_body: bool
    expects_continue: bool
    trailers: Fields  # of the request, complete once receive_body_nowait gave b""
    byte_stream: bool = False  # it asks for a stream of bytes to a tcp:// destination: the server's own program does
    inside: bool = False  # of the server's own program, which nobody asks who it is
    mounted: bool = False  # carried by another program's HTTP server: its socket's peer is not known

    def plan(self, key: object, make: Callable[[], T]) -> T:
        """What ``make``, which is known by ``key``, makes of ``head`` and of what is the same for all requests of its
        connection: where the head came before, what was made of it then."""
        return make()

    @abstractmethod
    def be_link(self) -> None:
        """It carries no caller's exchange but a tunnel client's."""

    # -- the request's body --------------------------------------------------------------------

    @abstractmethod
    def receive_body_nowait(self, max_bytes: int = READ_AHEAD) -> bytes | None:
        """Body bytes that are there; ``b""`` at (and after) its end; ``None`` when nothing is there yet.

        Raises ``HeadError`` when the body's framing is broken: answer with its status, then it closes."""

    @property
    @abstractmethod
    def gone(self) -> bool:
        """The caller's connection failed, or ended for reading (EOF counts as gone unless half_close="answer")."""

    # -- the response --------------------------------------------------------------------------

    @abstractmethod
    def send_info(self, head: ResponseHead) -> None:
        """An interim (1xx) response; dropped for an HTTP/1.0 caller, and for one that has not taken all before it."""

    @abstractmethod
    def send_head(self, head: ResponseHead) -> None:
        """The final response's head, buffered until ``flush``. Framing: Content-Length where the
        head has one, else chunked for HTTP/1.1, else until close."""

    @abstractmethod
    def try_send_body(self, data: Buffer) -> bool:
        """Take all of ``data`` (at most 64 KiB) or nothing: False while what was taken before is not yet flushed."""

    @abstractmethod
    def send_end(self, trailers: Fields | None = None) -> None:
        """The response is complete, and flushed. Its connection lives on if both messages are complete."""

    @abstractmethod
    def flush(self) -> bool:
        """Push what is buffered to the socket without waiting; True when nothing is left."""

    @abstractmethod
    def abort(self) -> None:
        """Break the caller's connection off so that a partial response is seen to be partial."""

    # -- waiting -------------------------------------------------------------------------------

    @abstractmethod
    async def wait(self, *, readable: bool = False, writable: bool = False) -> None:
        """Like ``ByteStream.wait``; readable also notices that the caller is gone, and reads ahead at most
        ``Limits.read_ahead`` bytes."""

    @abstractmethod
    def wake(self) -> None: ...

    def rest(self) -> bool:
        """The caller has its answer. True: a task that waits need not be woken for that, and stays in ``wait`` until
        the caller asks again or its connection is over."""
        return False

    @abstractmethod
    async def upgrade(self, head: ResponseHead) -> ByteStream:
        """Write ``head`` (101 and its fields) and hand over the byte stream, with the bytes that came early."""
