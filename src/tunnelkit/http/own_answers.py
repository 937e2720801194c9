"""Answers that the server gives by itself: small, whole, and not to be kept by anybody."""

from __future__ import annotations

from http import HTTPStatus

from ..heads import Fields, ResponseHead
from ..problem import problem
from .request import CallerRequest

__all__ = ["refuse", "respond", "send_whole"]


def respond(request: CallerRequest, status: int, kind: bytes, body: bytes) -> None:
    """A small whole answer."""
    fields: Fields = [
        (b"Content-Type", kind),
        (b"Content-Length", b"%d" % len(body)),
        (b"Cache-Control", b"no-store"),
        (b"X-Content-Type-Options", b"nosniff"),
        (b"Referrer-Policy", b"no-referrer"),
    ]
    reason = HTTPStatus(status).phrase.encode("ascii")
    send_whole(request, ResponseHead(status, fields, reason), b"" if request.head.method == b"HEAD" else body)


def refuse(request: CallerRequest, status: int, code: str, detail: str, *, retry_after: float | None = None) -> None:
    """A problem as the answer."""
    send_whole(request, *problem(status, code, detail, request.head, retry_after=retry_after))


def send_whole(request: CallerRequest, head: ResponseHead, body: bytes) -> None:
    request.send_head(head)
    view = memoryview(body)
    while view and request.try_send_body(view[: 64 * 1024]):
        view = view[64 * 1024 :]
    request.send_end()
