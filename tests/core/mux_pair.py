"""Two multiplexers joined by byte flows that a test moves by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tunnelkit.config import DEFAULT_LIMITS, KIB, MIB, Limits
from tunnelkit.core.budget import Budget
from tunnelkit.core.events import Event
from tunnelkit.core.frames import Buffer, StreamKind, encode_credit, encode_open, encode_reset, pack_header
from tunnelkit.core.multiplexer import Multiplexer

__all__ = ["SMALL", "Pair", "credit", "frame", "join", "make", "opening", "reset_frame"]

# Small enough that tests reach every bound with little data.
SMALL = replace(
    DEFAULT_LIMITS,
    max_streams=8,
    receive_budget=MIB,
    stream_floor=16 * KIB,
    stream_first_window=64 * KIB,
    stream_max_window=256 * KIB,
    send_share=0,
    max_buffered_bytes=16 * MIB,
)


def make(
    *, client: bool = False, limits: Limits = SMALL, budget: Budget | None = None, **settings: int
) -> Multiplexer:
    given: dict[str, Any] = {"peer_floor": limits.stream_floor, "peer_max_streams": limits.max_streams, **settings}
    return Multiplexer(client=client, limits=limits, budget=budget or Budget(limits.max_buffered_bytes), **given)


def frame(code: int, stream_id: int, payload: bytes = b"") -> bytes:
    return pack_header(code, len(payload), stream_id) + payload


def opening(stream_id: int, limit: int = 64 * KIB, kind: int = StreamKind.HTTP) -> bytes:
    return encode_open(stream_id, kind, limit)


credit = encode_credit
reset_frame = encode_reset


def join(pieces: list[Buffer]) -> bytes:
    return b"".join(pieces)


class Pair:
    """A server and a client, each with a budget of its own."""

    def __init__(self, limits: Limits = SMALL) -> None:
        self.limits = limits
        self.server_budget = Budget(limits.max_buffered_bytes)
        self.client_budget = Budget(limits.max_buffered_bytes)
        self.server = make(client=False, limits=limits, budget=self.server_budget)
        self.client = make(client=True, limits=limits, budget=self.client_budget)

    def to_client(self, limit: int = 64 * KIB) -> list[Event]:
        """One message from the server to the client."""
        return self.client.receive_data(join(self.server.frames_to_send(limit)), 0.0)

    def to_server(self, limit: int = 64 * KIB) -> list[Event]:
        return self.server.receive_data(join(self.client.frames_to_send(limit)), 0.0)

    def settle(self) -> list[Event]:
        """Exchange messages until neither end has any; all events of both ends."""
        events: list[Event] = []
        while self.server.has_output or self.client.has_output:
            events += self.to_client() + self.to_server()
        return events

    def opened(self, kind: StreamKind = StreamKind.HTTP) -> int:
        """A stream that both ends know, opened by the server."""
        stream_id = self.server.open_stream(kind)
        self.to_client()
        return stream_id
