"""The long-poll transport: messages in the bodies of plain HTTP requests, for ways on which websockets do not pass.

Down, one poll always waits at the server, and its answer is one message; up, each post is one. In *streamed* mode an
answer carries many, where nothing in between gathers answers. ``docs/wire-format.md``, "Long-poll", has the rules.
"""

from __future__ import annotations

from typing import Final

from anyio.abc import TaskStatus

from ...config import DEFAULT_LIMITS, Limits
from ...errors import ConfigError
from ...handshake import Grant
from ..base import Connection, DialRequest, MountedRequest, Offer, Transport
from .client import Lessons, dial_longpoll
from .server import LongPollServer
from .wire import MOUNT_PATH

__all__ = ["MODES", "LongPollTransport"]

MODES: Final = ("auto", "strict", "streamed")


class LongPollTransport(Transport):
    """``mode`` is the client's: ``auto`` streams once a probe showed that answers pass unbuffered, ``strict`` never,
    ``streamed`` from the start. Raises ``ConfigError`` for any other."""

    name = "longpoll"

    def __init__(self, *, mode: str = "auto", limits: Limits = DEFAULT_LIMITS) -> None:
        if mode not in MODES:
            raise ConfigError("mode", f"{mode!r} is unknown", f"give one of {', '.join(MODES)}")
        self._mode = mode
        self._limits = limits
        self._lessons = Lessons()
        self._server = LongPollServer(limits)

    # -- the client half -----------------------------------------------------------------------

    async def dial(self, request: DialRequest) -> tuple[Connection, Grant]:
        return await dial_longpoll(request, mode=self._mode, limits=self._limits, lessons=self._lessons)

    # -- the server half -----------------------------------------------------------------------

    def mount_path(self) -> str:
        return MOUNT_PATH

    async def mounted(self, request: MountedRequest, offer: Offer) -> None:
        await self._server.answer(request, offer)

    async def listen(self, offer: Offer, *, task_status: TaskStatus[None]) -> None:
        await self._server.listen(task_status=task_status)
