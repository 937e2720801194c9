"""The inspector's page: one self-contained file and a small API, for people at this machine alone.

Whoever opens another page in the same browser must not reach it: it listens on loopback only, Host must be a loopback
literal (a rebound name would not be), requests from other origins are refused, and what changes something needs a
field that no plain form can send.
"""

from __future__ import annotations

import json
import logging
import re
from base64 import b64encode
from collections.abc import Awaitable, Callable
from hashlib import sha256
from http import HTTPStatus
from importlib.resources import files
from typing import Any, Final

import anyio
from anyio.abc import TaskStatus

from .config import DEFAULT_LIMITS, Limits
from .core.routing import is_loopback
from .errors import ConfigError, HeadError
from .har import text_of
from .heads import Fields, RequestHead, ResponseHead, effective_host, field_values
from .http.caller import FrontRequest
from .http.front import Front
from .http.request import CallerRequest
from .inspector import Inspected, InspectedBody, Inspector, NotReplayed
from .net.listen import Listener, parse_address
from .net.peer import Peer
from .net.stream import ByteStream
from .net.timers import Timers

__all__ = ["serve_inspector"]

logger = logging.getLogger("tunnelkit.server")

PIECE: Final = 64 * 1024
# Seconds without news after which a comment is sent, so that a browser that left is noticed.
HEARTBEAT: Final = 15.0
# Without it no request changes anything: a page of another origin could not add it unasked (Fetch, "CORS-preflight").
INTENT: Final = b"x-tunnelkit-inspector"

JSON: Final = b"application/json"
TEXT: Final = b"text/plain; charset=utf-8"

_NUMBER: Final = re.compile("[0-9]{1,15}")  # int() refuses thousands of digits


