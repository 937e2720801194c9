"""The server half of long-poll over a real front: what each request is answered, and what a hostile one cannot do."""

from __future__ import annotations

import gc
import json
import logging
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import pytest
from anyio.abc import TaskStatus
from anyio.lowlevel import checkpoint

from tunnelkit.config import DEFAULT_LIMITS, Limits
from tunnelkit.errors import ConfigError, ConnectionLost, LocalProtocolError, StreamBroken
from tunnelkit.handshake import Grant, Handshake, Refusal, refusal_from_problem
from tunnelkit.heads import Fields, RequestHead, field_values
from tunnelkit.http.caller import CallerConnection, FrontRequest
from tunnelkit.http.client import simple_request
from tunnelkit.http.mounted import Mounted
from tunnelkit.net.memory import MemoryStream
from tunnelkit.net.peer import Peer
from tunnelkit.transports.answers import Target
from tunnelkit.transports.base import Accepted, Connection
from tunnelkit.transports.longpoll import LongPollTransport
from tunnelkit.transports.longpoll import server as longpoll_server
from tunnelkit.transports.longpoll import server_connection as longpoll_server_connection
from tunnelkit.transports.longpoll import wire as longpoll_wire
from tunnelkit.transports.longpoll.records import END, RecordReader, encode_record
from tunnelkit.transports.longpoll.wire import (
    MOUNT_PATH,
    PURPOSES,
    Op,
    close_fields,
    closed_reason,
    is_own_answer,
    is_streamed,
    open_fields,
    parse_opened,
    poll_fields,
    target_path,
)

from ..http.helpers import Served, read_until, serving
from .conformance import lost, pump
from .stubs import PROVER, request_fields

pytestmark = pytest.mark.anyio

TARGET = Target.parse("http://tunnel.example")
HANDSHAKE = Handshake(token="0123456789abcdef")
GRANT = Grant(
    session_id="n-1", resume_key=bytes(32), replay_window=8192, stream_floor=1024, max_streams=9, grace=30.0
)
LARGE = bytes(range(256)) * 4096  # 1 MiB: the largest
QUICK = replace(DEFAULT_LIMITS, poll_hold_idle=0.05, poll_hold_active=0.05, poll_absence=0.1)
ONE_BODY = replace(DEFAULT_LIMITS, early_post_limit=len(LARGE))


class Acceptance:
    """An ``Accepted`` whose connection is the test's own."""

    def __init__(self) -> None:
        self.grant = GRANT
        self.prover = PROVER
        self.abandoned = False
        self.connection: Connection | None = None
        self.error: Exception | None = None
        self._over = anyio.Event()

    async def serve(self, connection: Connection) -> None:
        self.connection = connection
        if self.error is not None:
            raise self.error
        await self._over.wait()

    def abandon(self) -> None:
        self.abandoned = True

    def over(self) -> None:
        self._over.set()


class Answered:
    def __init__(self, status: int, fields: Fields, body: bytes) -> None:
        self.status = status
        self.fields = fields
        self.body = body
        self.refusal = refusal_from_problem(status, fields, body)

    @property
    def code(self) -> str:
        return self.refusal.code if self.refusal is not None else ""


class Client:
    """The other half, by hand: requests as a test wants them, each on a TCP connection of its own."""

    def __init__(self, served: Served, transport: LongPollTransport) -> None:
        self.served = served
        self.transport = transport
        self.accepted = Acceptance()
        self.answer: Accepted | Refusal = self.accepted
        self.id = ""
        self.seen: list[Handshake] = []

    @property
    def connection(self) -> Connection:
        assert self.accepted.connection is not None
        return self.accepted.connection

    async def offer(self, handshake: Handshake, peer: Peer) -> Accepted | Refusal:
        self.seen.append(handshake)
        return self.answer

    async def ask(self, op: Op | str, fields: Fields, body: bytes = b"", method: bytes = b"POST") -> Answered:
        head, answer = await simple_request(
            self.served.connect(), self.head(op, fields, method), body, max_body=1 << 21
        )
        return Answered(head.status, head.fields, answer)

    def head(self, op: Op | str, fields: Fields, method: bytes = b"POST") -> RequestHead:
        path = target_path(TARGET, op) if isinstance(op, Op) else op
        return RequestHead(method, path.encode(), fields)

    def fields(self, op: Op, number: int, length: int = 0) -> Fields:
        proof = PROVER.make(PURPOSES[op], number, length)
        return request_fields(TARGET, self.id, number, proof, length=length)

    async def open(self) -> Answered:
        answered = await self.ask(Op.OPEN, open_fields(TARGET, HANDSHAKE, ""))
        if answered.status == 200:
            grant, self.id = parse_opened(answered.fields)
            assert grant == GRANT
            while self.accepted.connection is None and self.accepted.error is None:
                await checkpoint()
        return answered

    async def poll(self, number: int, hold: float = 25.0, *, stream: bool = False) -> Answered:
        return await self.ask(Op.DOWN, [*self.fields(Op.DOWN, number), *poll_fields(hold, stream=stream)])

    async def post(self, number: int, body: bytes = b"") -> Answered:
        return await self.ask(Op.UP, self.fields(Op.UP, number, len(body)), body)

    async def send_head(self, op: Op, fields: Fields) -> MemoryStream:
        """A request's head by hand, on a stream that the test keeps."""
        stream = self.served.connect()
        lines = [b"POST %s HTTP/1.1" % target_path(TARGET, op).encode()] + [b"%s: %s" % field for field in fields]
        await stream.send(b"\r\n".join(lines) + b"\r\n\r\n")
        return stream


