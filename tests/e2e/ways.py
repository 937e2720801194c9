"""The ways over which the same tests run: the transport that carries the link, and how."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum

from tunnelkit import Limits
from tunnelkit.transports.base import Transport
from tunnelkit.transports.longpoll import LongPollTransport

__all__ = ["Way", "chosen", "current"]


class Way(StrEnum):
    AUTO = "auto"  # the client's default, by which it takes a websocket wherever nothing is in its way
    WEBSOCKET = "websocket"
    LONGPOLL = "longpoll"  # strict: an answer is a message
    STREAMED = "streamed"  # long-poll whose answers carry many

    def transport(self, limits: Limits) -> str | Transport:
        """What a client is given."""
        if self is Way.LONGPOLL:
            return LongPollTransport(mode="strict", limits=limits)
        if self is Way.STREAMED:
            return LongPollTransport(mode="streamed", limits=limits)
        return self.value

    @property
    def outlives_cuts(self) -> bool:
        """A cut TCP connection is no lost connection of the transport's: requests are repeated."""
        return self is Way.LONGPOLL


_current = Way.AUTO


def current() -> Way:
    """That of the running test."""
    return _current


@contextmanager
def chosen(way: Way) -> Iterator[None]:
    global _current
    before, _current = _current, way
    try:
        yield
    finally:
        _current = before
