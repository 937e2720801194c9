"""An origin behind a URL: which connection a request goes out on, and when it may go out again."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import replace

import anyio
import pytest

from tunnelkit.config import DEFAULT_LIMITS, KIB
from tunnelkit.core.allowlist import HostOrigin
from tunnelkit.errors import ConfigError, DialError, LocalProtocolError, StreamBroken
from tunnelkit.heads import Fields, RequestHead, ResponseHead
from tunnelkit.http.client import OriginConnection
from tunnelkit.http.keeper import IdleKeeper
from tunnelkit.net.memory import MemoryStream, memory_pair
from tunnelkit.net.stream import Buffer, ByteStream
from tunnelkit.origins.base import OriginExchange
from tunnelkit.origins.url import NamedOrigins, OriginUrl, UrlOrigin

pytestmark = pytest.mark.anyio

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine"


class Asked(OriginExchange):
    """An exchange that notes its answer."""

    def __init__(self, method: bytes = b"GET", *, body: bytes | None = None, fields: Fields | None = None) -> None:
        self.head = RequestHead(method, b"/path", [(b"Host", b"caller.test"), *(fields or [])])
        self.x_host = None
        self.has_body = body is not None
        self.pieces = deque([body] if body else [])
        self.more = False  # the body goes on, some time
        self.room_left = 1024 * KIB
        self.statuses: list[int] = []
        self.answer = b""
        self.ended = False
        self.failed: tuple[int, str] | None = None
        self.was_gone = False
        self.spliced: list[ByteStream] = []
        self.news = anyio.Event()
        self._started = False
        self._wake: Callable[[], None] = lambda: None

    @property
    def body_waiting(self) -> bytes | None:
        return self.pieces[0] if self.pieces else (None if self.more else b"")

    def body_taken(self) -> None:
        self._started = True
        self.pieces.popleft()

    @property
    def trailers(self) -> Fields:
        return []

    @property
    def body_started(self) -> bool:
        return self._started

    @property
    def room(self) -> int:
        return self.room_left

    def send_head(self, head: ResponseHead, *, fin: bool = False) -> None:
        self.statuses.append(head.status)
        self.news.set()

    def send_body(self, data: Buffer) -> None:
        self.answer += data
        self.room_left -= len(data)
        self.news.set()

    def send_end(self, trailers: Fields | None = None) -> None:
        self.ended = True

    @property
    def answered(self) -> bool:
        return bool(self.statuses) and self.statuses[-1] >= 200

    def fail(self, status: int, code: str, detail: str) -> None:
        self.failed = status, code

    async def splice(self, head: ResponseHead, peer: ByteStream) -> None:
        self.send_head(head)
        self.spliced.append(peer)

    @property
    def gone(self) -> bool:
        return self.was_gone

    def leave(self) -> None:
        self.was_gone = True
        self._wake()

    def give_room(self, size: int) -> None:
        self.room_left += size
        self._wake()

    def on_news(self, wake: Callable[[], None]) -> None:
        self._wake = wake


class Dialled(UrlOrigin):
    """Its connections are memory streams; ``ends`` are the origin's."""

    def __init__(self, url: str = "http://origin.test:8000/base", *, host: str | None = None) -> None:
        self.keeper = IdleKeeper(logging.getLogger("tunnelkit.client"))
        super().__init__(OriginUrl.parse(url), limits=DEFAULT_LIMITS, host=host, keeper=self.keeper)
        self.ends: list[MemoryStream] = []
        self.bell = anyio.Event()
        self.hold: anyio.Event | None = None
        self.error: DialError | None = None

    async def _dial(self) -> ByteStream:
        if self.hold is not None:
            await self.hold.wait()
        if self.error is not None:
            raise self.error
        near, far = memory_pair()
        self.ends.append(far)
        self.bell.set()
        return near

    async def accepted(self, number: int) -> MemoryStream:
        """The origin's end of its ``number``-th connection, from 1 on."""
        with anyio.fail_after(10):
            while len(self.ends) < number:
                self.bell = anyio.Event()
                await self.bell.wait()
        return self.ends[number - 1]


