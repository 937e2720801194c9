"""What the checks of the conformance kit are made of."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import anyio
from anyio.lowlevel import checkpoint

from ...errors import ConnectionLost, LocalProtocolError
from ...transports.base import Connection
from ..wires import Wires

__all__ = [
    "MOST_BUFFERED",
    "PATIENCE",
    "Check",
    "Checks",
    "Clog",
    "ContractBroken",
    "NotApplicable",
    "clogged",
    "deliver",
    "expect",
    "expect_lost",
    "pump",
    "receive_all",
    "receive_until",
    "within",
]

# Seconds that anything may take which the contract promises. Generous: the machine may be slow and shared.
PATIENCE: Final = 10.0

# What one direction may hold, in this process and in kernels, before its sender is held up.
MOST_BUFFERED: Final = 64 * 1024 * 1024

# A sender that got no further for so long is held up.
_QUIET: Final = 0.1

_Run: TypeAlias = Callable[[Wires], Awaitable[None]]


class ContractBroken(AssertionError):
    """A transport did not keep its contract. ``check`` and ``promise`` name the part of it."""

    def __init__(self, problem: str, check: str = "", promise: str = "") -> None:
        self.problem = problem
        self.check = check
        self.promise = promise
        super().__init__(f"{check}: {problem}. The contract: {promise}" if check else problem)

    def of(self, check: Check) -> ContractBroken:
        """The same, found by ``check``."""
        return ContractBroken(self.problem, check.name, check.promise)


class NotApplicable(Exception):
    """A check says nothing of this transport. ``reason`` tells why."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Check:
    """One promise of the contract, and what finds out whether it is kept."""

    name: str
    promise: str
    run: _Run = field(repr=False)

    def __str__(self) -> str:
        return self.name


class Checks(list[Check]):
    """Checks in their order. Decorates functions, whose names theirs become and whose docstrings the promises."""

    def add(self, function: _Run) -> _Run:
        promise = " ".join((function.__doc__ or "").split()).removesuffix(".")
        self.append(Check(function.__name__, promise, function))
        return function


def expect(condition: object, problem: str) -> None:
    if not condition:
        raise ContractBroken(problem)


@contextmanager
def within(what: str, seconds: float = PATIENCE) -> Iterator[None]:
    """``what`` is to happen inside, in time."""
    with anyio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise ContractBroken(f"{what}: not within {seconds:g} s")


async def expect_lost(call: Awaitable[object], what: str) -> ConnectionLost:
    """``what`` is the call, in words: it is to raise ``ConnectionLost``, in time."""
    with within(f"{what} should have raised ConnectionLost"):
        try:
            result = await call
        except ConnectionLost as lost:
            return lost
        raise ContractBroken(f"{what} should have raised ConnectionLost, and returned {_short(result)}")
    raise AssertionError("unreachable")


async def pump(connection: Connection, messages: list[bytes]) -> None:
    """Send as the session's link does: wait until it is ready, then send. Every step in time."""
    for number, message in enumerate(messages):
        with within(f"message {number + 1} of {len(messages)} ({len(message)} bytes) should have been taken"):
            await connection.ready()
            await connection.send(message)


async def receive_until(connection: Connection, wanted: bytes) -> None:
    """``wanted`` comes; only an unordered connection may give others, which it repeats, before it."""
    with within(f"a message of {len(wanted)} bytes should have arrived"):
        while (message := await connection.receive()) != wanted:
            expect(not connection.ordered, f"a message of {len(wanted)} bytes was sent and {_short(message)} arrived")


async def deliver(sender: Connection, receiver: Connection, message: bytes) -> None:
    """``message`` is sent, and arrives. Both ends are at it at the same time: no connection need hold what nobody
    waits for."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pump, sender, [message])
        await receive_until(receiver, message)


async def receive_all(connection: Connection) -> tuple[list[bytes], ConnectionLost]:
    """Every message up to the end, and how it ended; each in time."""
    got: list[bytes] = []
    while True:
        with within(f"the connection should have ended, {len(got)} messages came"):
            try:
                got.append(await connection.receive())
            except ConnectionLost as end:
                return got, end


def _short(value: object) -> str:
    if isinstance(value, bytes):
        return f"{len(value)} bytes beginning with {value[:16]!r}"
    return repr(value)[:100]


class Clog:
    """A sender that goes on until the connection takes no more, since its peer does not read: it is then stuck in
    ``ready`` or ``send``."""

    def __init__(self, connection: Connection) -> None:
        self.message = b"x" * connection.max_message
        self.count = 0  # messages given to ``send``
        self.sending = False
        self.end: ConnectionLost | None = None
        self.ended = anyio.Event()
        self.scope = anyio.CancelScope()
        self._connection = connection
        self._stopped = False

    async def run(self) -> None:
        with self.scope:
            try:
                await self._send()
            except ConnectionLost as end:
                self.end = end
            except LocalProtocolError as exc:
                raise ContractBroken(f"a message of max_message bytes was refused: {exc}") from exc
        self.ended.set()

    async def _send(self) -> None:
        while self.count * len(self.message) < MOST_BUFFERED:
            await checkpoint()
            await self._connection.ready()
            if self._stopped:
                return
            self.count += 1
            self.sending = True
            await self._connection.send(self.message)
            self.sending = False
        raise ContractBroken(
            f"{self.count} messages, more than {MOST_BUFFERED - 1} bytes, were taken though the peer reads nothing: "
            "ready() has to wait"
        )

    async def settle(self) -> None:
        """Wait until no more is taken."""
        count = -1
        while count != self.count and not self.ended.is_set():
            count = self.count
            await anyio.sleep(_QUIET)

    def stop(self) -> None:
        """Send nothing more after what is being sent: the peer is about to read."""
        self._stopped = True


@asynccontextmanager
async def clogged(connection: Connection) -> AsyncIterator[Clog]:
    """``connection`` with a sender that is stuck."""
    clog = Clog(connection)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clog.run)
        await clog.settle()
        yield clog
        clog.scope.cancel()
