"""An origin behind a URL: ``http://``, ``https://`` or ``unix:``, over kept-alive connections."""

from __future__ import annotations

import logging
import re
import ssl
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

import anyio

from ..config import Limits
from ..core.allowlist import HostOrigin
from ..errors import ConfigError, DialError, HeadError, StreamBroken
from ..forwarding import forward_response, with_origin_host
from ..heads import RequestHead, ResponseHead
from ..http.client import OriginConnection
from ..http.codec import Body, End, HeadParser
from ..http.keeper import IdleKeeper
from ..http.parsers import DEFAULT_PARSER
from ..http.pool import OriginPool
from ..net.dial import Dial, connect_unix
from ..net.stream import ByteStream
from .base import Origin, OriginExchange

__all__ = ["NamedOrigins", "OriginUrl", "UrlOrigin"]

logger = logging.getLogger("tunnelkit.client")

FAILURE_LOG_INTERVAL = 60.0
# What may be repeated though the origin may have acted on it (RFC 9110 9.2.2).
IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"})


@dataclass(frozen=True, slots=True)
class OriginUrl:
    """A parsed origin: where to connect, and what stands in front of every path."""

    scheme: str  # http, https or unix
    host: str  # or the socket's path
    port: int
    prefix: bytes = b""

    @classmethod
    def parse(cls, url: str, *, field: str = "origin") -> OriginUrl:
        """Raises ConfigError naming ``field``, which shows neither a userinfo nor a query: they may be secrets."""
        shown = re.split(r"[?#]", url)[0].rpartition("@")[2]
        if not url.isprintable() or set(" \\") & set(url):  # what urlsplit drops, or takes for something else
            raise ConfigError(field, f"{shown!r} has characters that must be percent-encoded")
        try:
            parts = urlsplit(url)
        except ValueError:  # brackets that are no IPv6 address, characters that turn into others
            raise ConfigError(field, f"{shown!r} is no URL") from None
        if parts.scheme == "unix":
            path = unquote(parts.netloc + parts.path)
            if not path:
                raise ConfigError(field, f"{shown!r} names no socket", "give unix:/path/of/the.sock")
            return cls("unix", path, 0)
        if parts.scheme in ("ws", "wss"):
            raise ConfigError(
                field,
                f"{shown!r} is the address of a tunnel server",
                "are the tunnel's and the origin's URL swapped?",
            )
        if parts.scheme not in ("http", "https"):
            raise ConfigError(field, f"{shown!r} must begin with http://, https:// or unix:")
        if "@" in parts.netloc:  # and no word of what stands there
            raise ConfigError(field, "must not have a user name or password", "let the origin trust this machine")
        origin = cls(
            parts.scheme,
            *_place(parts.hostname, _port(parts, field, shown), parts.scheme, field, shown),
            _prefix(parts.path, parts.query + parts.fragment, field, shown),
        )
        try:
            origin.authority  # noqa: B018 - a name that cannot be written shows at once
        except UnicodeError:
            raise ConfigError(field, f"{shown!r} has no valid host name") from None
        return origin

    @property
    def authority(self) -> bytes:
        """What Host says: the port only where it is not the scheme's own (RFC 9110 7.2)."""
        if self.scheme == "unix":
            return b"localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = 443 if self.scheme == "https" else 80
        return (host if self.port == default else f"{host}:{self.port}").encode(
            "idna" if not host.isascii() else "ascii"
        )


def _port(parts: SplitResult, field: str, url: str) -> int | None:
    try:
        if parts.port != 0:
            return parts.port
    except ValueError:
        pass  # the same mistake
    raise ConfigError(field, f"{url!r} has no valid port", "a port is a number from 1 to 65535")


def _place(host: str | None, port: int | None, scheme: str, field: str, url: str) -> tuple[str, int]:
    if not host:
        raise ConfigError(field, f"{url!r} names no host", "give something like http://127.0.0.1:8000")
    return host, port or (443 if scheme == "https" else 80)


