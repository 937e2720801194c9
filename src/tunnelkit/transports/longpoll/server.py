"""The server half of long-poll: the table of connections, and the tasks that answer their requests.

A request is judged by its head alone: nothing is read or allocated for one whose proof is wrong. Its task then waits
in ``MountedRequest.wait`` until the connection's state machines have an answer for it.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeAlias

import anyio
from anyio.abc import TaskGroup, TaskStatus

from ...config import Limits
from ...errors import ConfigError, HeadError, StreamBroken
from ...handshake import Refusal
from ...net.timers import Timers
from ...proof import Prover
from ..answers import Answer, refusal_answer
from ..base import Accepted, MountedRequest, Offer
from .polls import Poll
from .posts import Post
from .records import END, KEEP_ALIVE, encode_record
from .server_connection import UNKNOWN, ServerConnection
from .wire import (
    PROBE_GAP,
    PROBE_MESSAGE,
    PURPOSES,
    STREAM_ANSWER_FIELDS,
    Asked,
    Op,
    answer_fields,
    check_open,
    check_request,
    opened_fields,
    refused,
)

__all__ = ["CONNECTIONS_PER_SESSION", "LongPollServer"]

logger = logging.getLogger("tunnelkit.server")

# The table's bound: a session has one connection, and for a moment its successor.
CONNECTIONS_PER_SESSION: Final = 2

# A post up to this size is read without being cancellable: the front reads as much of anybody's body in advance.
_SMALL: Final = 16 * 1024

_PROBE: Final = b"".join(encode_record(PROBE_MESSAGE))

_Handler: TypeAlias = Callable[[MountedRequest, ServerConnection, Asked], Awaitable[None]]

_NO_OP: Final = refused(404, "unknown_transport", "long-poll has /open, /down, /up, /probe and /close")
_FULL: Final = refused(503, "overloaded", "the server is full", retry_after=10)
_BAD_PROOF: Final = refused(403, "bad_proof", "the proof of this request is wrong")
_OUT_OF_WINDOW: Final = refused(409, "out_of_window", "the number of this request is too old, or too far ahead")
_NO_BODY: Final = refused(400, "bad_request", "only posts have a body")


class LongPollServer:
    """One at a time may ``listen``; ``answer`` is for the requests that come meanwhile."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._timers = Timers(logger)
        self._tasks: TaskGroup | None = None
        self._connections: dict[str, ServerConnection] = {}
        self._openings = 0
        self._handlers: Mapping[str, tuple[Op, _Handler]] = {
            str(op): (op, handler)
            for op, handler in (
                (Op.DOWN, self._down),
                (Op.UP, self._up),
                (Op.PROBE, self._probe),
                (Op.CLOSE, self._close),
            )
        }

    def __len__(self) -> int:
        """The connections there are."""
        return len(self._connections)

    async def listen(self, *, task_status: TaskStatus[None]) -> None:
        """Keep time, and serve connections, until cancelled."""
        if self._tasks is not None:
            raise ConfigError("transports", "this LongPollTransport has a server already", "give each server its own")
        async with anyio.create_task_group() as tasks:
            await tasks.start(self._timers.run)
            self._tasks = tasks
            task_status.started()
            try:
                await anyio.sleep_forever()
            finally:
                self._tasks = None
                for connection in list(self._connections.values()):
                    connection.abort()

    async def answer(self, request: MountedRequest, offer: Offer) -> None:
        """Answer one request, whatever it is. Returns early when whoever asked is gone."""
        try:
            if request.path == Op.OPEN:
                await self._open(request, offer)
            else:
                await self._dispatch(request)
        except StreamBroken:
            return

    # -- opening -------------------------------------------------------------------------------

    async def _open(self, request: MountedRequest, offer: Offer) -> None:
        handshake = check_open(request.method, request.fields)
        if isinstance(handshake, Answer):
            await _respond(request, handshake)
            return
        tasks = self._tasks
        places = CONNECTIONS_PER_SESSION * self._limits.max_sessions
        if tasks is None or len(self._connections) + self._openings >= places:
            await _respond(request, _FULL)
            return
        self._openings += 1
        try:
            answer = await offer(handshake, request.peer)
        finally:
            self._openings -= 1
        if isinstance(answer, Refusal):
            await _respond(request, refusal_answer(answer))
        else:
            await self._begin(request, answer, tasks)

    async def _begin(self, request: MountedRequest, accepted: Accepted, tasks: TaskGroup) -> None:
        connection = self._make(accepted.prover)
        try:
            await request.respond(200, opened_fields(accepted.grant, connection.id))
            if self._tasks is not tasks:
                raise StreamBroken("the server is gone")
        except BaseException:
            connection.abort()
            accepted.abandon()
            raise
        tasks.start_soon(self._serve, accepted, connection)

    def _make(self, prover: Prover) -> ServerConnection:
        """Requests for it may come as soon as its id is told."""
        connection = ServerConnection(
            secrets.token_hex(16), prover, self._limits, self._timers, self._connections.__delitem__
        )
        self._connections[connection.id] = connection
        return connection

    async def _serve(self, accepted: Accepted, connection: ServerConnection) -> None:
        try:
            await accepted.serve(connection)
        except Exception:
            # One session's misfortune must not end the task group of all.
            logger.exception("serving a long-poll connection failed")
        finally:
            connection.abort()

    # -- requests of a connection --------------------------------------------------------------

    async def _dispatch(self, request: MountedRequest) -> None:
        op, handler = self._handlers.get(request.path, (None, None))
        if op is None or handler is None:
            await _respond(request, _NO_OP)
            return
        asked = check_request(request.method, request.fields, self._limits.poll_body)
        if isinstance(asked, Answer):
            await _respond(request, asked)
            return
        connection = self._connections.get(asked.connection_id)
        if connection is None:
            await _respond(request, UNKNOWN)
        elif not connection.prover.check(asked.proof, PURPOSES[op], asked.number, asked.length):
            await _respond(request, _BAD_PROOF)
        elif asked.length and op is not Op.UP:
            await _respond(request, _NO_BODY)
        else:
            await handler(request, connection, asked)

    async def _probe(self, request: MountedRequest, connection: ServerConnection, asked: Asked) -> None:
        """Two pieces with time between them: how they arrive tells whether something gathers answers."""
        if asked.number <= connection.probes:
            await _respond(request, _OUT_OF_WINDOW)
            return
        connection.probes = asked.number
        connection.heard()
        await request.start(200, [*answer_fields(asked.number), *STREAM_ANSWER_FIELDS])
        await request.send(_PROBE)
        await anyio.sleep(PROBE_GAP)
        await request.send(_PROBE + END)
        await request.finish()

    async def _close(self, request: MountedRequest, connection: ServerConnection, asked: Asked) -> None:
        connection.peer_closed(asked.code, asked.reason)
        await request.respond(200, answer_fields(asked.number))

    # -- down ----------------------------------------------------------------------------------

    async def _down(self, request: MountedRequest, connection: ServerConnection, asked: Asked) -> None:
        task = _PollTask(request, connection)
        poll = connection.poll_arrived(asked, task.wake)
        if poll is None:
            await _respond(request, _OUT_OF_WINDOW)
            return
        task.poll = poll
        complete = False
        try:
            if poll.stream and not poll.settled:
                complete = await self._stream(task, connection, poll)
            else:
                complete = await self._answer_poll(task, poll)
        finally:
            task.poll = None  # the two hold each other, and the request's head with them
            if not task.answered:
                connection.poll_left(poll, complete=complete)

    async def _answer_poll(self, task: _PollTask, poll: Poll) -> bool:
        """True when the answer is written, as far as this end can know."""
        request = task.request
        while not poll.settled:
            if request.gone:
                return False
            await task.wait()
        if task.answered:
            return True
        if poll.refusal is not None:
            await _respond(request, poll.refusal)
        else:
            await request.respond(200, answer_fields(poll.number), poll.answer or b"")
        return True

    async def _stream(self, task: _PollTask, connection: ServerConnection, poll: Poll) -> bool:
        request = task.request
        await request.start(200, [*answer_fields(poll.number), *STREAM_ANSWER_FIELDS])
        # Some proxies hold a head back until its body begins.
        await request.send(KEEP_ALIVE)
        while poll.refusal is None:
            if poll.message is not None or poll.keep_alive:
                await self._write_record(task, connection, poll)
            elif poll.end:
                await request.send(END)
                await request.finish()
                return True
            elif request.gone:
                return False
            else:
                await task.wait()
        return False

    async def _write_record(self, task: _PollTask, connection: ServerConnection, poll: Poll) -> None:
        pieces = encode_record(poll.message) if poll.message is not None else (KEEP_ALIVE,)
        begun, task.begun = task.begun, False
        await task.request.send(*(() if begun else pieces))
        connection.poll_written(poll, sum(map(len, pieces)))

    # -- up ------------------------------------------------------------------------------------

    async def _up(self, request: MountedRequest, connection: ServerConnection, asked: Asked) -> None:
        task = _PostTask(request)
        post = connection.post_arrived(asked, task.wake)
        if post is None:
            await _respond(request, _OUT_OF_WINDOW)
            return
        task.post = post
        try:
            await self._take(task, connection, post)
        finally:
            connection.post_left(post)
            task.post = None  # the two hold each other, and the request's head and body with them

    async def _take(self, task: _PostTask, connection: ServerConnection, post: Post) -> None:
        request = task.request
        while post.reserved or not post.settled:
            if post.reserved:
                await self._read(task, connection, post)
            elif request.gone:
                return
            else:
                await task.wait()
        if post.refusal is not None:
            await _respond(request, post.refusal)
        else:
            await request.respond(200, answer_fields(post.number))

    async def _read(self, task: _PostTask, connection: ServerConnection, post: Post) -> None:
        body = await task.body(post.length)
        if body is None:
            return
        if len(body) != post.length:  # no HTTP server of ours lets that pass; the proof covers the length
            raise HeadError(400, "bad_request", "the body is not as long as its head says")
        connection.post_read(post, body)


