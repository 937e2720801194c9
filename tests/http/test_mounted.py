from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from tunnelkit.errors import HeadError, StreamBroken
from tunnelkit.heads import RequestHead
from tunnelkit.http.caller import FrontRequest
from tunnelkit.http.client import simple_request
from tunnelkit.http.mounted import Mounted
from tunnelkit.net.memory import MemoryStream
from tunnelkit.net.stream import Buffer, ByteStream
from tunnelkit.transports.base import MountedRequest

from .helpers import read_until, serving

pytestmark = pytest.mark.anyio

POST = RequestHead(b"POST", b"/_tunnel/poll", [(b"Host", b"a")])
LARGE = b"x" * 200_000


def mounted(request: FrontRequest) -> MountedRequest:
    return Mounted(request, "poll")


async def test_body_and_response() -> None:
    async def handler(request: FrontRequest) -> None:
        mount = mounted(request)
        assert (mount.method, mount.path, mount.peer.address) == (b"POST", "poll", "192.0.2.1")
        assert mount.fields == request.head.fields
        body = await mount.body(200_000)
        await mount.respond(200, [(b"X", b"y")], body)

    async with serving(handler) as served:
        for body in (b"", b"hello", LARGE):
            head, answer = await simple_request(served.connect(capacity=10_000), POST, body, max_body=200_000)
            assert head.fields == [(b"X", b"y"), (b"Content-Length", b"%d" % len(body))]
            assert (head.status, head.reason) == (200, b"OK")
            assert answer == body