@asynccontextmanager
async def client(
    limits: Limits = DEFAULT_LIMITS, *, opened: bool = True, half_close_answers: bool = False
) -> AsyncIterator[Client]:
    transport = LongPollTransport(limits=limits)
    mount = "/_tunnel" + transport.mount_path()

    async def handler(request: FrontRequest) -> None:
        path = request.head.target.decode()
        assert path.startswith(mount)
        await transport.mounted(Mounted(request, path.removeprefix(mount)), made.offer)

    async def listen(*, task_status: TaskStatus[None]) -> None:
        await transport.listen(made.offer, task_status=task_status)

    async with serving(handler, half_close_answers=half_close_answers) as served, anyio.create_task_group() as tasks:
        made = Client(served, transport)
        await tasks.start(listen)
        if opened:
            assert (await made.open()).status == 200
        yield made
        tasks.cancel_scope.cancel()


class Started:
    """A call in a task, and what came of it."""

    def __init__(self) -> None:
        self.answered: Answered | None = None

    async def run(self, call: Callable[..., object], *args: object) -> None:
        self.answered = await call(*args)  # type: ignore[misc]


def start(tasks: anyio.abc.TaskGroup, call: Callable[..., object], *args: object) -> Started:
    started = Started()
    tasks.start_soon(started.run, call, *args)
    return started


async def settled() -> None:
    await anyio.wait_all_tasks_blocked()


# -- opening -------------------------------------------------------------------------------------


async def test_an_opening_gives_the_grant_and_an_id() -> None:
    async with client(opened=False) as end:
        answered = await end.open()
        assert answered.status == 200
        assert end.seen == [HANDSHAKE]
        assert field_values(answered.fields, b"cache-control") == [b"no-store, no-transform"]
        assert end.connection.transport == "longpoll"
        assert not end.connection.ordered
        assert not end.connection.wants_pings
        assert end.connection.at_once == 1
        assert end.connection.max_message == DEFAULT_LIMITS.poll_body
        assert repr(end.connection) == "<ServerConnection longpoll open>"


async def test_ids_are_random() -> None:
    async with client() as end:
        first = end.id
        await end.open()
        assert len({first, end.id}) == 2


async def test_a_refusal_is_told_as_any_transports() -> None:
    async with client(opened=False) as end:
        end.answer = Refusal(status=429, code="too_many_clients", detail="one already", retry_after=3)
        answered = await end.open()
        assert answered.refusal == end.answer


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ((b"Tunnelkit-Longpoll", b"2"), 400, "version"),
        ((b"Tunnelkit-Longpoll", None), 400, "version"),
        ((b"Tunnelkit-Token", None), 400, "bad_request"),
        ((b"Origin", b"https://evil.example"), 403, "forbidden"),
        ((b"Origin", b"null"), 403, "forbidden"),
    ],
)
async def test_a_wrong_opening_is_refused_unasked(change: tuple[bytes, bytes | None], status: int, code: str) -> None:
    name, value = change
    fields = [field for field in open_fields(TARGET, HANDSHAKE, "") if field[0] != name]
    async with client(opened=False) as end:
        answered = await end.ask(Op.OPEN, [*fields, *([(name, value)] if value else [])])
        assert (answered.status, answered.code) == (status, code)
        assert not end.seen


@pytest.mark.parametrize("op", Op)
async def test_only_post_is_answered(op: Op) -> None:
    async with client() as end:
        answered = await end.ask(op, [(b"Host", b"a")], method=b"GET")
        assert (answered.status, answered.code) == (405, "")
        assert field_values(answered.fields, b"allow") == [b"POST"]


async def test_what_is_not_there() -> None:
    async with client() as end:
        for path in (MOUNT_PATH, MOUNT_PATH + "/", MOUNT_PATH + "/open/", MOUNT_PATH + "/Down"):
            answered = await end.ask("/_tunnel" + path, [(b"Host", b"a"), (b"Content-Length", b"0")])
            assert (answered.status, answered.code) == (404, "unknown_transport")


async def test_the_table_has_a_bound() -> None:
    async with client(replace(DEFAULT_LIMITS, max_sessions=1), opened=False) as end:
        for _ in range(longpoll_server.CONNECTIONS_PER_SESSION):
            assert (await end.open()).status == 200
        answered = await end.open()
        assert (answered.status, answered.code) == (503, "overloaded")
        assert len(end.seen) == longpoll_server.CONNECTIONS_PER_SESSION
        end.connection.abort()
        assert (await end.open()).status == 200