async def request_on(stream: MemoryStream) -> bytes:
    """The head of the next request."""
    data = b""
    with anyio.fail_after(10):
        while b"\r\n\r\n" not in data:
            piece = await stream.receive()
            assert piece
            data += piece
    return data


async def served(origin: Dialled, asked: Asked, answer: bytes = OK, *, connection: int = 1) -> bytes:
    """Let ``origin`` serve; the request as it arrived."""
    async with anyio.create_task_group() as group:
        group.start_soon(origin.serve, asked)
        stream = await origin.accepted(connection)
        request = await request_on(stream)
        await stream.send(answer)
    return request


async def test_a_request_and_its_answer() -> None:
    origin, asked = Dialled(), Asked()
    request = await served(origin, asked)
    assert request == b"GET /base/path HTTP/1.1\r\nHost: origin.test:8000\r\n\r\n"
    assert (asked.statuses, asked.answer, asked.ended) == ([200], b"fine", True)


@pytest.mark.parametrize(
    ("host", "sent"), [(None, b"origin.test:8000"), ("preserve", b"caller.test"), ("fixed.test", b"fixed.test")]
)
async def test_the_host_that_is_sent(host: str | None, sent: bytes) -> None:
    request = await served(Dialled(host=host), Asked())
    assert b"\r\nHost: " + sent + b"\r\n" in request


async def test_a_connection_is_used_again() -> None:
    origin = Dialled()
    for _ in range(3):
        asked = Asked()
        await served(origin, asked)
        assert asked.ended
    assert len(origin.ends) == 1
    await origin.aclose()
    assert await origin.ends[0].receive() == b""


@pytest.mark.parametrize("body", [b"", b"x"], ids=["no body", "body"])
async def test_a_request_that_a_kept_connection_does_not_take_at_once(body: bytes) -> None:
    """Whoever waits there for the answer has to see to the rest of the request first."""
    origin, asked = Dialled(), Asked(b"PUT" if body else b"GET", body=body)
    await served(origin, Asked())
    near, far = origin._pool._idle[0][1].stream, origin.ends[0]
    while near.try_send(b"y" * 1024):  # of an earlier request, say, that was answered before it was read
        pass
    connection = origin._pool._idle[0][1]

    async def wait() -> None:
        await connection.wait(readable=True)
        await begun.finish()

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        begun = origin.begin(asked)
        assert begun.perch is connection
        await request_on(far)
        await far.send(OK)
    assert asked.ended


async def test_a_dead_idle_connection_is_not_used() -> None:
    origin = Dialled()
    await served(origin, Asked())
    await origin.ends[0].aclose()
    asked = Asked(b"POST", body=b"x")
    await served(origin, asked, connection=2)
    assert asked.ended


async def _dies_after_the_request(origin: Dialled, asked: Asked) -> None:
    """The second request on a kept connection: the origin takes it and breaks off."""
    await served(origin, Asked())
    async with anyio.create_task_group() as group:
        group.start_soon(origin.serve, asked)
        await request_on(origin.ends[0])
        origin.ends[0].abort()
        await anyio.wait_all_tasks_blocked()
        if len(origin.ends) > 1:
            await request_on(origin.ends[1])
            await origin.ends[1].send(OK)


@pytest.mark.parametrize(
    ("asked", "again"),
    [
        (lambda: Asked(b"GET"), True),
        (lambda: Asked(b"DELETE"), True),
        (lambda: Asked(b"POST"), False),
        (lambda: Asked(b"PUT", body=b"x"), False),
    ],
    ids=["GET", "DELETE", "POST", "PUT with a body that was taken"],
)
async def test_a_request_goes_out_again(asked: Callable[[], Asked], again: bool) -> None:
    origin, exchange = Dialled(), asked()
    await _dies_after_the_request(origin, exchange)
    assert len(origin.ends) == (2 if again else 1)
    assert exchange.ended is again
    assert exchange.failed == (None if again else (502, "origin_failed"))


