"""The streams of a link: which are under way, and the handing over of what comes for each to its handler."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping

from .core.events import Data, Event, GoAway, HeadBlock, Opened, Progress, Reset
from .core.frames import ResetCode, StreamKind
from .core.multiplexer import Multiplexer
from .tunnel_stream import NO_HANDLER, Stream, StreamHandler

__all__ = ["LinkStreams"]


def _nothing() -> None: ...


class LinkStreams:
    """See the module. It is the owner of its streams (``tunnel_stream.StreamOwner``).

    ``ring`` and ``flush`` are called where there may be something to send. ``accept`` makes the handler of a stream
    that the peer opens, or None to refuse it; ``going_away`` is called when the peer said that it takes no new ones,
    ``emptied`` when the last is over.
    """

    def __init__(
        self,
        mux: Multiplexer,
        *,
        ring: Callable[[], None],
        flush: Callable[[], None],
        emptied: Callable[[], None],
        accept: Callable[[Stream, Opened], StreamHandler | None] | None,
        going_away: Callable[[], None] | None,
        logger: logging.Logger,
    ) -> None:
        self.mux = mux
        self.ring = ring
        self.flush = flush
        self._emptied = emptied
        self.by_id: dict[int, Stream] = {}
        self.unsent: dict[int, Stream] = {}  # opened by us, and no byte of them taken yet
        self._accept = accept
        self._going_away = going_away or _nothing
        self._logger = logger

    # -- coming and going ----------------------------------------------------------------------

    def open(self, kind: StreamKind, handler: StreamHandler, fields: Mapping[int, bytes]) -> Stream:
        """Raises what ``Multiplexer.open_stream`` raises when there is no room."""
        stream_id = self.mux.open_stream(kind, fields)
        stream = self.by_id[stream_id] = self.unsent[stream_id] = Stream(self, stream_id, handler)
        return stream

    def forget(self, stream_id: int) -> None:
        self.unsent.pop(stream_id, None)
        if self.by_id.pop(stream_id, None) is not None and not self.by_id:
            self._emptied()

    def fail_all(self) -> None:
        """The session is over."""
        for stream in list(self.by_id.values()):
            handler = stream.handler
            stream.forget()
            self._call(stream, handler.on_reset, ResetCode.SESSION_GONE)

    # -- telling their handlers ----------------------------------------------------------------

    def tell_sent(self) -> None:
        """Tell the handlers of streams that a connection took meanwhile."""
        last = self.mux.last_sent
        for stream in [stream for stream in self.unsent.values() if stream.id <= last]:
            if self.unsent.pop(stream.id, None) is not None:  # no handler before it took this one out
                self._call(stream, stream.handler.on_sent)

    def tell_room(self) -> None:
        for event in self.mux.take_room_events():
            stream = self.by_id.get(event.stream_id)
            if stream is not None:
                self._call(stream, stream.handler.on_room)

    def receive(self, pieces: Iterable[bytes | memoryview], now: float) -> None:
        """Hand over what one message brought. Raises ``RemoteProtocolError``, behind what came before the fault."""
        touched: dict[Stream, StreamHandler] = {}
        receive_data = self.mux.receive_data
        try:
            for piece in pieces:
                for event in receive_data(piece, now):
                    self._deliver(event, touched)
        finally:
            self._settle(touched)

    def _settle(self, touched: Mapping[Stream, StreamHandler]) -> None:
        for stream, handler in touched.items():
            try:
                handler.on_settled()
            except Exception:
                self._handler_failed(stream)
        for stream, handler in touched.items():
            try:
                handler.on_written()
            except Exception:
                self._handler_failed(stream)

    def _deliver(self, event: Event, touched: dict[Stream, StreamHandler]) -> None:
        if isinstance(event, Opened):
            self._open_by_peer(event)
            return
        if isinstance(event, GoAway):
            self._going_away()
            return
        stream = self.by_id.get(event.stream_id)
        if stream is None:
            self._drop(event)
            return
        handler = touched[stream] = stream.handler
        try:
            if type(event) is Data:
                handler.on_data(event.data, event.fin)
            elif type(event) is HeadBlock:
                handler.on_head(event.block, event.fin)
            elif type(event) is Progress:
                handler.on_progress(event.limit)
            elif type(event) is Reset:
                stream.forget()
                handler.on_reset(event.code)
        except Exception:
            self._handler_failed(stream)

    def _open_by_peer(self, event: Opened) -> None:
        stream = Stream(self, event.stream_id, NO_HANDLER)
        try:
            handler = self._accept(stream, event) if self._accept is not None else None
        except Exception:
            self._logger.exception("no handler could be made for a stream")
            stream.reset(ResetCode.INTERNAL)
            return
        if handler is None:
            stream.reset(ResetCode.REFUSED)
            return
        stream.handler = handler
        self.by_id[stream.id] = stream

    def _drop(self, event: Event) -> None:
        """Late bytes of a stream that its handler has finished with."""
        if isinstance(event, Data) and event.data:
            self.mux.consume(event.stream_id, len(event.data))

    def _call(self, stream: Stream, method: Callable[[], None] | Callable[[int], None], *args: int) -> None:
        try:
            method(*args)
        except Exception:
            self._handler_failed(stream)

    def _handler_failed(self, stream: Stream) -> None:
        """A handler that fails costs its own stream, and is told that it is over."""
        self._logger.exception("a stream's handler failed")
        if stream.open:
            handler = stream.handler
            stream.reset(stream.fault_code)
            self._call(stream, handler.on_reset, ResetCode.INTERNAL)