async def test_an_opening_whose_caller_left_is_abandoned() -> None:
    async with client(opened=False) as end:
        stream: MemoryStream | None = None
        accepted = end.accepted

        async def offer(handshake: Handshake, peer: Peer) -> Accepted | Refusal:
            assert stream is not None
            stream.abort()
            return accepted

        end.offer = offer  # type: ignore[method-assign]
        stream = await end.send_head(Op.OPEN, open_fields(TARGET, HANDSHAKE, ""))
        while not accepted.abandoned:
            await checkpoint()
        assert accepted.connection is None
        assert not len(end.transport._server)


async def test_a_session_that_fails_costs_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    async with client(opened=False) as end:
        end.accepted.error = RuntimeError("a bug")
        with caplog.at_level(logging.ERROR, "tunnelkit.server"):
            await end.open()
            while len(end.transport._server):
                await checkpoint()
        assert "a bug" in caplog.text
        end.accepted.error = None
        assert (await end.open()).status == 200


async def test_one_transport_serves_one_server() -> None:
    async with client() as end, anyio.create_task_group() as tasks:
        with pytest.raises(ConfigError):
            await end.transport.listen(end.offer, task_status=anyio.TASK_STATUS_IGNORED)
        tasks.cancel_scope.cancel()


async def test_without_a_listener_nothing_opens() -> None:
    async with client(opened=False) as end:
        end.transport._server._tasks = None
        assert (await end.open()).code == "overloaded"


async def test_an_opening_that_the_server_did_not_outlive_is_abandoned() -> None:
    async with client(opened=False) as end:
        accepted = end.accepted

        async def offer(handshake: Handshake, peer: Peer) -> Accepted | Refusal:
            end.transport._server._tasks = None
            return accepted

        end.offer = offer  # type: ignore[method-assign]
        await end.ask(Op.OPEN, open_fields(TARGET, HANDSHAKE, ""))
        await settled()
        assert accepted.abandoned
        assert not len(end.transport._server)


@pytest.mark.parametrize("mode", ["", "fast"])
def test_an_unknown_mode_is_refused(mode: str) -> None:
    with pytest.raises(ConfigError, match="strict"):
        LongPollTransport(mode=mode)


# -- who asks ------------------------------------------------------------------------------------

OPS = [op for op in Op if op is not Op.OPEN]


@pytest.mark.parametrize("op", OPS)
async def test_a_request_must_prove_whose_it_is(op: Op) -> None:
    async with client() as end:
        length = 3 if op is Op.UP else 0
        body = b"abc"[:length]
        good = end.fields(op, 1, length)

        async def code(*changes: tuple[bytes, bytes | None]) -> tuple[int, str]:
            names = [name for name, _ in changes]
            fields = [field for field in good if field[0] not in names]
            answered = await end.ask(
                op, fields + [(name, value) for name, value in changes if value is not None], body
            )
            return answered.status, answered.code

        other = PROVER.make(PURPOSES[op], 2, length).hex().encode()
        foreign = next(PURPOSES[other] for other in OPS if other is not op)
        wrong = PROVER.make(foreign, 1, length).hex().encode()
        assert await code((b"Tunnelkit-Proof", bytes(32).hex().encode())) == (403, "bad_proof")
        assert await code((b"Tunnelkit-Proof", other)) == (403, "bad_proof")
        assert await code((b"Tunnelkit-Proof", wrong)) == (403, "bad_proof")
        assert await code((b"Tunnelkit-Number", b"2")) == (403, "bad_proof")
        assert await code((b"Tunnelkit-Connection", b"0" * 32)) == (410, "unknown_connection")
        for name, values in (
            (b"Tunnelkit-Proof", (None, b"", b"0" * 63, b"F" * 64)),
            (b"Tunnelkit-Number", (None, b"", b"0", b"01", b"-1", b"1 ", b"1" * 19)),
            (b"Tunnelkit-Connection", (None, b"", b"A" * 32, b"0" * 33)),
        ):
            for value in values:
                status = 200 if value == b"1 " else 400  # HTTP drops white space around a value
                if status == 400:
                    assert await code((name, value)) == (400, "bad_request"), value
        # Nothing of all that changed anything: the first number is still to come.
        assert len(end.transport._server) == 1


async def test_a_field_that_stands_twice_is_none() -> None:
    async with client() as end:
        fields = [*end.fields(Op.UP, 1, 1), (b"tunnelkit-number", b"1")]
        assert (await end.ask(Op.UP, fields, b"x")).code == "bad_request"