async def serve_inspector(
    inspector: Inspector,
    listen: str = "127.0.0.1:4040",
    *,
    limits: Limits = DEFAULT_LIMITS,
    task_status: TaskStatus[str] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the page of ``inspector`` until cancelled; ``started`` gets its URL.

    Raises ConfigError for an address that is not of the loopback interface, or cannot be bound.
    """
    host, _ = parse_address(listen, field="inspect")
    if not is_loopback(host):
        raise ConfigError("inspect", f"{listen!r} is not of the loopback interface", "give 127.0.0.1:4040, say")
    listener = Listener.bind(listen, field="inspect")
    try:
        async with anyio.create_task_group() as group:
            timers = Timers(logger)
            await group.start(timers.run)
            front = Front(_Page(inspector).answer, timers=timers, limits=limits)

            async def serve(stream: ByteStream) -> None:
                address, port = stream.peer_address
                await front.serve_connection(stream, Peer(address=address, port=port))

            await group.start(listener.serve, serve)
            task_status.started(listener.urls[0])
            await anyio.sleep_forever()
    finally:
        listener.close()


class _Page:
    def __init__(self, inspector: Inspector) -> None:
        self._inspector = inspector
        self._html = files(__package__).joinpath("inspector.html").read_bytes()
        self._policy = _policy(self._html)

    async def answer(self, request: FrontRequest) -> None:
        _check_origin(request.head)
        method, path = request.head.method, request.head.target.partition(b"?")[0].decode("latin-1")
        match method, path.split("/")[1:]:
            case b"GET", [""]:
                await self._send(request, 200, b"text/html; charset=utf-8", self._html)
            case b"GET", ["exchanges"]:
                rows = [_row(exchange) for exchange in self._inspector.exchanges]
                await self._send(request, 200, JSON, _json(rows))
            case b"GET", ["exchanges", number]:
                await self._send(request, 200, JSON, _json(_detail(self._find(number))))
            case b"GET", ["har"]:
                name = (b"Content-Disposition", b'attachment; filename="tunnelkit.har"')
                await self._send(request, 200, JSON, _json(self._inspector.har()), name)
            case b"GET", ["events"]:
                await self._news(request)
            case b"POST", ["exchanges", number, "replay"]:
                _check_intent(request.head)
                await self._replay(request, self._find(number))
            case b"POST", ["clear"]:
                _check_intent(request.head)
                self._inspector.clear()
                await self._send(request, 204, TEXT, b"")
            case _:
                raise HeadError(404, "not_found", "there is nothing at this path")

    def _find(self, number: str) -> Inspected:
        exchange = self._inspector.get(int(number)) if _NUMBER.fullmatch(number) else None
        if exchange is None:
            raise HeadError(404, "not_found", "this exchange is not kept any more")
        return exchange

    async def _replay(self, request: CallerRequest, exchange: Inspected) -> None:
        try:
            await self._inspector.replay(exchange.number)
        except NotReplayed as error:
            await self._send(request, 409, TEXT, f"{error}\n".encode())
        else:
            await self._send(request, 204, TEXT, b"")

    async def _news(self, request: CallerRequest) -> None:
        """Server-sent events: a row each time that one changes, from now on."""
        news = aiter(self._inspector)
        request.send_head(_head(200, b"text/event-stream", [], self._policy))
        message = b": hello\n\n"
        while not request.gone:
            await _push(request, message)
            exchange = await _unless_gone(request, lambda: anext(news))
            message = b": still there\n\n" if exchange is None else b"data: %b\n\n" % _json(_row(exchange))

    async def _send(
        self, request: CallerRequest, status: int, kind: bytes, body: bytes, *more: tuple[bytes, bytes]
    ) -> None:
        length = [] if status == 204 else [(b"Content-Length", b"%d" % len(body))]
        request.send_head(_head(status, kind, [*length, *more], self._policy))
        for start in range(0, len(body), PIECE):
            await _push(request, body[start : start + PIECE])
        request.send_end()


async def _push(request: CallerRequest, data: bytes) -> None:
    """Returns when the browser's socket took it all, or the browser left: then there is nothing to wait for."""
    while not request.try_send_body(data):
        await request.wait(writable=True)
    while not request.flush():
        await request.wait(writable=True)


async def _unless_gone(request: CallerRequest, work: Callable[[], Awaitable[Inspected]]) -> Inspected | None:
    """None when the browser left, or after a while."""
    found: list[Inspected] = []
    with anyio.move_on_after(HEARTBEAT):
        async with anyio.create_task_group() as group:

            async def watch() -> None:
                while not request.gone:
                    await request.wait(readable=True)
                group.cancel_scope.cancel()

            group.start_soon(watch)
            found.append(await work())
            group.cancel_scope.cancel()
    return found[0] if found else None


# -- who may ask -------------------------------------------------------------------------------


def _check_origin(head: RequestHead) -> None:
    """Host against DNS rebinding, Origin and Sec-Fetch-Site against pages of others."""
    host = effective_host(head).decode("latin-1")
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() and not host.endswith("]") else host
    if not is_loopback(name.strip("[]")):
        raise HeadError(403, "forbidden", "the inspector is asked by a loopback address only")
    origins = field_values(head.fields, b"origin")
    if any(origin.decode("latin-1") != f"http://{host}" for origin in origins):
        raise HeadError(403, "forbidden", "the inspector is not for pages of others")
    if any(site not in (b"same-origin", b"none") for site in field_values(head.fields, b"sec-fetch-site")):
        raise HeadError(403, "forbidden", "the inspector is not for pages of others")


def _check_intent(head: RequestHead) -> None:
    if not field_values(head.fields, INTENT):
        raise HeadError(403, "forbidden", "what changes something needs the field X-Tunnelkit-Inspector")


# -- what is told ------------------------------------------------------------------------------


def _head(status: int, kind: bytes, more: Fields, policy: bytes) -> ResponseHead:
    fields = [
        (b"Content-Type", kind),
        *more,
        (b"Cache-Control", b"no-store"),
        (b"Content-Security-Policy", policy),
        (b"Cross-Origin-Resource-Policy", b"same-origin"),
        (b"Cross-Origin-Opener-Policy", b"same-origin"),
        (b"X-Content-Type-Options", b"nosniff"),
        (b"X-Frame-Options", b"DENY"),
        (b"Referrer-Policy", b"no-referrer"),
    ]
    return ResponseHead(status, fields, HTTPStatus(status).phrase.encode("ascii"))


def _policy(html: bytes) -> bytes:
    """Its own script and style by their digests, its own API, and nothing else."""
    script, style = (_digest(html, tag) for tag in (b"script", b"style"))
    rules = ("default-src 'none'", f"script-src {script}", f"style-src {style}", "connect-src 'self'")
    more = ("base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'", "img-src data:")
    return "; ".join(rules + more).encode("ascii")


def _digest(html: bytes, tag: bytes) -> str:
    content = html.partition(b"<%b>" % tag)[2].partition(b"</%b>" % tag)[0]
    return f"'sha256-{b64encode(sha256(content).digest()).decode('ascii')}'"


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def _row(exchange: Inspected) -> dict[str, Any]:
    return {
        "number": exchange.number,
        "method": exchange.method,
        "target": exchange.target,
        "tunnel": exchange.tunnel,
        "caller": exchange.caller,
        "status": exchange.status,
        "outcome": exchange.outcome,
        "started": exchange.started,
        "seconds": exchange.seconds,
        "received": exchange.body.size,
        "sent": exchange.answer_body.size,
    }


def _detail(exchange: Inspected) -> dict[str, Any]:
    return {
        **_row(exchange),
        "reason": exchange.reason,
        "fields": exchange.fields,
        "body": _body(exchange.body),
        "answer_fields": exchange.answer_fields,
        "answer_body": _body(exchange.answer_body),
    }


def _body(body: InspectedBody) -> dict[str, Any]:
    text, encoding = text_of(body)
    return {"text": text, "encoding": encoding, "size": body.size, "kept": body.kept}