class _RequestTask:
    """The task that carries one request: woken only where it waits, since a wake for nothing costs it a turn of the
    loop."""

    __slots__ = ("request", "waits")

    def __init__(self, request: MountedRequest) -> None:
        self.request = request
        self.waits = False

    async def wait(self) -> None:
        self.waits = True
        try:
            await self.request.wait()
        finally:
            self.waits = False


class _PollTask(_RequestTask):
    """A poll's: it sleeps on where whoever has a message writes it as the answer, which costs no turn at all."""

    __slots__ = ("_connection", "answered", "begun", "poll")

    def __init__(self, request: MountedRequest, connection: ServerConnection) -> None:
        super().__init__(request)
        self._connection = connection
        self.poll: Poll | None = None
        self.answered = False  # and the connection knows that it is
        self.begun = False  # the record that is to be written is, but not all of it is with the socket

    def wake(self) -> None:
        if self.waits and not self._answer():
            self.request.wake()

    def _answer(self) -> bool:
        """True when nothing is left for the task."""
        poll = self.poll
        if self.answered or poll is None or self.begun:
            return self.answered
        if poll.stream:
            return self._send_record(poll)
        if poll.answer is None:
            return False
        self.answered = self.request.respond_now(200, answer_fields(poll.number), poll.answer)
        if self.answered:
            self._connection.poll_left(poll, complete=True)
        return self.answered

    def _send_record(self, poll: Poll) -> bool:
        pieces = encode_record(poll.message) if poll.message is not None and poll.refusal is None else ()
        if len(pieces) != 1 or self.request.gone:
            return False
        self.begun = not self.request.send_now(*pieces)
        if not self.begun:
            self._connection.poll_written(poll, len(pieces[0]))
        return not (self.begun or poll.end or self.request.gone)


class _PostTask(_RequestTask):
    """A post's: taken out of a body that nobody wants any more."""

    __slots__ = ("_scope", "post")

    def __init__(self, request: MountedRequest) -> None:
        super().__init__(request)
        self.post: Post | None = None
        self._scope: anyio.CancelScope | None = None

    def wake(self) -> None:
        if self.waits:
            self.request.wake()
        elif self._scope is not None and self.post is not None and not self.post.reserved:
            self._scope.cancel()

    async def body(self, length: int) -> bytes | None:
        """None when it was not worth waiting for: a newer request brings it, or the connection ended."""
        if length <= _SMALL:
            return await self.request.body(length)
        with anyio.CancelScope() as self._scope:
            return await self.request.body(length)
        return None


async def _respond(request: MountedRequest, answer: Answer) -> None:
    await request.respond(answer.status, answer.fields, answer.body)