@pytest.mark.parametrize("op", [Op.DOWN, Op.PROBE, Op.CLOSE])
async def test_only_posts_have_a_body(op: Op) -> None:
    async with client() as end:
        answered = await end.ask(op, end.fields(op, 1, 2), b"xx")
        assert (answered.status, answered.code) == (400, "bad_request")


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ([(b"Transfer-Encoding", b"chunked")], 411, "length_required"),
        ([(b"Content-Length", b"1"), (b"Expect", b"100-continue")], 411, "length_required"),
        ([], 411, "length_required"),
        ([(b"Content-Length", b"1048577")], 413, "too_large"),
        ([(b"Content-Length", b"9" * 15)], 413, "too_large"),
    ],
)
async def test_a_body_is_refused_by_its_head(changes: Fields, status: int, code: str) -> None:
    async with client() as end:
        fields = [field for field in end.fields(Op.UP, 1, 1) if field[0] != b"Content-Length"]
        stream = await end.send_head(Op.UP, fields + changes)
        answer = await read_until(stream, b"}\n")
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == code


async def test_no_body_is_waited_for_before_its_proof_was_checked() -> None:
    async with client() as end:
        fields = [field for field in end.fields(Op.UP, 1, 1 << 20) if field[0] != b"Tunnelkit-Proof"]
        stream = await end.send_head(Op.UP, [*fields, (b"Tunnelkit-Proof", b"0" * 64)])
        assert (await read_until(stream, b"}\n")).startswith(b"HTTP/1.1 403 ")
        stream = await end.send_head(Op.UP, end.fields(Op.UP, 17, 1 << 20))
        assert (await read_until(stream, b"}\n")).startswith(b"HTTP/1.1 409 ")


# -- down ----------------------------------------------------------------------------------------


async def test_an_answer_is_one_message() -> None:
    async with client() as end:
        for number, message in enumerate((b"m", b"x" * 4096, LARGE), 1):
            async with anyio.create_task_group() as tasks:
                poll = start(tasks, end.poll, number)
                await pump(end.connection, [message])
            assert poll.answered is not None
            assert is_own_answer(poll.answered.status, poll.answered.fields, number)
            assert poll.answered.body == message
            assert not is_streamed(poll.answered.fields)


async def test_ready_waits_for_a_poll_and_tells_a_size() -> None:
    async with client() as end, anyio.create_task_group() as tasks:
        sizes: list[int] = []

        async def ready() -> None:
            sizes.append(await end.connection.ready())

        tasks.start_soon(ready)
        await settled()
        assert sizes == []
        tasks.start_soon(end.poll, 1)
        await settled()
        assert sizes == [DEFAULT_LIMITS.poll_body]
        tasks.cancel_scope.cancel()


async def test_a_message_above_the_maximum_is_refused() -> None:
    async with client() as end:
        with pytest.raises(LocalProtocolError):
            await end.connection.send(LARGE + b"x")


async def test_a_message_whose_poll_left_goes_with_the_next() -> None:
    async with client() as end, anyio.create_task_group() as tasks:
        stream = await end.send_head(Op.DOWN, end.fields(Op.DOWN, 1))
        await end.connection.ready()
        stream.abort()
        await settled()
        tasks.start_soon(end.connection.send, b"message")
        assert (await end.poll(1)).body == b"message"


async def test_an_answer_that_was_lost_is_repeated() -> None:
    async with client() as end, anyio.create_task_group() as tasks:
        stream = await end.send_head(Op.DOWN, end.fields(Op.DOWN, 1))
        await pump(end.connection, [b"message"])
        stream.abort()
        for _ in range(2):
            assert (await end.poll(1)).body == b"message"
        poll = start(tasks, end.poll, 2)
        await pump(end.connection, [b"next"])
        while poll.answered is None:
            await checkpoint()
        assert poll.answered.body == b"next"
        assert (await end.poll(1)).code == "out_of_window"
        assert (await end.poll(4)).code == "out_of_window"


async def test_polls_that_overlap() -> None:
    async with client() as end, anyio.create_task_group() as tasks:
        first = start(tasks, end.poll, 1)
        await settled()
        again = start(tasks, end.poll, 1)
        await settled()
        assert first.answered is not None
        assert (first.answered.status, first.answered.code) == (409, "poll_replaced")
        second = start(tasks, end.poll, 2)
        await settled()
        assert again.answered is not None
        assert (again.answered.status, again.answered.body) == (200, b"")
        await pump(end.connection, [b"message"])
        await settled()
        assert second.answered is not None
        assert second.answered.body == b"message"


async def test_a_hold_ends_with_nothing() -> None:
    async with client() as end:
        assert (await end.poll(1, 0.01)).body == b""
    async with client(replace(DEFAULT_LIMITS, poll_hold_active=0.05)) as end:
        end.connection.active = True
        assert end.connection.active
        assert (await end.poll(1)).body == b""


async def test_a_client_that_stops_polling_is_lost() -> None:
    async with client(QUICK) as end:
        await end.poll(1)
        why = await lost(end.connection.receive())
        assert not why.clean
        assert "no poll" in why.reason
        await lost(end.connection.ready())
        assert (await end.poll(2)).code == "unknown_connection"
        assert not len(end.transport._server)


