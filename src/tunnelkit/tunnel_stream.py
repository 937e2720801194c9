"""One stream of a link, as its handler holds it, and what a handler is told.

Both ends' exchanges and splices stand on this; ``link`` makes the streams and hands over their events.
"""

from __future__ import annotations

from collections.abc import MutableSequence
from typing import Final, Protocol

from .core.frames import ResetCode
from .core.multiplexer import Multiplexer
from .net.stream import Buffer

__all__ = ["NO_HANDLER", "OpenField", "Stream", "StreamHandler", "StreamOwner", "gather"]

# Pieces below this size are joined: each costs some 70 bytes beside its own, and a peer may send them by the byte.
SMALL_PIECE = 1024


# Looking a member up in its enum takes twice as long as calling a function (CPython 3.11): hence a name, and below a
# class that is no enum.
_INTERNAL: Final = ResetCode.INTERNAL


class OpenField:
    """Keys of the fields that OPEN carries."""

    X_HOST: Final = 1  # the origin that the caller asks for, as it stood in X-Host
    BY_DESTINATION: Final = 2  # empty: the caller named that origin, and the target with it, in X-PROXY-DESTINATION
    CALLER: Final = (
        3  # its address, where proxies that the server trusts tell another than that of the server's own peer
    )


class StreamHandler(Protocol):
    """What drives one stream. Called from the link's reader and writer; it never blocks and never raises."""

    def on_sent(self) -> None:
        """A first byte of the stream was taken by a connection."""

    def on_head(self, block: bytes, fin: bool) -> None: ...

    def on_data(self, data: bytes, fin: bool) -> None:
        """Received bytes. They count against the stream's credit until ``Stream.consume``."""

    def on_reset(self, code: int) -> None:
        """The stream is over: reset by the peer, or its session is gone (``ResetCode.SESSION_GONE``)."""

    def on_room(self) -> None:
        """The send buffer, full before, takes bytes again."""

    def on_progress(self, limit: int) -> None:
        """The peer consumed what it was sent: it now takes bytes up to the offset ``limit``."""

    def on_settled(self) -> None:
        """Every event of one message was handed over: write out what they gave."""

    def on_written(self) -> None:
        """``on_settled`` was told to all whom the message had something for: do what nobody waits for."""


class StreamOwner(Protocol):
    """What a stream needs of its link."""

    mux: Multiplexer

    def ring(self) -> None: ...

    def flush(self) -> None: ...

    def forget(self, stream_id: int) -> None: ...


class Stream:
    """A handler's grip on one stream of a link."""

    __slots__ = ("_owner", "_withdrawn", "fault_code", "handler", "id", "open")

    def __init__(self, owner: StreamOwner, stream_id: int, handler: StreamHandler) -> None:
        self._owner = owner
        self.id = stream_id
        self.handler = handler
        self.open = True
        self.fault_code: ResetCode = _INTERNAL  # what the peer is told should the handler fail
        self._withdrawn = False

    @property
    def room(self) -> int:
        return self._owner.mux.send_room(self.id) if self.open else 0

    @property
    def was_sent(self) -> bool:
        """Whether any byte of this stream was taken by a connection; true to the end and after it."""
        return not self._withdrawn and self._owner.mux.was_sent(self.id)

    def send_head(self, block: bytes, *, fin: bool = False, more: bool = False) -> None:
        """``more``: ``flush``, or another send, follows before anything else is done."""
        if self.open:
            self._owner.mux.send_head(self.id, block, fin=fin)
            if not more:
                self._owner.ring()

    def send_data(self, data: Buffer, *, fin: bool = False, more: bool = False) -> None:
        """``more`` as in ``send_head``."""
        if self.open:
            self._owner.mux.send_data(self.id, data, fin=fin)
            if not more:
                self._owner.ring()

    def send_fin(self) -> None:
        if self.open:
            self._owner.mux.send_fin(self.id)
            self._owner.ring()

    def flush(self) -> None:
        """What was sent may leave at once, unless other streams are about to share its message."""
        self._owner.flush()

    def consume(self, count: int) -> None:
        """``count`` received bytes left for good: the peer may send as many more."""
        if self.open and count and self._owner.mux.consume(self.id, count):
            self._owner.ring()

    def withdraw(self) -> bool:
        """Take the stream back if no byte of it was sent; True when it vanished without a trace."""
        if not self.open or not self._owner.mux.withdraw(self.id):
            return False
        self._withdrawn = True
        self.forget()
        return True

    def reset(self, code: int) -> None:
        if self.open:
            self._owner.mux.reset(self.id, code)
            self.forget()
            self._owner.ring()

    def forget(self) -> None:
        """No event of it comes any more, and nothing of it is sent: it is over, or its handler is done with it."""
        if self.open:
            self.open = False
            self.handler = NO_HANDLER  # the two hold each other, and there is one such pair a request
            self._owner.forget(self.id)


def gather(pieces: MutableSequence[bytes], data: bytes) -> None:
    """Keep ``data`` behind ``pieces``. The first of them stays what it is: somebody may look at it."""
    if len(data) < SMALL_PIECE and len(pieces) > 1 and len(pieces[-1]) < SMALL_PIECE:
        pieces[-1] += data
    else:
        pieces.append(data)


class _NoHandler:
    """Stands in while the handler of a stream that the peer opened is being made."""

    def on_sent(self) -> None: ...
    def on_head(self, block: bytes, fin: bool) -> None: ...
    def on_data(self, data: bytes, fin: bool) -> None: ...
    def on_reset(self, code: int) -> None: ...
    def on_room(self) -> None: ...
    def on_progress(self, limit: int) -> None: ...
    def on_settled(self) -> None: ...
    def on_written(self) -> None: ...


NO_HANDLER = _NoHandler()