async def test_a_request_with_a_body_that_nobody_took_goes_out_again() -> None:
    origin = Dialled()
    await served(origin, Asked())
    asked = Asked(b"PUT", body=b"")
    asked.more = True
    async with anyio.create_task_group() as group:
        group.start_soon(origin.serve, asked)
        await request_on(origin.ends[0])
        origin.ends[0].abort()
        second = await origin.accepted(2)
        asked.pieces.append(b"body")
        asked.more = False
        asked.give_room(0)
        assert b"\r\n\r\n" in await request_on(second)
        await second.send(OK)
    assert asked.ended


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 103 Early Hints\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"H",
        b"nonsense\r\n\r\n",
    ],
    ids=["an interim head", "part of a head", "one byte", "nonsense"],
)
async def test_once_an_origin_begins_to_answer_it_is_asked_no_more(answer: bytes) -> None:
    """RFC 9110 9.2.2 has a failure in mind before anything of the response could be read."""
    origin, asked = Dialled(), Asked(b"GET")
    await served(origin, Asked())
    async with anyio.create_task_group() as group:
        group.start_soon(origin.serve, asked)
        await request_on(origin.ends[0])
        await origin.ends[0].send(answer)
        await origin.ends[0].send_eof()
    assert asked.failed is not None
    assert asked.failed[0] == 502
    assert len(origin.ends) == 1
    assert asked.statuses in ([], [103])


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "fresh"])
async def test_a_request_that_cannot_be_written_costs_its_connection(kept: bool) -> None:
    origin, asked = Dialled(), Asked(fields=[(b"Content-Length", b"5")])  # and no body
    if kept:
        await served(origin, Asked())
        with pytest.raises(LocalProtocolError):
            origin.begin(asked)
    else:
        with pytest.raises(LocalProtocolError):
            await origin.serve(asked)
    [end] = origin.ends
    with anyio.fail_after(10), pytest.raises(StreamBroken):
        await end.receive()
    assert not origin._pool.idle


async def test_not_on_a_fresh_connection_and_not_twice() -> None:
    origin, asked = Dialled(), Asked()
    async with anyio.create_task_group() as group:
        group.start_soon(origin.serve, asked)
        stream = await origin.accepted(1)
        await request_on(stream)
        stream.abort()
    assert asked.failed == (502, "origin_failed")
    assert len(origin.ends) == 1


async def test_an_answer_that_has_begun_is_not_asked_for_again() -> None:
    origin, asked = Dialled(), Asked()
    await served(origin, Asked())
    async with anyio.create_task_group() as group:
        group.start_soon(origin.serve, asked)
        await request_on(origin.ends[0])
        await origin.ends[0].send(OK[:-1])
        with anyio.fail_after(10):
            await asked.news.wait()
        origin.ends[0].abort()
    assert asked.failed == (502, "origin_failed")
    assert len(origin.ends) == 1


@pytest.mark.parametrize("answer", [b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"])
async def test_a_malformed_answer(answer: bytes) -> None:
    origin, asked = Dialled(), Asked()
    await served(origin, asked, answer)
    assert asked.failed is not None
    assert asked.failed[0] == 502
    assert not asked.ended


@pytest.mark.parametrize(
    ("stage", "status", "code"),
    [
        ("resolve", 502, "origin_unreachable"),
        ("connect", 502, "origin_unreachable"),
        ("proxy", 502, "origin_unreachable"),
        ("tls", 502, "origin_tls"),
        ("address", 403, "x_host_refused"),
    ],
)
async def test_an_origin_that_cannot_be_reached(stage: str, status: int, code: str) -> None:
    origin, asked = Dialled(), Asked()
    origin.error = DialError(stage, "refused")
    await origin.serve(asked)
    assert asked.failed == (status, code)
    with pytest.raises(DialError):
        await origin.check()


async def test_its_own_side_hears_why_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """The caller is not told addresses; whoever runs the client needs them."""
    origin = Dialled()
    origin.error = DialError("tls", "no TLS with 10.0.0.1")
    for _ in range(3):
        await origin.serve(Asked())
    assert [record.getMessage() for record in caplog.records] == ["the origin is not reached: no TLS with 10.0.0.1"]


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\n\n", b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello"])
async def test_a_malformed_answer_is_the_origins_fault_and_its_side_hears_why(
    caplog: pytest.LogCaptureFixture, answer: bytes
) -> None:
    origin, asked = Dialled(), Asked()
    await served(origin, asked, answer)
    assert asked.failed == (502, "bad_response")
    [record] = caplog.records
    assert record.getMessage().startswith("the origin answers what cannot be passed on: ")