async def test_while_a_poll_is_open_nobody_is_lost() -> None:
    """The absence is much shorter than the hold here."""
    async with client(replace(QUICK, poll_hold_idle=1.5, poll_absence=0.75)) as end:
        answered = await end.poll(1)
        assert (answered.status, answered.body) == (200, b"")


async def pump_one(end: Client, number: int) -> None:
    async with anyio.create_task_group() as tasks:
        poll = start(tasks, end.poll, number)
        await pump(end.connection, [b"message"])
    assert poll.answered is not None
    assert poll.answered.body == b"message"


async def test_one_timer_serves_a_connection() -> None:
    async with client() as end:
        for number in range(1, 50):
            end.connection.active = number % 7 == 0
            await pump_one(end, number)
        assert len(end.transport._server._timers) == 1
        end.connection.abort()
        assert len(end.transport._server._timers) == 0


# -- up ------------------------------------------------------------------------------------------


async def test_a_post_is_one_message() -> None:
    async with client() as end:
        for number, message in enumerate((b"m", b"x" * 20_000, LARGE), 1):
            async with anyio.create_task_group() as tasks:
                post = start(tasks, end.post, number, message)
                assert await end.connection.receive() == message
            assert post.answered is not None
            assert is_own_answer(post.answered.status, post.answered.fields, number)
            assert post.answered.body == b""


@pytest.mark.interpreted
async def test_a_post_leaves_nothing_to_the_cycle_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is one for every answer of a client: its head and body would stay until a collection."""
    requests: list[weakref.ref[FrontRequest]] = []
    made = FrontRequest.__init__

    def make(self: FrontRequest, connection: CallerConnection, head: RequestHead) -> None:
        made(self, connection, head)
        requests.append(weakref.ref(self))

    monkeypatch.setattr(FrontRequest, "__init__", make)
    async with client() as end:
        gc.disable()
        try:
            async with anyio.create_task_group() as tasks:
                start(tasks, end.post, 1, b"m")
                assert await end.connection.receive() == b"m"
            await settled()
            assert requests
            assert not any(request() for request in requests)
        finally:
            gc.enable()


async def test_a_post_waits_until_it_is_taken() -> None:
    async with client() as end, anyio.create_task_group() as tasks:
        posts = [start(tasks, end.post, number, b"%d" % number) for number in (1, 2, 3)]
        await settled()
        assert all(post.answered is None for post in posts)
        got = {await end.connection.receive() for _ in posts}
        assert got == {b"1", b"2", b"3"}
        await settled()
        assert all(post.answered is not None and post.answered.status == 200 for post in posts)


async def test_what_is_waited_for_is_answered_at_once() -> None:
    async with client() as end, anyio.create_task_group() as tasks:
        with anyio.CancelScope() as scope:
            tasks.start_soon(lambda: receive_in(scope, end.connection))
            await settled()
            assert (await end.post(1, b"first")).status == 200
        await settled()
        post = start(tasks, end.post, 2, b"second")
        await settled()
        assert post.answered is None
        assert await end.connection.receive() == b"second"


async def receive_in(scope: anyio.CancelScope, connection: Connection) -> None:
    with anyio.CancelScope():
        await connection.receive()


async def test_a_cancelled_receive_loses_nothing() -> None:
    async with client() as end, anyio.create_task_group() as tasks:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as inner:
                inner.start_soon(end.connection.receive)
                await settled()
                assert (await end.post(1, b"message")).status == 200
                scope.cancel()
        tasks.cancel_scope.cancel()
    async with client() as end:
        with anyio.move_on_after(0.01):
            await end.connection.receive()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(end.post, 1, b"message")
            assert await end.connection.receive() == b"message"


async def test_a_repeat_is_answered_and_not_handed_up() -> None:
    async with client() as end, anyio.create_task_group() as tasks:
        for message, number in ((b"small", 1), (LARGE, 2)):
            tasks.start_soon(end.post, number, message)
            assert await end.connection.receive() == message
            for _ in range(2):
                assert (await end.post(number, message)).status == 200
        await settled()
        tasks.start_soon(end.post, 3, b"next")
        assert await end.connection.receive() == b"next"


async def test_a_post_that_is_stuck_is_replaced_by_its_repeat() -> None:
    async with client(ONE_BODY) as end, anyio.create_task_group() as tasks:
        small = await end.send_head(Op.UP, end.fields(Op.UP, 1, 100))
        stuck = await end.send_head(Op.UP, end.fields(Op.UP, 2, len(LARGE)))
        await stuck.send(LARGE[:1000])
        await settled()
        # The room is for one such message: the repeat is read in that of the other.
        repeats = [start(tasks, end.post, 1, b"s" * 100), start(tasks, end.post, 2, LARGE)]
        assert {await end.connection.receive() for _ in repeats} == {b"s" * 100, LARGE}
        # Whoever still listens to the older request learns the same.
        assert (await read_until(stuck, b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        await small.send(b"s" * 100)
        assert (await read_until(small, b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        while not all(repeat.answered for repeat in repeats):
            await checkpoint()


async def test_posts_wait_for_room_unread() -> None:
    async with (
        client(replace(DEFAULT_LIMITS, early_post_limit=len(LARGE))) as end,
        anyio.create_task_group() as tasks,
    ):
        posts = [start(tasks, end.post, number, LARGE) for number in (1, 2, 3)]
        await settled()
        assert end.connection._posts.held == len(LARGE)  # type: ignore[attr-defined]
        for _ in posts:
            assert await end.connection.receive() == LARGE
        while not all(post.answered for post in posts):
            await checkpoint()


async def test_posts_in_any_order() -> None:
    async with client() as end, anyio.create_task_group() as tasks:
        for number in (16, 3, 1, 9):
            tasks.start_soon(end.post, number, b"%d" % number)
            assert await end.connection.receive() == b"%d" % number
        assert (await end.post(18, b"x")).code == "out_of_window"


async def test_a_body_that_breaks_off_may_come_again() -> None:
    async with client() as end, anyio.create_task_group() as tasks:
        for cut in (0, 1, 17_000, 200_000):
            stream = await end.send_head(Op.UP, end.fields(Op.UP, 1, len(LARGE)))
            await stream.send(LARGE[:cut])
            stream.abort()
            await settled()
        assert end.connection._posts.held == 0  # type: ignore[attr-defined]
        tasks.start_soon(end.post, 1, LARGE)
        assert await end.connection.receive() == LARGE


async def test_a_body_of_another_length_than_its_head_says_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """No HTTP server of ours lets one pass; another's might."""
    whole = Mounted.body

    async def short(mounted: Mounted, max_bytes: int) -> bytes:
        return (await whole(mounted, max_bytes))[1:]

    async with client() as end:
        monkeypatch.setattr(Mounted, "body", short)
        assert (await end.post(1, b"message")).status == 400
        monkeypatch.undo()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(end.post, 1, b"message")
            assert await end.connection.receive() == b"message"


