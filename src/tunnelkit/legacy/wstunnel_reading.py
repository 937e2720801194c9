"""The beginning of each message of WStunnel's wire, from either end."""

from __future__ import annotations

from .fragments import Fragment, FragmentSocket
from .wstunnel_wire import ID_SIZE, parse_id

__all__ = ["begin_message"]


async def begin_message(socket: FragmentSocket) -> tuple[int, Fragment]:
    """The next message's id, and what came with it; the rest is received from ``socket``. Raises
    ``RemoteProtocolError`` for one without an id."""
    data, last = b"", False
    while len(data) < ID_SIZE and not last:
        fragment = await socket.receive()
        data, last = data + fragment.data, fragment.last
    return parse_id(data[:ID_SIZE]), Fragment(data[ID_SIZE:], last)