async def test_a_check_ends_its_connection_in_order() -> None:
    origin = Dialled()
    await origin.check()
    assert await origin.ends[0].receive() == b""


@pytest.mark.interpreted
async def test_a_caller_that_leaves_during_the_dial_is_not_told_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """No ghosts: the origin never hears of a request that nobody waits for."""
    sent: list[object] = []
    for name in ("send_request", "send_block", "send_whole"):
        monkeypatch.setattr(OriginConnection, name, lambda *args, **options: sent.append(args))
    origin, asked = Dialled(), Asked(b"POST")
    origin.hold = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(origin.serve, asked)
        await anyio.wait_all_tasks_blocked()
        asked.leave()
        origin.hold.set()
    assert len(origin.ends) == 1
    assert sent == []
    assert asked.failed is None


async def test_a_caller_that_leaves_breaks_the_connection_off() -> None:
    origin, asked = Dialled(), Asked()
    async with anyio.create_task_group() as group:
        group.start_soon(origin.serve, asked)
        stream = await origin.accepted(1)
        await request_on(stream)
        asked.leave()
    assert not asked.ended
    assert asked.failed is None
    with pytest.raises(StreamBroken):
        stream.receive_nowait()


async def test_cancelling_breaks_the_connection_off() -> None:
    origin, asked = Dialled(), Asked()
    async with anyio.create_task_group() as group:
        group.start_soon(origin.serve, asked)
        stream = await origin.accepted(1)
        await request_on(stream)
        group.cancel_scope.cancel()
    with pytest.raises(StreamBroken):
        stream.receive_nowait()


async def test_a_caller_without_room_stops_the_origin() -> None:
    origin, asked = Dialled(), Asked()
    asked.room_left = 1
    size = 200_000
    async with anyio.create_task_group() as group:
        group.start_soon(origin.serve, asked)
        stream = await origin.accepted(1)
        await request_on(stream)
        await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        group.start_soon(stream.send, bytes(size))
        await anyio.wait_all_tasks_blocked()
        assert len(asked.answer) <= 64 * KIB
        while not asked.ended:
            asked.give_room(64 * KIB)
            await anyio.wait_all_tasks_blocked()
    assert len(asked.answer) == size