async def test_a_caller_that_left_waits_for_nothing() -> None:
    async with client() as end, anyio.create_task_group() as tasks:
        stream = await end.send_head(Op.UP, end.fields(Op.UP, 1, 3))
        await stream.send(b"abc")
        await settled()
        stream.abort()
        await settled()
        tasks.start_soon(end.post, 2, b"next")
        assert {await end.connection.receive(), await end.connection.receive()} == {b"abc", b"next"}
        assert (await end.post(1, b"abc")).status == 200


async def test_any_byte_is_life() -> None:
    async with client() as end:
        before = end.connection.last_received
        await anyio.sleep(0.02)  # the clock must move
        assert (await end.post(1)).status == 200
        assert before < end.connection.last_received <= anyio.current_time()


# -- streamed ------------------------------------------------------------------------------------


class Stream:
    """A streamed answer, as it comes."""

    def __init__(self, stream: MemoryStream) -> None:
        self.stream = stream
        self.head = b""
        self.messages: list[bytes] = []
        self.reader = RecordReader(1 << 20)
        self.chunks = b""
        self.ended = False  # the last chunk came

    async def read(self) -> bool:
        """False at the end of the connection."""
        try:
            data = await self.stream.receive()
        except StreamBroken:
            return False
        if not self.head.endswith(b"\r\n\r\n"):
            head, _, data = (self.head + data).partition(b"\r\n\r\n")
            self.head = head + b"\r\n\r\n"
        self.chunks += data
        self._take_chunks()
        return bool(data)

    def _take_chunks(self) -> None:
        while b"\r\n" in self.chunks:
            size, _, rest = self.chunks.partition(b"\r\n")
            length = int(size, 16)
            if len(rest) < length + 2:
                return
            self.chunks = rest[length + 2 :]
            if not length:
                self.ended = True
                return
            self.reader.feed(rest[:length])
            while (message := self.reader.next_message()) is not None:
                self.messages.append(message)

    async def read_until(self, count: int) -> None:
        while len(self.messages) < count:
            assert await self.read()


async def stream_of(end: Client, number: int) -> Stream:
    fields = [*end.fields(Op.DOWN, number), *poll_fields(25.0, stream=True)]
    stream = Stream(await end.send_head(Op.DOWN, fields))
    while not stream.head:
        await stream.read()
    return stream


async def test_a_streamed_answer_carries_many_messages() -> None:
    async with client() as end:
        stream = await stream_of(end, 1)
        assert b"\r\nX-Accel-Buffering: no\r\n" in stream.head
        assert b"\r\nTunnelkit-Mode: stream\r\n" in stream.head
        for count, message in enumerate((b"m", b"x" * 20_000, LARGE, b"last"), 1):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(pump, end.connection, [message])
                await stream.read_until(count)
            assert stream.messages[-1] == message
        assert not stream.ended


