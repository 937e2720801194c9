"""Listening sockets: bind, accept, hand each connection to a handler in a task of its own."""

from __future__ import annotations

import errno
import logging
import os
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any, TypeAlias

import anyio
from anyio.abc import TaskGroup, TaskStatus

from ..errors import ConfigError, StreamBroken
from .adopt import adopt, host_and_port
from .stream import ByteStream
from .tls import TlsFailure, TlsStream

__all__ = ["Handler", "Listener", "parse_address"]

Handler: TypeAlias = Callable[[ByteStream], Awaitable[object]]

_BACKLOG = 1024
_ACCEPTS_A_TURN = 64  # then the other tasks have theirs
_PORT_ATTEMPTS = 8  # to find one port free on all addresses of a name

_FIX = 'give "HOST:PORT", "[::1]:8080" or ":8080"; port 0 picks a free one'

# The process or system has run out of something: accepting again at once would fail again at once.
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_SHORTAGE_PAUSES = (0.1, 0.2, 0.5, 1.0)
_SHORTAGE_LOG_INTERVAL = 60.0

_BIND_FAILURES = {
    errno.EADDRINUSE: ("is already in use", "stop the program that listens there, or choose another port"),
    errno.EACCES: ("is not permitted", "choose a port from 1024 up, or grant the right to bind it"),
    errno.EADDRNOTAVAIL: ("is no address of this machine", "give one that it has, or 0.0.0.0 or [::] for all"),
    errno.EAFNOSUPPORT: ("is of a family that this machine does not support", _FIX),
}

_TLS_REQUIRED = b"TLS is required here: use https:// or wss://\n"
_PLAIN_HTTP_ANSWER = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(_TLS_REQUIRED), _TLS_REQUIRED)
)


def parse_address(text: str, *, field: str = "listen") -> tuple[str, int]:
    """("host", port) of ``HOST:PORT``; the host is "" for all interfaces. Raises ``ConfigError`` naming ``field``."""
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65_535:
        raise ConfigError(field, f"{text!r} is no address with a port", _FIX)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ConfigError(field, f"{text!r} is ambiguous", 'put an IPv6 address in brackets, as in "[::1]:8080"')
    return ("" if host == "*" else host), int(port)


