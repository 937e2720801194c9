"""Answers that the server gives by itself: small, whole, and not to be kept by anybody."""

from __future__ import annotations

from http import HTTPStatus

from ..heads import Fields, ResponseHead
from ..problem import problem
from .request import CallerRequest

__all__ = ["refuse", "respond", "send_whole"]

PIECE = 64 * 1024


async def respond(request: CallerRequest, status: int, kind: bytes, body: bytes) -> None:
    """A whole answer, which may be long: a list of many sessions is megabytes. For nobody when the caller left."""
    fields: Fields = [
        (b"Content-Type", kind),
        (b"Content-Length", b"%d" % len(body)),
        (b"Cache-Control", b"no-store"),
        (b"X-Content-Type-Options", b"nosniff"),
        (b"Referrer-Policy", b"no-referrer"),
    ]
    request.send_head(ResponseHead(status, fields, HTTPStatus(status).phrase.encode("ascii")))
    view = memoryview(b"" if request.head.method == b"HEAD" else body)
    while view:
        while not request.try_send_body(view[:PIECE]):
            await request.wait(writable=True)
        view = view[PIECE:]
    request.send_end()


def refuse(request: CallerRequest, status: int, code: str, detail: str, *, retry_after: float | None = None) -> None:
    """A problem as the answer."""
    send_whole(request, *problem(status, code, detail, request.head, retry_after=retry_after))


def send_whole(request: CallerRequest, head: ResponseHead, body: bytes) -> None:
    """A small one, at once: at most ``PIECE`` bytes."""
    request.send_head(head)
    if body:
        request.try_send_body(body)
    request.send_end()