def _prefix(path: str, rest: str, field: str, url: str) -> bytes:
    if rest:
        raise ConfigError(field, f"{url!r} must not have a query or fragment")
    if not path.isascii() or not path.isprintable() or " " in path:
        raise ConfigError(field, f"{url!r} has characters that must be percent-encoded in its path")
    return path.rstrip("/").encode("ascii")


class UrlOrigin(Origin):
    """One origin. ``host``: None for the origin's own Host, "preserve" for the caller's, anything else is sent.
    ``keeper`` closes connections that are not used any more. ``permits`` judges the addresses of its name. ``parser``
    reads the heads of its answers."""

    def __init__(
        self,
        url: OriginUrl,
        *,
        limits: Limits,
        host: str | None = None,
        ssl_context: Callable[[], ssl.SSLContext] | None = None,
        keeper: IdleKeeper,
        permits: Callable[[str], bool] | None = None,
        parser: HeadParser = DEFAULT_PARSER,
    ) -> None:
        self.url = url
        self._limits = limits
        self._host = host
        self._ssl_context = ssl_context
        self._permits = permits
        self._pool = OriginPool(self._dial, keeper=keeper, limits=limits, parser=parser)
        self._logged_at = -FAILURE_LOG_INTERVAL

    def __repr__(self) -> str:
        return f"<UrlOrigin {self.url.scheme} {self._pool!r}>"

    async def _dial(self) -> ByteStream:
        url = self.url
        if url.scheme == "unix":
            return await connect_unix(url.host, timeout=self._limits.dial_timeout)
        tls = url.scheme == "https"
        context = self._ssl_context() if tls and self._ssl_context is not None else None
        # No proxy, whatever the environment says: it is for the way out, not for the service next door.
        dial = Dial(ssl_context=context, proxy="", timeout=self._limits.dial_timeout, permits=self._permits)
        return await dial(url.host, url.port, tls=tls)

    async def check(self) -> None:
        """Connect once. Raises DialError."""
        connection = await self._pool.connect()
        await connection.aclose()  # not kept, and not broken off: origins log that as an error

    async def aclose(self) -> None:
        await self._pool.aclose()

    def close(self) -> None:
        """The same without waiting."""
        self._pool.close()

    async def serve(self, exchange: OriginExchange) -> None:
        """Pass the request to the origin, and its answer back as it comes. A kept-alive connection that turns out
        to be dead is replaced once, where the request may be made again (RFC 9112 9.3.1)."""
        head = self._request(exchange.head)
        connection = self._pool.acquire_nowait()
        try:
            if connection is not None and await self._try(exchange, connection, head):
                return
            connection = await self._pool.connect()
            if exchange.gone:  # while we dialled: the origin is not to see it
                self._pool.release(connection)
            else:
                await self._try(exchange, connection, head)
        except DialError as error:
            self._log(error)
            exchange.fail(*_DIAL_FAILURES.get(error.stage, _UNREACHABLE))

    def _log(self, error: DialError) -> None:
        """Why, for this side alone: callers are told no addresses."""
        now = anyio.current_time()
        if now - self._logged_at >= FAILURE_LOG_INTERVAL:
            self._logged_at = now
            logger.warning("the origin is not reached: %s", error)

    def _request(self, head: RequestHead) -> RequestHead:
        head = with_origin_host(head, self._host, self.url.authority)
        if self.url.prefix and head.target.startswith(b"/"):
            head.target = self.url.prefix + head.target
        return head

    async def _try(self, exchange: OriginExchange, connection: OriginConnection, head: RequestHead) -> bool:
        """False: the connection was dead before it took the request, which may go out on another."""
        reused = connection.exchanges > 0
        try:
            await _Drive(exchange, connection, head).run()
        except (StreamBroken, HeadError) as error:
            connection.abort()
            untouched = connection.request_untouched or head.method in IDEMPOTENT
            if reused and untouched and not exchange.body_started and not connection.final and not exchange.gone:
                return False
            _tell_failure(exchange, error)
        except BaseException:
            connection.abort()
            raise
        self._pool.release(connection)
        return True


