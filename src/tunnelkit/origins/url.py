"""An origin behind a URL: ``http://``, ``https://`` or ``unix:``, over kept-alive connections."""

from __future__ import annotations

import logging
import re
import ssl
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from urllib.parse import SplitResult, unquote, urlsplit

import anyio

from ..config import Limits
from ..core.allowlist import HostOrigin, parse_x_host
from ..errors import ConfigError, DialError, HeadError
from ..forwarding import with_origin_host
from ..heads import RequestHead
from ..http.client_codec import RequestBlock, request_block
from ..http.codec import HeadParser
from ..http.keeper import IdleKeeper
from ..http.parsers import DEFAULT_PARSER
from ..http.pool import OriginPool
from ..net.dial import Dial, connect_unix
from ..net.stream import ByteStream
from .base import Origin, OriginExchange
from .patience import PatientDial
from .url_exchange import UrlExchange

__all__ = ["NamedOrigins", "OriginUrl", "UrlOrigin"]

logger = logging.getLogger("tunnelkit.client")

FAILURE_LOG_INTERVAL = 60.0


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
    def origin(self) -> HostOrigin | None:
        """As callers may name it; None for a socket's path, and for a host that nobody can name."""
        if self.scheme == "unix":
            return None
        host = f"[{self.host}]" if ":" in self.host else self.host
        try:
            return parse_x_host(f"{self.scheme}://{host}:{self.port}")
        except HeadError:
            return None

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
        self._authority = url.authority
        self._limits = limits
        self._host = host
        self._ssl_context = ssl_context
        self._permits = permits
        self._pool = OriginPool(self._dial, keeper=keeper, limits=limits, parser=parser)
        self._dials = PatientDial(self._pool, limits.origin_wait)
        self._logged_at: dict[str, float] = {}  # by what was wrong

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
        connection = await self._dials.connect()
        await connection.aclose()  # not kept, and not broken off: origins log that as an error

    async def aclose(self) -> None:
        await self._pool.aclose()

    def close(self) -> None:
        """The same without waiting."""
        self._pool.close()

    async def serve(self, exchange: OriginExchange) -> None:
        """Pass the request to the origin, and its answer back as it comes."""
        await self.begin(exchange).finish()

    def begin(self, exchange: OriginExchange) -> UrlExchange:
        request = exchange.plan(self._with_body if exchange.has_body else self._without_body)
        return UrlExchange(exchange, request, self._pool, self._dials, self._log)

    def _log(self, error: DialError | HeadError) -> None:
        """Why, for this side alone: callers are told no addresses."""
        what = "is not reached" if isinstance(error, DialError) else "answers what cannot be passed on"
        now = anyio.current_time()
        if now - self._logged_at.get(what, -inf) >= FAILURE_LOG_INTERVAL:
            self._logged_at[what] = now
            logger.warning("the origin %s: %s", what, error)

    def _without_body(self, head: RequestHead) -> RequestBlock:
        return request_block(self._request(head))

    def _with_body(self, head: RequestHead) -> RequestBlock:
        return request_block(self._request(head), has_body=True)

    def _request(self, head: RequestHead) -> RequestHead:
        head = with_origin_host(head, self._host, self._authority)
        if self.url.prefix and head.target.startswith(b"/"):
            head.target = self.url.prefix + head.target
        return head


class NamedOrigins(Origin):
    """The origins that callers name by X-Host, each with its own connections. What is allowed was judged before."""

    def __init__(self, make: Callable[[OriginUrl], UrlOrigin], *, limits: Limits) -> None:
        self._make = make
        self._kept = limits.origins_named
        self._origins: OrderedDict[HostOrigin, UrlOrigin] = OrderedDict()

    async def serve(self, exchange: OriginExchange) -> None:
        await self.begin(exchange).finish()

    def begin(self, exchange: OriginExchange) -> UrlExchange:
        wanted = exchange.x_host
        assert wanted is not None
        origin = self._origins.get(wanted)
        if origin is None:
            origin = self._origins[wanted] = self._make(OriginUrl(wanted.scheme, wanted.host, wanted.port))
        self._origins.move_to_end(wanted)
        self._let_go()
        return origin.begin(exchange)

    def _let_go(self) -> None:
        while len(self._origins) > self._kept:
            self._origins.popitem(last=False)[1].close()

    async def aclose(self) -> None:
        while self._origins:
            await self._origins.popitem()[1].aclose()
