"""Make the byte stream that suits the running backend out of a connected socket."""

from __future__ import annotations

import select
import socket
from contextlib import suppress
from typing import Any

from .aio import AioStream
from .failures import stream_broken
from .loop import runs_on_asyncio
from .sockets import SocketStream
from .stream import ByteStream

__all__ = ["adopt", "host_and_port"]

# What may wait in the kernel beyond what is on its way: more of it only delays what is written after (design, 5).
_NOTSENT_LOWAT = 128 * 1024


async def adopt(sock: socket.socket) -> ByteStream:
    """Take over a connected, non-blocking stream socket; it is closed if this fails or is cancelled.

    Raises ``StreamBroken``.
    """
    try:
        _set_options(sock)
        local, peer = host_and_port(sock.getsockname()), _peer_of(sock)
        if not runs_on_asyncio():
            return _on_trio(sock, local, peer)
    except OSError as exc:
        sock.close()
        raise stream_broken(exc) from exc
    return await AioStream.open(sock, local=local, peer=peer)


def _on_trio(sock: socket.socket, local: tuple[str, int], peer: tuple[str, int]) -> ByteStream:
    if hasattr(select, "epoll"):
        from .trio_stream import TrioStream  # trio is an extra, and may be missing

        with suppress(OSError, ValueError, RuntimeError):  # it cannot be watched: for want of memory, or at the end
            return TrioStream(sock, local=local, peer=peer)
    return SocketStream(sock, local=local, peer=peer)


def host_and_port(address: Any) -> tuple[str, int]:
    """The first two parts of an IP socket's address; ("", 0) for other families."""
    return (address[0], address[1]) if isinstance(address, tuple) else ("", 0)


def _peer_of(sock: socket.socket) -> tuple[str, int]:
    try:
        return host_and_port(sock.getpeername())
    except OSError:  # gone already: the first read or write will tell
        return "", 0


def _set_options(sock: socket.socket) -> None:
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    with suppress(OSError):  # macOS refuses on a socket whose peer is gone already
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Upgraded connections have no time limit of ours, so the kernel finds out the peers that vanished.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _NOTSENT_LOWAT)
