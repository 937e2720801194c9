"""The response of an app in this process: its rules (RFC 9110 6.4, 8.6), whichever interface the app speaks."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import NoReturn

from ..config import Limits
from ..errors import AppError, HeadError
from ..forwarding import forward_response
from ..heads import Fields, ResponseHead, content_length, validate_fields, validate_response
from .conversation import Conversation

__all__ = ["Answer"]

logger = logging.getLogger("tunnelkit.client")

_PHRASES = {int(status): status.phrase.encode("ascii") for status in HTTPStatus}
_BODILESS = (204, 304)


class Answer:
    """Holds the head back until the body begins, so that an app which fails before that is answered for. Raises
    AppError for what an app must not do, and CallerGone."""

    def __init__(self, conversation: Conversation, *, limits: Limits) -> None:
        self.complete = False
        self._conversation = conversation
        self._limits = limits
        self._method = conversation.exchange.head.method
        self._head: ResponseHead | None = None
        self._begun = False  # the head was sent
        self._bodiless = False
        self._left: int | None = None  # bytes that Content-Length still promises

    @property
    def started(self) -> bool:
        """The app gave a head."""
        return self._head is not None

    @property
    def begun(self) -> bool:
        """The head is out: nothing of it can be changed any more."""
        return self._begun

    def start(self, status: int, fields: Fields, reason: bytes | None = None) -> None:
        """Take the final head. Until the body begins, another may replace it."""
        if not isinstance(status, int) or not 200 <= status <= 999:
            raise AppError(f"{status!r} is no status of a final response")
        status = int(status)  # of an IntEnum, perhaps
        head = forward_response(ResponseHead(status, fields, _PHRASES.get(status, b"") if reason is None else reason))
        try:
            validate_response(head, self._limits)
        except HeadError as error:
            raise AppError(error.detail) from None
        self._head = head
        self._bodiless = self._method == b"HEAD" or status in _BODILESS
        self._left = content_length(head.fields)

    def hint(self, links: Fields) -> None:
        """103 (Early Hints, RFC 8297); nothing once the head is out, which says more."""
        if self._begun:
            return
        try:
            validate_fields(links, self._limits)
        except HeadError as error:
            raise AppError(error.detail) from None
        self._conversation.send_head(ResponseHead(103, links, b"Early Hints"))

    async def send(self, data: bytes) -> None:
        """A piece of the body. What answers HEAD, and 204 and 304, have none: theirs is dropped."""
        if self._left is not None and not self._bodiless:
            self._left -= len(data)
            if self._left < 0:
                self._refuse("the app sent more than its Content-Length")
        self.begin()
        await self._conversation.send(b"" if self._bodiless else data)

    async def send_whole(self, data: bytes) -> None:
        """The body, when it is there as a whole: its length is told, and too short a one before anything is sent."""
        if self._left is not None and len(data) < self._left and not self._bodiless:
            self._refuse("the app sent less than its Content-Length")
        if self._head is not None and not self._begun and not self._bodiless and self._left is None:
            self._head.fields.append((b"Content-Length", b"%d" % len(data)))
            self._left = len(data)
        await self.send(data)

    def end(self, trailers: Fields | None = None) -> None:
        """The response is complete. Trailers go where the body has no Content-Length (RFC 9112 7.1.2)."""
        if self._left and not self._bodiless:
            self._refuse("the app sent less than its Content-Length")
        if self._bodiless or self._left is not None:
            trailers = None
        if trailers:
            try:
                validate_fields(trailers, self._limits)
            except HeadError as error:
                self._refuse(error.detail)
        self.begin()
        self.complete = True
        self._conversation.send_end(trailers)

    def begin(self) -> None:
        """Send the head, if it is not out yet."""
        if self._begun:
            return
        if self._head is None:
            raise AppError("a body without a head before it")
        self._conversation.send_head(self._head)
        self._begun = True

    def _refuse(self, why: str) -> NoReturn:
        """What was sent cannot become a whole response any more; the caller is to see that, whatever the app does."""
        logger.error("an app failed: %s", why)
        self._conversation.exchange.fail(502, "origin_failed", why)
        raise AppError(why)
