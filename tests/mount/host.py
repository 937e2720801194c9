"""An ASGI server that a test plays."""

from __future__ import annotations

from collections import deque
from typing import Any

import anyio

from tunnelkit.mount.request import Message

__all__ = ["Host"]


class Host:
    """``give`` what the app receives; ``sent`` is what it sent. ``take`` False: the host's buffers are full."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.received = 0  # messages that the app took
        self.failure: Exception | None = None
        self._given: deque[Message] = deque()
        self._open = anyio.Event()
        self._open.set()
        self._news = anyio.Event()

    def give(self, type: str, **facts: Any) -> None:
        self._given.append({"type": type, **facts})
        self._ring()

    def take(self, takes: bool) -> None:
        if takes:
            self._open.set()
        else:
            self._open = anyio.Event()
        self._ring()

    def _ring(self) -> None:
        news, self._news = self._news, anyio.Event()
        news.set()

    async def receive(self) -> Message:
        while not self._given:
            await self._news.wait()
        self.received += 1
        message = self._given.popleft()
        self._ring()
        return message

    async def send(self, message: Message) -> None:
        await self._open.wait()
        if self.failure is not None:
            raise self.failure
        self.sent.append(message)
        self._ring()

    async def until(self, condition: Any) -> None:
        with anyio.fail_after(10):
            while not condition():
                await self._news.wait()

    def types(self) -> list[str]:
        return [str(message["type"]) for message in self.sent]

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)
