"""Raw bytes both ways between a stream of a tunnel and a byte stream: what follows a 101, at both ends.

Half-close is kept: the end of one side is told to the other, whose own bytes go on. Backpressure is kept too: a
side that takes nothing stops only what flows to it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from .core.frames import ResetCode
from .errors import StreamBroken
from .net.stream import RELAY_READ, ByteStream
from .tunnel_stream import Stream, gather

__all__ = ["Splice"]


class Splice:
    """Takes over ``stream`` as its handler. ``early`` came from the tunnel before, and is not consumed yet."""

    def __init__(self, stream: Stream, peer: ByteStream, early: Iterable[bytes] = (), *, fin: bool = False) -> None:
        self.received = 0  # bytes from the peer
        self.delivered = 0  # bytes to the peer
        self._stream = stream
        self._peer = peer
        self._inbox = deque(early)
        self._tunnel_ended = fin
        self._peer_ended = False  # it sends no more
        self._told_peer = False  # that the tunnel sends no more
        self._failed = False
        stream.handler = self

    async def run(self) -> None:
        """Until both directions ended, or either side failed; then both are closed. Cancelling breaks both off."""
        try:
            while not self._over:
                await self._turn()
            if not self._failed:
                self._stream.forget()
                await self._peer.aclose()
        except StreamBroken:
            pass  # the tunnel's end is told below
        finally:
            self._stream.reset(ResetCode.BROKEN_OFF)  # the 101 itself may not have left yet
            self._peer.abort()

    @property
    def _over(self) -> bool:
        return self._failed or (self._peer_ended and self._told_peer)

    async def _turn(self) -> None:
        self._pump_up()
        self._pump_down()
        if self._tunnel_ended and not self._inbox and not self._told_peer:
            self._told_peer = True
            await self._peer.send_eof()
        elif not self._over:
            up = not self._peer_ended and self._stream.room > 0
            await self._peer.wait(readable=up, writable=bool(self._inbox))

    def _pump_up(self) -> None:
        while not self._peer_ended and (room := self._stream.room) > 0:
            data = self._peer.receive_nowait(min(room, RELAY_READ))
            if data is None:
                return
            if data:
                self.received += len(data)
                self._stream.send_data(data)
            else:
                self._peer_ended = True
                self._stream.send_fin()

    def _pump_down(self) -> None:
        while self._inbox:
            data = self._inbox[0]
            taken = self._peer.try_send(data)
            self._stream.consume(taken)
            self.delivered += taken
            if taken < len(data):
                self._inbox[0] = data[taken:]
                return
            self._inbox.popleft()

    # -- the stream's events -------------------------------------------------------------------

    def on_sent(self) -> None: ...

    def on_head(self, block: bytes, fin: bool) -> None:
        """There are no heads any more: a peer that sends one has lost track."""
        self.on_reset(ResetCode.PROTOCOL)
        self._stream.reset(ResetCode.PROTOCOL)

    def on_data(self, data: bytes, fin: bool) -> None:
        if data:
            gather(self._inbox, data)
        self._tunnel_ended = self._tunnel_ended or fin

    def on_settled(self) -> None:
        try:
            self._pump_down()
        except StreamBroken:
            self._failed = True
        if self._inbox or self._tunnel_ended or self._failed:
            self._peer.wake()

    def on_written(self) -> None: ...

    def on_reset(self, code: int) -> None:
        self._failed = True
        self._peer.wake()

    def on_room(self) -> None:
        self._peer.wake()

    def on_progress(self, limit: int) -> None: ...