class Listener:
    """Bound sockets, and the loop that accepts on them.

    ``ssl_context`` may be a callable: it is asked at every connection, so that a reload changes the certificate
    without touching connections. A handler's stream is closed when the handler returns and aborted when it raises.
    """

    def __init__(
        self,
        sockets: Iterable[socket.socket],
        *,
        ssl_context: ssl.SSLContext | Callable[[], ssl.SSLContext] | None = None,
        handshake_timeout: float = 10.0,
        logger: logging.Logger | None = None,
    ) -> None:
        self._sockets = list(sockets)
        self._ssl_context = ssl_context
        self._handshake_timeout = handshake_timeout
        self._logger = logger or logging.getLogger("tunnelkit.server")
        self._last_shortage_log = -_SHORTAGE_LOG_INTERVAL
        self._closed = False
        self.addresses = [host_and_port(sock.getsockname()) for sock in self._sockets]

    @classmethod
    def bind(
        cls,
        *addresses: str,
        ssl_context: ssl.SSLContext | Callable[[], ssl.SSLContext] | None = None,
        handshake_timeout: float = 10.0,
        logger: logging.Logger | None = None,
        field: str = "listen",
    ) -> Listener:
        """Bind all of ``addresses`` (``HOST:PORT``) or none. Synchronous, so that the addresses are known before
        anything is served. Raises ``ConfigError`` naming ``field``."""
        sockets: list[socket.socket] = []
        try:
            for address in addresses:
                sockets += _bind(address, field)
        except BaseException:
            _close_all(sockets)
            raise
        return cls(sockets, ssl_context=ssl_context, handshake_timeout=handshake_timeout, logger=logger)

    def __repr__(self) -> str:
        return f"<Listener {'closed' if self._closed else 'open'} {self.urls}>"

    @property
    def tls(self) -> bool:
        """Whether what is accepted must speak TLS."""
        return self._ssl_context is not None

    @property
    def urls(self) -> list[str]:
        """One for each address that is bound."""
        scheme = "https" if self.tls else "http"
        return [f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}" for host, port in self.addresses]

    def close(self) -> None:
        """Accept no more; ``serve`` returns when the last handler has. Idempotent."""
        if self._closed:
            return
        self._closed = True
        for sock in self._sockets:
            with suppress(RuntimeError):  # outside of an event loop nobody waits
                anyio.notify_closing(sock)
        _close_all(self._sockets)

    async def serve(self, handler: Handler, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Accept, and run ``handler(stream)`` for each connection, until cancelled or closed.

        Nothing that a handler or a peer does ends it. Cancelled, it cancels the handlers and aborts their streams.
        """
        try:
            async with anyio.create_task_group() as tasks:
                for sock in self._sockets:
                    tasks.start_soon(self._accept_all, sock, handler, tasks)
                task_status.started()
        finally:
            self.close()

    # -- accepting -----------------------------------------------------------------------------

    async def _accept_all(self, listening: socket.socket, handler: Handler, tasks: TaskGroup) -> None:
        shortages = 0
        while not self._closed:
            with suppress(anyio.ClosedResourceError):  # by close
                await anyio.wait_readable(listening)
            try:
                self._accept_some(listening, handler, tasks)
            except OSError as exc:
                await self._pause(exc, shortages)
                shortages += 1
            else:
                shortages = 0

    def _accept_some(self, listening: socket.socket, handler: Handler, tasks: TaskGroup) -> None:
        for _ in range(0 if self._closed else _ACCEPTS_A_TURN):
            try:
                sock, _ = listening.accept()
            except BlockingIOError:
                return
            except OSError as exc:
                if exc.errno in _SHORTAGES:
                    raise
                continue  # this connection's own failure: it broke off while it waited (accept(2))
            sock.setblocking(False)
            tasks.start_soon(self._handle, sock, handler)

    async def _pause(self, exc: OSError, shortages: int) -> None:
        now = anyio.current_time()
        if now - self._last_shortage_log >= _SHORTAGE_LOG_INTERVAL:
            self._last_shortage_log = now
            self._logger.error("cannot accept connections: %s; trying again", os.strerror(exc.errno or 0))
        await anyio.sleep(_SHORTAGE_PAUSES[min(shortages, len(_SHORTAGE_PAUSES) - 1)])

    # -- one connection ------------------------------------------------------------------------

    async def _handle(self, sock: socket.socket, handler: Handler) -> None:
        try:
            stream = await self._open(sock)
            if stream is not None:
                await _run(handler, stream)
        except StreamBroken as exc:  # the peer's doing
            self._logger.debug("a connection broke: %s", exc)
        except Exception:
            self._logger.exception("a connection's handler failed")

    async def _open(self, sock: socket.socket) -> ByteStream | None:
        try:
            stream = await adopt(sock)
        except StreamBroken:  # gone already
            return None
        if self._ssl_context is None:
            return stream
        try:
            return await self._start_tls(stream)
        except BaseException:
            stream.abort()
            raise

    async def _start_tls(self, stream: ByteStream) -> ByteStream | None:
        try:
            return await TlsStream.server(
                stream,
                self._current_context(),
                timeout=self._handshake_timeout,
                plain_http_answer=_PLAIN_HTTP_ANSWER,
            )
        except TlsFailure as exc:
            self._logger.info("no TLS with %s: %s", stream.peer_address[0], exc)
        except TimeoutError:
            self._logger.info("no TLS with %s: no handshake in time", stream.peer_address[0])
        return None

    def _current_context(self) -> ssl.SSLContext:
        context = self._ssl_context
        assert context is not None
        return context if isinstance(context, ssl.SSLContext) else context()


async def _run(handler: Handler, stream: ByteStream) -> None:
    try:
        await handler(stream)
        await stream.aclose()
    finally:
        stream.abort()  # does nothing once it is closed


# -- binding -----------------------------------------------------------------------------------


def _bind(address: str, field: str) -> list[socket.socket]:
    host, port = parse_address(address, field=field)
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as exc:
        raise ConfigError(field, f"the name {host!r} was not found", _FIX) from exc
    targets = list(dict.fromkeys((family, sockaddr) for family, _, _, _, sockaddr in found))
    for attempt in range(_PORT_ATTEMPTS):
        try:
            return _bind_together(targets, port, skip_missing=not host or len(targets) > 1)
        except OSError as exc:
            if port == 0 and exc.errno == errno.EADDRINUSE and attempt + 1 < _PORT_ATTEMPTS:
                continue
            problem, fix = _BIND_FAILURES.get(exc.errno or 0, (f"cannot be bound: {exc.strerror}", _FIX))
            raise ConfigError(field, f"{address} {problem}", fix) from exc
    raise AssertionError("unreachable")


def _bind_together(targets: list[tuple[Any, Any]], port: int, *, skip_missing: bool) -> list[socket.socket]:
    """One socket a target, all with the same port."""
    sockets: list[socket.socket] = []
    try:
        for family, sockaddr in targets:
            try:
                sockets.append(_bind_one(family, (sockaddr[0], port, *sockaddr[2:])))
            except OSError as exc:
                missing = exc.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
                if not (skip_missing and missing and (sockets or len(targets) > 1)):
                    raise
                continue
            port = sockets[-1].getsockname()[1]
    except BaseException:
        _close_all(sockets)
        raise
    if not sockets:
        raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    return sockets


def _bind_one(family: int, sockaddr: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if sys.platform != "win32":  # where it would allow two listeners on one port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(sockaddr)
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _close_all(sockets: Iterable[socket.socket]) -> None:
    for sock in sockets:
        sock.close()