async def test_the_next_poll_ends_a_stream_in_order() -> None:
    async with client() as end, anyio.create_task_group() as tasks:
        stream = await stream_of(end, 1)
        assert end.connection.at_once is None
        await pump(end.connection, [b"one"])
        poll = start(tasks, end.poll, 2)
        while not stream.ended:
            await stream.read()
        assert stream.reader.ended
        assert stream.messages == [b"one"]
        await pump(end.connection, [b"two"])
        await settled()
        assert poll.answered is not None
        assert poll.answered.body == b"two"
        assert end.connection.at_once == 1


@pytest.mark.interpreted
async def test_a_stream_ends_after_so_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnelkit.transports.longpoll.polls.STREAM_BYTES", 1000)
    async with client() as end, anyio.create_task_group() as tasks:
        stream = await stream_of(end, 1)
        tasks.start_soon(pump, end.connection, [b"x" * 600, b"y" * 600, b"z"])
        while not stream.ended:
            await stream.read()
        assert stream.messages == [b"x" * 600, b"y" * 600]
        assert (await end.poll(2)).body == b"z"


async def test_a_quiet_stream_is_kept_alive() -> None:
    async with client(replace(QUICK, poll_hold_active=0.02, poll_absence=5.0)) as end:
        stream = await stream_of(end, 1)
        end.connection.active = True
        seen = len(stream.chunks)
        for _ in range(3):
            assert await stream.read()
        assert stream.messages == []
        assert not seen


async def test_a_client_that_is_silent_beside_a_stream_is_lost() -> None:
    async with client(replace(QUICK, poll_hold_active=0.02, poll_absence=0.05)) as end:
        stream = await stream_of(end, 1)
        end.connection.active = True
        assert "silent" in (await lost(end.connection.receive())).reason
        while await stream.read():
            pass
        assert not stream.ended  # it breaks off


async def test_a_post_under_way_is_no_silence() -> None:
    async with client(replace(QUICK, poll_hold_active=0.02, poll_absence=0.05)) as end:
        stream = await stream_of(end, 1)
        slow = await end.send_head(Op.UP, end.fields(Op.UP, 1, 3))
        await settled()
        end.connection.active = True
        for _ in range(10):  # keep-alives: several times the silence that is allowed
            assert await stream.read()
        end.connection.active = False
        await slow.send(b"abc")
        assert await end.connection.receive() == b"abc"


async def test_a_stream_that_breaks_off_costs_the_connection() -> None:
    async with client() as end:
        stream = await stream_of(end, 1)
        await pump(end.connection, [b"message"])
        stream.stream.abort()
        assert "broke off" in (await lost(end.connection.receive())).reason
        assert (await end.poll(2)).code == "unknown_connection"


async def test_a_caller_of_a_stream_that_leaves_in_order_left_all_the_same() -> None:
    async with client() as end:
        stream = await stream_of(end, 1)
        await stream.stream.send_eof()
        assert "broke off" in (await lost(end.connection.receive())).reason


async def test_a_streamed_answer_asked_for_again_costs_the_connection() -> None:
    async with client() as end:
        stream = await stream_of(end, 1)
        assert (await end.poll(1)).code == "unknown_connection"
        assert "again" in (await lost(end.connection.receive())).reason
        while await stream.read():
            pass
        assert not stream.ended


# -- the probe -----------------------------------------------------------------------------------


async def test_a_probe_is_answered_in_two_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    real, gate, paused = anyio.sleep, anyio.Event(), anyio.Event()

    async def sleep(seconds: float) -> None:
        if seconds != longpoll_wire.PROBE_GAP:
            await real(seconds)
        else:
            paused.set()
            await gate.wait()

    monkeypatch.setattr(anyio, "sleep", sleep)
    async with client() as end:
        stream = Stream(await end.send_head(Op.PROBE, end.fields(Op.PROBE, 1)))
        await stream.read_until(1)
        await paused.wait()
        gate.set()
        while not stream.ended:
            await stream.read()
        assert stream.messages == [longpoll_wire.PROBE_MESSAGE] * 2
        assert stream.reader.ended
        assert (await end.ask(Op.PROBE, end.fields(Op.PROBE, 1))).code == "out_of_window"


# -- the end -------------------------------------------------------------------------------------


async def test_the_client_closes_in_order_behind_its_messages() -> None:
    async with client() as end, anyio.create_task_group() as tasks:
        poll, post = start(tasks, end.poll, 1), start(tasks, end.post, 1, b"last")
        await settled()
        answered = await end.ask(Op.CLOSE, [*end.fields(Op.CLOSE, 1), *close_fields(1001, "rest\u00e4rt\r\n")])
        assert is_own_answer(answered.status, answered.fields, 1)
        await settled()
        for request in (poll, post):
            assert request.answered is not None
            assert request.answered.code == "connection_closed"
        assert (await end.poll(2)).code == "connection_closed"
        assert (await end.post(2, b"late")).code == "connection_closed"
        assert await end.connection.receive() == b"last"
        why = await lost(end.connection.receive())
        assert (why.clean, why.code) == (True, 1001)
        assert "rest?rt" in why.reason
        await end.connection.aclose()
        answered = await end.ask(Op.CLOSE, end.fields(Op.CLOSE, 1))
        assert (answered.status, answered.code) == (410, "unknown_connection")


