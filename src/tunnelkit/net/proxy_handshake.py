"""Ask a proxy for a way through: HTTP CONNECT by h11, SOCKS by python-socks, over a byte stream of ours.

python-socks' own CONNECT reads the reply with one ``read`` and corrupts what follows when it comes in two pieces
(facts, trap 1); h11 copes, and keeps what came after the reply.
"""

from __future__ import annotations

import math
from typing import Any, cast

import h11

from ..errors import DialError, ProxyError, StreamBroken
from .prefixed import prefixed
from .proxy import Proxy
from .stream import ByteStream

__all__ = ["ConnectHandshake", "connect_through"]

_REPLY_LIMIT = 16 * 1024  # the head of one reply
_INTERIM_LIMIT = 10  # 1xx replies before the final one

_WANTS_PASSWORD = "the proxy wants a user name and password: put them in the proxy's URL"
_WRONG_PASSWORD = "the proxy did not take the user name and password of the proxy's URL"
_STATUS_HINTS = {
    403: "the proxy's rules forbid this destination",
    405: "the proxy does not allow CONNECT",
    501: "the proxy does not know CONNECT",
    502: "the proxy could not reach the server",
    503: "the proxy could not reach the server",
    504: "the proxy could not reach the server",
}


async def connect_through(stream: ByteStream, proxy: Proxy, host: str, port: int) -> ByteStream:
    """Use ``stream``, a connection to ``proxy``, as one to ``host``. Raises ``ProxyError`` (``DialError`` when a name
    that is resolved on this side is not found). Closing ``stream`` is the caller's, in every case."""
    if proxy.scheme in ("http", "https"):
        return await _connect_http(stream, proxy, host, port)
    return await _connect_socks(stream, proxy, host, port)


# -- HTTP CONNECT (RFC 9110 9.3.6) -------------------------------------------------------------


class ConnectHandshake:
    """Sans-IO: send ``request``, then feed ``receive_data`` until it returns the bytes that came after the reply."""

    def __init__(self, proxy: Proxy, host: str, port: int) -> None:
        authority = f"{f'[{host}]' if ':' in host else host}:{port}"
        fields = [("Host", authority), ("User-Agent", "tunnelkit")]
        self._authenticated = bool(proxy.authorization)
        if self._authenticated:
            fields.append(("Proxy-Authorization", proxy.authorization))
        self._interim = 0
        self._connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_REPLY_LIMIT)
        request = h11.Request(method="CONNECT", target=authority, headers=fields)
        self.request = (self._connection.send(request) or b"") + (self._connection.send(h11.EndOfMessage()) or b"")

    def receive_data(self, data: bytes) -> bytes | None:
        """The bytes beyond the proxy's yes, or None when more of the reply must come. ``b""`` is the end.

        Raises ``ProxyError``.
        """
        self._connection.receive_data(data)
        try:
            return self._next()
        except h11.RemoteProtocolError as exc:
            if not data:
                raise ProxyError("the proxy closed the connection without an answer") from exc
            raise ProxyError("the proxy's answer is not HTTP", hint="is this the address of an HTTP proxy?") from exc

    def _next(self) -> bytes | None:
        while True:
            event = self._connection.next_event()
            if event is h11.NEED_DATA:
                return None
            if isinstance(event, h11.InformationalResponse):
                self._count_interim()
            else:
                assert isinstance(event, h11.Response)  # an end before it is h11's RemoteProtocolError
                self._check(event)
                return self._connection.trailing_data[0]

    def _count_interim(self) -> None:
        self._interim += 1
        if self._interim > _INTERIM_LIMIT:
            raise ProxyError("the proxy sends interim replies without end")

    def _check(self, response: h11.Response) -> None:
        status = response.status_code
        if 200 <= status < 300:
            return
        hint = _STATUS_HINTS.get(status, "")
        if status == 407:
            hint = _WRONG_PASSWORD if self._authenticated else _WANTS_PASSWORD
        raise ProxyError(f"the proxy answered {status} to CONNECT", status=status, hint=hint)


async def _connect_http(stream: ByteStream, proxy: Proxy, host: str, port: int) -> ByteStream:
    handshake = ConnectHandshake(proxy, host, port)
    try:
        await stream.send(handshake.request)
        while (early := handshake.receive_data(await stream.receive())) is None:
            pass
    except StreamBroken as exc:
        raise ProxyError(f"the connection to the proxy broke: {exc}") from exc
    return prefixed(stream, early)


# -- SOCKS -------------------------------------------------------------------------------------


async def _connect_socks(stream: ByteStream, proxy: Proxy, host: str, port: int) -> ByteStream:
    # Imported late: it is a third of tunnelkit's import time, and few need it.
    import python_socks
    from python_socks.async_.anyio.v2 import Proxy as SocksProxy

    socks = SocksProxy(
        proxy_type=python_socks.ProxyType.SOCKS4 if proxy.scheme == "socks4" else python_socks.ProxyType.SOCKS5,
        host=proxy.host,
        port=proxy.port,
        username=proxy.username or None,
        password=proxy.password or None,
        rdns=proxy.remote_dns,
        # It dials the proxy by asking another proxy; ours hands out the stream that is there already.
        forward=cast(Any, _Forward(stream)),
    )
    try:
        await socks.connect(host, port, timeout=math.inf)  # the time limit is the caller's
    except python_socks.ProxyError as exc:
        raise ProxyError(f"the SOCKS proxy refused: {exc}", hint=_socks_hint(exc, proxy)) from exc
    except OSError as exc:  # its resolver's; there is no other I/O than ours
        raise DialError("resolve", f"the name {host!r} was not found", hint="socks5h:// lets the proxy ask") from exc
    except StreamBroken as exc:
        raise ProxyError(f"the connection to the proxy broke: {exc}") from exc
    except (ValueError, AssertionError):
        # Without its cause: a name or password that cannot be encoded stands in it.
        raise ProxyError("the host, user name or password does not fit into SOCKS") from None
    return stream


def _socks_hint(exc: Exception, proxy: Proxy) -> str:
    if "authenticat" not in str(exc).lower():
        return ""
    return _WRONG_PASSWORD if proxy.username else _WANTS_PASSWORD


class _Forward:
    """What python-socks takes for the proxy before the proxy."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream

    async def connect(self, dest_host: str, dest_port: int, **kwargs: object) -> _SocksStream:
        return _SocksStream(self._stream)


class _SocksStream:
    """python-socks' view of a byte stream. It reads exactly what it needs, so that nothing is left over."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream

    async def write(self, data: bytes) -> None:
        await self._stream.send(data)

    async def read_exactly(self, n: int) -> bytes:
        data = b""
        while len(data) < n:
            piece = await self._stream.receive(n - len(data))
            if not piece:
                raise ProxyError("the proxy closed the connection in the middle of the SOCKS handshake")
            data += piece
        return data

    async def close(self) -> None:
        """The stream is closed by whoever opened it."""