@pytest.mark.parametrize("times", [1, 2, 3, 4, 5])
async def test_a_body_that_did_not_fit_goes_on_though_there_is_room_a_moment_later(
    times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel may have sent something in between; nobody would come back for the rest of the body."""
    calls = 0
    try_send = MemoryStream.try_send

    def hesitating(stream: MemoryStream, data: Buffer) -> int:
        nonlocal calls
        calls += 1
        return 0 if calls <= times else try_send(stream, data)

    monkeypatch.setattr(MemoryStream, "try_send", hesitating)
    asked = Asked(b"PUT", body=bytes(20_000), fields=[(b"Content-Length", b"60000")])
    asked.pieces += [bytes(20_000)] * 2
    with anyio.fail_after(10):
        assert len(await served_with_body(Dialled(), asked)) == 60_000


async def served_with_body(origin: Dialled, asked: Asked) -> bytes:
    async with anyio.create_task_group() as group:
        group.start_soon(origin.serve, asked)
        stream = await origin.accepted(1)
        data = b""
        while len(data) - data.find(b"\r\n\r\n") - 4 < 60_000:
            data += await stream.receive()
        await stream.send(OK)
    return data.partition(b"\r\n\r\n")[2]


async def test_an_answer_before_the_body_ends_the_connection() -> None:
    origin, asked = Dialled(), Asked(b"POST", body=b"")
    asked.more = True
    await served(origin, asked)
    assert asked.ended
    with pytest.raises(StreamBroken):
        origin.ends[0].receive_nowait()


async def test_interim_answers_and_upgrades() -> None:
    origin = Dialled()
    asked = Asked(fields=[(b"Connection", b"Upgrade"), (b"Upgrade", b"echo")])
    switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nearly"
    await served(origin, asked, b"HTTP/1.1 103 Early Hints\r\n\r\n" + switch)
    assert asked.statuses == [103, 101]
    assert len(asked.spliced) == 1


# -- origins named by callers ------------------------------------------------------------------


async def test_origins_that_callers_name_are_bounded() -> None:
    made: list[Dialled] = []

    def make(url: OriginUrl) -> UrlOrigin:
        made.append(Dialled(f"{url.scheme}://{url.host}:{url.port}"))
        return made[-1]

    named = NamedOrigins(make, limits=replace(DEFAULT_LIMITS, origins_named=2))
    for number in range(3):
        asked = Asked()
        asked.x_host = HostOrigin("http", f"host{number}.test", 80)
        async with anyio.create_task_group() as group:
            group.start_soon(named.serve, asked)
            await anyio.wait_all_tasks_blocked()
            await made[-1].ends[0].send(OK)
        assert asked.ended
    assert len(named._origins) == 2
    async with anyio.create_task_group() as group:
        await group.start(made[0].keeper.run)
        with anyio.fail_after(10):
            while await made[0].ends[0].receive():
                pass  # to its end: the one used longest ago was let go
        group.cancel_scope.cancel()
    await named.aclose()
    assert not named._origins


# -- URLs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "scheme", "host", "port", "prefix", "authority"),
    [
        ("http://a.test", "http", "a.test", 80, b"", b"a.test"),
        ("HTTP://A.test:8000/x/y/", "http", "a.test", 8000, b"/x/y", b"a.test:8000"),
        ("https://a.test", "https", "a.test", 443, b"", b"a.test"),
        ("https://a.test:80", "https", "a.test", 80, b"", b"a.test:80"),
        ("http://[::1]:3000/", "http", "::1", 3000, b"", b"[::1]:3000"),
        ("http://b\u00fccher.test", "http", "b\u00fccher.test", 80, b"", b"xn--bcher-kva.test"),
        ("unix:/run/app.sock", "unix", "/run/app.sock", 0, b"", b"localhost"),
        ("unix:///run/a%20b.sock", "unix", "/run/a b.sock", 0, b"", b"localhost"),
    ],
)
def test_urls(url: str, scheme: str, host: str, port: int, prefix: bytes, authority: bytes) -> None:
    origin = OriginUrl.parse(url)
    assert origin == OriginUrl(scheme, host, port, prefix)
    assert origin.authority == authority


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a.test:8000",
        "ftp://a.test",
        "ws://a.test",
        "http://",
        "http://:80",
        "http://a.test:0",
        "http://a.test:65536",
        "http://a.test:x",
        "http://[::1",
        "http://a.test/?q",
        "http://a.test/#f",
        "http://a.test/a b",
        "http://a.test/b\u00fccher",
        "http://a.test/\x7f",
        f"http://{'a' * 64}\u00fc.test",
        "unix:",
    ],
)
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(ConfigError) as error:
        OriginUrl.parse(url, field="origin")
    assert error.value.field == "origin"


@pytest.mark.parametrize(
    "url",
    [
        "http://user:s3cret@a.test",
        "ws://user:s3cret@a.test",
        "ftp://user:s3cret@a.test",
        "http://user:s3cret@[::1",
        "http://user:s3cret@a\u2100.test",
        "http://user:s3cret@a.test:x",
        "http://user:s3cret@:80",
        "http://user:s3cret@a.test/?q",
        "user:s3cret@a.test",
        "http://a.test/?key=s3cret",
        "http://a.test\n/?key=s3cret",
    ],
)
def test_a_secret_in_a_url_is_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError) as error:
        OriginUrl.parse(url)
    assert "s3cret" not in f"{error.value} {error.value!r}"


@pytest.mark.parametrize("url", ["http://a\n.test", "http://a.test\t/", "http://a.test\\@b.test", "http://a .test"])
def test_what_parsers_read_differently_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="must be percent-encoded"):
        OriginUrl.parse(url)