async def test_a_close_without_a_code() -> None:
    async with client() as end:
        await end.ask(Op.CLOSE, end.fields(Op.CLOSE, 1))
        assert (await lost(end.connection.receive())).code == 1005


@pytest.mark.parametrize("stream", [False, True])
async def test_the_server_closes_in_order_behind_its_messages(stream: bool) -> None:
    async with client() as end, anyio.create_task_group() as tasks:
        streamed = await stream_of(end, 1) if stream else None
        poll = None if stream else start(tasks, end.poll, 1)
        await pump(end.connection, [b"last"])
        tasks.start_soon(end.connection.aclose, 1001, "restart")
        if streamed is not None:
            while not streamed.ended:
                await streamed.read()
            assert streamed.messages == [b"last"]
        await settled()
        assert poll is None or (poll.answered is not None and poll.answered.body == b"last")
        await lost(end.connection.receive())
        await lost(end.connection.send(b"late"))
        assert (await end.post(1, b"late")).code == "connection_closed"
        answered = await end.poll(2, stream=stream)
        assert answered.refusal is not None
        why = closed_reason(answered.refusal)
        assert why is not None
        assert (why.clean, why.code) == (True, 1001)
        assert "restart" in why.reason
        await settled()
        assert (await end.poll(3)).code == "unknown_connection"


async def test_a_poll_that_waits_is_told_of_a_close_at_once() -> None:
    async with client() as end, anyio.create_task_group() as tasks:
        poll = start(tasks, end.poll, 1)
        await end.connection.ready()
        await end.connection.aclose()
        await end.connection.aclose()
        await settled()
        assert poll.answered is not None
        assert poll.answered.code == "connection_closed"
        assert not len(end.transport._server)


async def test_a_close_is_bounded_when_nobody_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(longpoll_server_connection, "CLOSE_TIMEOUT", 0.02)
    async with client() as end:
        await end.connection.aclose()
        assert (await end.poll(1)).code == "unknown_connection"


async def test_a_close_by_both_ends_waits_for_no_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    """The poll that waits is streamed: it ends in order, and the client's next would tell it of the close."""
    monkeypatch.setattr(longpoll_server_connection, "CLOSE_TIMEOUT", 60)
    async with client() as end, anyio.create_task_group() as tasks:
        stream = await stream_of(end, 1)
        tasks.start_soon(end.connection.aclose)
        await settled()
        assert (await end.ask(Op.CLOSE, end.fields(Op.CLOSE, 1))).status == 200
        while not stream.ended:
            assert await stream.read()
    assert not len(end.transport._server)


async def test_a_close_ends_a_ready_that_waits() -> None:
    async with client() as end, anyio.create_task_group() as tasks:
        ended: list[ConnectionLost] = []

        async def wait() -> None:
            ended.append(await lost(end.connection.ready()))

        tasks.start_soon(wait)
        await settled()
        tasks.start_soon(end.connection.aclose)
        await settled()
        assert len(ended) == 1
        assert (await end.poll(1)).code == "connection_closed"
        await settled()
        assert not len(end.transport._server)


async def test_a_cancelled_close_is_an_abort() -> None:
    async with client() as end:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await end.connection.aclose()
        assert (await end.poll(1)).code == "unknown_connection"


async def test_an_abort_ends_everything_at_once() -> None:
    async with client() as end, anyio.create_task_group() as tasks:
        waiting = [start(tasks, end.poll, 1), start(tasks, end.post, 1, b"small"), start(tasks, end.post, 2, LARGE)]
        stuck = await end.send_head(Op.UP, end.fields(Op.UP, 3, len(LARGE)))
        await settled()
        end.connection.abort()
        end.connection.abort()
        for request in waiting:
            while request.answered is None:
                await checkpoint()
            assert request.answered.code == "unknown_connection"
        assert (await read_until(stuck, b"}\n")).startswith(b"HTTP/1.1 410 ")
        for call in (end.connection.receive, end.connection.ready):
            assert not (await lost(call())).clean
        assert repr(end.connection) == "<ServerConnection longpoll lost>"


async def test_the_end_of_the_server_ends_its_connections() -> None:
    async with client() as end:
        connection = end.connection
    await lost(connection.receive())


async def test_a_caller_that_ends_its_half_may_be_answered() -> None:
    async with client(half_close_answers=True) as end:
        stream = await end.send_head(Op.DOWN, end.fields(Op.DOWN, 1))
        await stream.send_eof()
        await pump(end.connection, [b"message"])
        assert (await read_until(stream)).endswith(b"message")


def test_records_are_what_the_client_reads() -> None:
    reader = RecordReader(10)
    reader.feed(b"".join(encode_record(b"x")) + END)
    assert reader.next_message() == b"x"