@pytest.mark.parametrize("chunked", [False, True])
async def test_what_belongs_together_leaves_in_one_write(chunked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small write before a larger one waits, on many a way, for the acknowledgement of the last."""
    written: list[bytes] = []
    real = MemoryStream.try_send

    def try_send(stream: MemoryStream, data: Buffer) -> int:
        written.append(bytes(data))
        return real(stream, data)

    async def handler(request: FrontRequest) -> None:
        mount = mounted(request)
        if chunked:
            await mount.start(200, [])
            await mount.send(b"abc", b"x" * 20_000)
            await mount.send(b"def", b"y")
            await mount.finish()
        else:
            await mount.respond(200, [], b"x" * 20_000)

    async with serving(handler) as served:
        caller = served.connect()
        monkeypatch.setattr(MemoryStream, "try_send", try_send)
        await simple_request(caller, POST, max_body=30_000)
        request, first, *more = written
    assert request.startswith(b"POST ")
    assert first.startswith(b"HTTP/1.1 200 OK\r\n")
    assert len(first) > 20_000
    assert more == ([b"3\r\ndef\r\n1\r\ny\r\n", b"0\r\n\r\n"] if chunked else [])


async def test_an_unknown_status() -> None:
    async def handler(request: FrontRequest) -> None:
        await mounted(request).respond(299, [])

    async with serving(handler) as served:
        head, _ = await simple_request(served.connect(), POST)
        assert (head.status, head.reason) == (299, b"")


async def test_bodies_are_bounded() -> None:
    async def handler(request: FrontRequest) -> None:
        with pytest.raises(HeadError) as caught:
            await mounted(request).body(4)
        raise caught.value

    async with serving(handler) as served:
        head, _ = await simple_request(served.connect(), POST, b"hello")
        assert head.status == 413


@pytest.mark.parametrize("large", [False, True])
async def test_a_caller_who_leaves(large: bool) -> None:
    failed = anyio.Event()

    async def handler(request: FrontRequest) -> None:
        with pytest.raises(StreamBroken):
            await (mounted(request).respond(200, [], LARGE) if large else mounted(request).body(100))
        failed.set()

    async with serving(handler) as served:
        caller = served.connect(capacity=10_000)
        await caller.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n")
        await anyio.wait_all_tasks_blocked()
        caller.abort()
        await failed.wait()


async def test_upgrade() -> None:
    async def handler(request: FrontRequest) -> None:
        stream: ByteStream = await mounted(request).upgrade([(b"Upgrade", b"x")])
        await stream.send(await stream.receive())

    async with serving(handler) as served:
        caller = served.connect()
        await caller.send(b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nearly")
        assert await read_until(caller) == b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nearly"


# -- work for somebody who waits ---------------------------------------------------------------


async def test_work_goes_on_while_the_caller_is_there() -> None:
    results: list[object] = []

    async def double(number: int) -> int:
        await anyio.lowlevel.checkpoint()
        return 2 * number

    async def fail() -> int:
        raise HeadError(503, "overloaded", "no room")

    async def handler(request: FrontRequest) -> None:
        mount = Mounted(request, "")
        results.append(await mount.while_there(double)(21))
        with pytest.raises(HeadError, match="no room"):  # as it is, and in no group
            await mount.while_there(fail)()
        await mount.respond(204, [])

    async with serving(handler) as served:
        head, _ = await simple_request(served.connect(), POST)
        assert head.status == 204
        assert results == [42]


async def test_work_for_a_caller_who_leaves_is_cancelled() -> None:
    begun, cancelled, told = anyio.Event(), anyio.Event(), anyio.Event()

    async def work() -> None:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()

    async def handler(request: FrontRequest) -> None:
        with pytest.raises(StreamBroken):
            await Mounted(request, "").while_there(work)()
        told.set()

    async with serving(handler) as served:
        stream = served.connect()
        await stream.send(b"POST /_tunnel HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        with anyio.fail_after(10):
            await begun.wait()
            stream.abort()
            await cancelled.wait()
            await told.wait()


async def test_whoever_has_the_answer_gives_it_to_a_task_that_waits() -> None:
    """It sleeps on until the caller asks again, where nothing is left to do."""
    returned: list[int] = []

    async def handler(request: FrontRequest) -> None:
        mount = mounted(request)
        waiting.append(mount)
        await mount.wait()
        returned.append(len(waiting))
        assert request.complete

    waiting: list[MountedRequest] = []
    async with serving(handler) as served:
        caller = served.connect()
        for number in (1, 2, 3):
            await caller.send(b"POST /_tunnel/poll HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
            await anyio.wait_all_tasks_blocked()
            assert not waiting[-1].respond_now(200, [], LARGE)  # more than one goes out at once
            assert waiting[-1].respond_now(200, [(b"X", b"y")], b"hello")
            assert (await read_until(caller, b"hello")).startswith(b"HTTP/1.1 200 OK\r\nX: y\r\n")
            await anyio.wait_all_tasks_blocked()
            assert len(returned) == number - 1


async def test_what_does_not_go_out_at_once_is_left_to_the_task() -> None:
    waiting: list[MountedRequest] = []

    async def handler(request: FrontRequest) -> None:
        mount = mounted(request)
        waiting.append(mount)
        await mount.wait()

    async with serving(handler) as served:
        caller = served.connect(capacity=1000)
        for _ in range(2):
            await caller.send(b"POST /_tunnel/poll HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
            await anyio.wait_all_tasks_blocked()
            assert waiting[-1].respond_now(200, [], b"x" * 60_000 + b"end")
            await read_until(caller, b"xend")
        caller.abort()
        await anyio.wait_all_tasks_blocked()
        assert not waiting[-1].respond_now(200, [])


async def test_pieces_for_a_task_that_waits() -> None:
    waiting: list[MountedRequest] = []

    async def handler(request: FrontRequest) -> None:
        mount = mounted(request)
        await mount.start(200, [])
        waiting.append(mount)
        await mount.wait()
        await mount.send()
        await mount.finish()

    async with serving(handler) as served:
        caller = served.connect(capacity=1000)
        await caller.send(b"POST /_tunnel/poll HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        await anyio.wait_all_tasks_blocked()
        assert waiting[0].send_now(b"a", b"b")
        assert (await read_until(caller, b"b\r\n")).endswith(b"1\r\na\r\n1\r\nb\r\n")
        assert not waiting[0].send_now(b"x" * 10_000)
        waiting[0].wake()
        assert (await read_until(caller, b"0\r\n\r\n")).count(b"x") == 10_000
