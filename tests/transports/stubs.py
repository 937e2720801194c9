"""What the transports' tests have in common: dial requests, and stand-ins for seams that a test does not use."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, cast

from anyio.abc import TaskGroup

from tunnelkit.handshake import Grant, Handshake
from tunnelkit.heads import Fields
from tunnelkit.net.stream import ByteStream
from tunnelkit.proof import FIRST_EPOCH, KEY_SIZE, Prover
from tunnelkit.transports.answers import Target
from tunnelkit.transports.base import Dialler, DialRequest, ForwardProxy
from tunnelkit.transports.longpoll.wire import fixed_fields, numbered_fields

__all__ = ["NO_TASKS", "PROVER", "By", "NoPieces", "dial_request"]

PROVER: Final = Prover(bytes(KEY_SIZE), "n-1", FIRST_EPOCH)

# For transports that start no task: one that does fails at once.
NO_TASKS: Final = cast(TaskGroup, None)


class By:
    """A dialler that calls a function."""

    def __init__(self, dial: Callable[..., Awaitable[ByteStream]]) -> None:
        self._dial = dial

    async def __call__(self, host: str, port: int, *, tls: bool) -> ByteStream:
        return await self._dial(host, port, tls=tls)

    def forward_proxy(self, host: str, port: int) -> ForwardProxy | None:
        return None


def dial_request(
    handshake: Handshake,
    dialler: Dialler,
    *,
    url: str = "http://tunnel.example",
    timeout: float = 5,
    user_agent: str = "",
    tasks: TaskGroup = NO_TASKS,
    prover: Callable[[Grant], Prover] = lambda grant: PROVER,
) -> DialRequest:
    return DialRequest(
        url=url,
        handshake=handshake,
        dialler=dialler,
        timeout=timeout,
        user_agent=user_agent,
        tasks=tasks,
        prover=prover,
    )


def request_fields(
    target: Target, connection_id: str, number: int, proof: bytes, *, length: int = 0, user_agent: str = ""
) -> Fields:
    """A long-poll request's."""
    return [*fixed_fields(target, user_agent), *numbered_fields(connection_id, number, proof, length)]


class NoPieces:
    """What a ``MountedRequest`` has for responses in pieces, for transports that send none."""

    gone = False

    async def start(self, status: int, fields: Fields) -> None:
        raise AssertionError("a response in pieces")

    async def send(self, *pieces: bytes) -> None:
        raise AssertionError("a response in pieces")

    def send_now(self, *pieces: bytes) -> bool:
        raise AssertionError("a response in pieces")

    def respond_now(self, status: int, fields: Fields, body: bytes = b"") -> bool:
        raise AssertionError("nobody waits")

    async def finish(self) -> None:
        raise AssertionError("a response in pieces")

    async def wait(self) -> None:
        raise AssertionError("nothing to wait for")

    def wake(self) -> None:
        raise AssertionError("nobody waits")