_UNREACHABLE = (502, "origin_unreachable", "the origin cannot be reached")
_DIAL_FAILURES = {
    "address": (403, "x_host_refused", "this X-Host leads to an address that the client does not connect to"),
    "connect": (502, "origin_unreachable", "the origin refused the connection, or cannot be reached"),
    "resolve": (502, "origin_unreachable", "the origin's name cannot be resolved"),
    "tls": (502, "origin_tls", "no secure connection to the origin"),
}


def _tell_failure(exchange: OriginExchange, error: StreamBroken | HeadError) -> None:
    if isinstance(error, HeadError):
        exchange.fail(502, error.code, "the origin's answer is malformed or incomplete")
    else:
        exchange.fail(502, "origin_failed", "the origin broke its connection off")


class _Drive:
    """One exchange on one connection: pumps both ways until the answer is complete or nobody wants it."""

    def __init__(self, exchange: OriginExchange, connection: OriginConnection, head: RequestHead) -> None:
        self._exchange = exchange
        self._connection = connection
        self._head = head
        self._request_ended = not exchange.has_body
        self._done = False

    async def run(self) -> None:
        """Raises StreamBroken or HeadError when the origin failed; the connection is spoilt then."""
        connection, exchange = self._connection, self._exchange
        exchange.on_news(connection.wake)
        connection.send_request(self._head, has_body=exchange.has_body)
        if self._request_ended:
            connection.send_end()
        while True:
            self._pump_body()
            flushed = connection.flush()
            await self._pump_answer()
            if self._done:
                return
            if exchange.gone:
                connection.abort()
                return
            await connection.wait(readable=exchange.room > 0, writable=not flushed)

    def _pump_body(self) -> None:
        exchange, connection = self._exchange, self._connection
        while not self._request_ended and (piece := exchange.body_waiting) is not None:
            if not piece:
                connection.send_end(exchange.trailers or None)
                self._request_ended = True
            elif connection.try_send_body(piece):
                exchange.body_taken()
            else:
                return

    async def _pump_answer(self) -> None:
        exchange, connection = self._exchange, self._connection
        while not self._done and exchange.room > 0 and (event := connection.next_event_nowait()) is not None:
            if isinstance(event, Body):
                exchange.send_body(event.data)
            elif isinstance(event, End):
                exchange.send_end(event.trailers or None)
                self._done = True
            elif event.status == 101:
                await self._switch(event)
            else:
                exchange.send_head(forward_response(event))

    async def _switch(self, head: ResponseHead) -> None:
        connection = self._connection
        while not connection.flush():
            await connection.wait(writable=True)
        self._done = True
        await self._exchange.splice(forward_response(head), connection.upgraded())
        connection.abort()


class NamedOrigins(Origin):
    """The origins that callers name by X-Host, each with its own connections. What is allowed was judged before."""

    def __init__(self, make: Callable[[OriginUrl], UrlOrigin], *, limits: Limits) -> None:
        self._make = make
        self._kept = limits.origins_named
        self._origins: OrderedDict[HostOrigin, UrlOrigin] = OrderedDict()

    async def serve(self, exchange: OriginExchange) -> None:
        wanted = exchange.x_host
        assert wanted is not None
        origin = self._origins.get(wanted)
        if origin is None:
            origin = self._origins[wanted] = self._make(OriginUrl(wanted.scheme, wanted.host, wanted.port))
        self._origins.move_to_end(wanted)
        try:
            await origin.serve(exchange)
        finally:
            self._let_go()

    def _let_go(self) -> None:
        while len(self._origins) > self._kept:
            self._origins.popitem(last=False)[1].close()

    async def aclose(self) -> None:
        while self._origins:
            await self._origins.popitem()[1].aclose()
