"""A websocket that a host unpacked, as the bytes of the websocket that it was."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from tunnelkit.config import DEFAULT_LIMITS
from tunnelkit.errors import StreamBroken
from tunnelkit.heads import Fields, ResponseHead, field_values
from tunnelkit.http.websocket import Close, Event, MessageCodec, accept_key
from tunnelkit.mount import websocket as mount_websocket
from tunnelkit.mount.scope import websocket_head
from tunnelkit.mount.websocket import WebSocketRequest
from tunnelkit.net.peer import Peer
from tunnelkit.net.stream import ByteStream

from .host import Host
from .test_scope import scope

pytestmark = pytest.mark.anyio


class FarSide:
    """What a caller's websocket reaches: an origin, or the tunnel's transport."""

    def __init__(self, stream: ByteStream) -> None:
        self.stream = stream
        self.codec = MessageCodec(client=False, max_message=100_000)
        self._events: list[Event] = []

    async def event(self) -> Event | None:
        """None: the end."""
        while not self._events:
            data = await self.stream.receive()
            if not data:
                return None
            self._events += self.codec.receive(data)
        return self._events.pop(0)


@asynccontextmanager
async def requested(host: Host, *, denials: bool = True, max_message: int = 1000) -> AsyncIterator[WebSocketRequest]:
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            head, key = websocket_head(scope(type="websocket"), DEFAULT_LIMITS)
            request = WebSocketRequest(
                head,
                Peer(),
                "http",
                host.receive,
                host.send,
                key=key,
                extensions={"websocket.http.response": {}} if denials else {},
                max_message=max_message,
                write_timeout=10,
                tasks=group,
            )
            group.start_soon(request.send_all)
            group.start_soon(request.receive_first)
            yield request
            group.cancel_scope.cancel()


def switch(request: WebSocketRequest, *fields: tuple[bytes, bytes]) -> ResponseHead:
    (key,) = field_values(request.head.fields, b"sec-websocket-key")
    known: Fields = [
        (b"Upgrade", b"websocket"),
        (b"Connection", b"Upgrade"),
        (b"Sec-WebSocket-Accept", accept_key(key)),
    ]
    return ResponseHead(101, known + list(fields))


@asynccontextmanager
async def bridged(host: Host, **options: Any) -> AsyncIterator[tuple[FarSide, WebSocketRequest]]:
    async with requested(host, **options) as request:
        yield FarSide(await request.upgrade(switch(request))), request


async def test_accepting_tells_subprotocol_and_fields_of_the_answer() -> None:
    host = Host()
    async with requested(host) as request:
        head = switch(request, (b"Sec-WebSocket-Protocol", b"chat"), (b"Set-Cookie", b"a=b"))
        await request.upgrade(head)
        assert request.answered
        assert request.receive_body_nowait() == b""
    assert host.sent == [{"type": "websocket.accept", "subprotocol": "chat", "headers": [(b"set-cookie", b"a=b")]}]


@pytest.mark.parametrize(
    "fields",
    [[(b"Upgrade", b"websocket")], [(b"Upgrade", b"websocket"), (b"Sec-WebSocket-Accept", b"another's")]],
)
async def test_an_answer_to_another_request_is_none(fields: Fields) -> None:
    host = Host()
    async with requested(host) as request:
        with pytest.raises(StreamBroken):
            await request.upgrade(ResponseHead(101, fields))
        await host.until(lambda: host.sent)
    assert host.types() == ["websocket.close"]


async def test_extensions_that_nobody_asked_for_are_refused() -> None:
    host = Host()
    async with requested(host) as request:
        with pytest.raises(StreamBroken):
            await request.upgrade(switch(request, (b"Sec-WebSocket-Extensions", b"permessage-deflate")))


async def test_a_caller_that_leaves_before_the_answer_is_noticed() -> None:
    host = Host()
    async with requested(host) as request:
        assert not request.gone
        host.give("websocket.disconnect", code=1006)
        while not request.gone:
            await request.wait(readable=True)


async def test_a_disconnect_behind_a_denial_leaves_it_whole() -> None:
    """Some hosts say so as soon as they have the refusal."""
    host = Host()
    host.take(False)
    async with requested(host) as request:
        request.send_head(ResponseHead(404, []))
        request.send_end()
        host.give("websocket.disconnect", code=1006)
        await host.until(lambda: host.received)
        host.take(True)
        await host.until(lambda: len(host.sent) == 2)
    assert host.types() == ["websocket.http.response.start", "websocket.http.response.body"]


async def test_what_comes_early_reaches_the_far_side() -> None:
    host = Host()
    host.give("websocket.receive", text="early")
    host.give("websocket.receive", text="later")
    async with requested(host) as request:
        await host.until(lambda: host.received)
        far = FarSide(await request.upgrade(switch(request)))
        assert [await far.event(), await far.event()] == ["early", "later"]


async def test_nothing_is_left_to_send_once_it_is_accepted() -> None:
    """Or whoever waits for that would never see the websocket's end."""
    host = Host()
    async with requested(host) as request:
        await request.upgrade(switch(request))
        assert request.flush()


async def test_a_caller_that_left_meanwhile_cannot_be_accepted() -> None:
    host = Host()
    host.failure = OSError()
    async with requested(host) as request:
        with pytest.raises(StreamBroken):
            await request.upgrade(switch(request))


@pytest.mark.parametrize("denials", [True, False])
async def test_a_refusal_is_an_answer_where_the_host_can_send_one(denials: bool) -> None:
    host = Host()
    async with requested(host, denials=denials) as request:
        request.send_head(ResponseHead(404, [(b"A", b"b")]))
        assert request.try_send_body(b"no")
        request.send_end()
        while not request.flush():
            await request.wait(writable=True)
    if denials:
        assert host.sent == [
            {"type": "websocket.http.response.start", "status": 404, "headers": [(b"a", b"b")]},
            {"type": "websocket.http.response.body", "body": b"no", "more_body": True},
            {"type": "websocket.http.response.body", "body": b"", "more_body": False},
        ]
    else:
        assert host.types() == ["websocket.close"]


async def test_messages_pass_both_ways_as_what_they_are() -> None:
    host = Host()
    async with bridged(host) as (far, _):
        host.give("websocket.receive", text="é")
        host.give("websocket.receive", bytes=b"\x00\xff", text=None)
        assert [await far.event(), await far.event()] == ["é", b"\x00\xff"]
        await far.stream.send(far.codec.message("ü") + far.codec.message(b"\x01"))
        await host.until(lambda: len(host.sent) == 3)
    assert host.sent[1:] == [{"type": "websocket.send", "text": "ü"}, {"type": "websocket.send", "bytes": b"\x01"}]


async def test_pings_are_answered_while_the_caller_is_silent() -> None:
    host = Host()
    async with bridged(host) as (far, _):
        await far.stream.send(b"\x89\x01p")
        data = await far.stream.receive()
        assert data[:2] == b"\x8a\x81"


async def test_the_callers_close_reaches_the_far_side_with_its_code() -> None:
    host = Host()
    async with bridged(host) as (far, request):
        host.give("websocket.disconnect", code=4001, reason="why")
        assert await far.event() == Close(4001, "why", by_peer=True)
        await far.stream.send(far.codec.close(4001))
        assert await far.event() is None
        assert request.bridge is not None
        await request.bridge.ended.wait()


async def test_the_far_sides_close_reaches_the_caller_with_its_code() -> None:
    host = Host()
    async with bridged(host) as (far, request):
        await far.stream.send(far.codec.close(4002, "enough"))
        assert await far.event() == Close(4002, "enough", by_peer=True)
        assert request.bridge is not None
        await request.bridge.ended.wait()
    assert host.sent[-1] == {"type": "websocket.close", "code": 4002, "reason": "enough"}


async def test_a_far_side_that_breaks_off_is_told_as_a_failure() -> None:
    host = Host()
    async with bridged(host) as (far, request):
        far.stream.abort()
        assert request.bridge is not None
        await request.bridge.ended.wait()
    assert (host.sent[-1]["type"], host.sent[-1]["code"]) == ("websocket.close", 1011)


async def test_a_message_above_the_limit_ends_both_sides() -> None:
    host = Host()
    async with bridged(host, max_message=10) as (far, _):
        await far.stream.send(far.codec.message(b"x" * 11))
        close = await far.event()
        assert isinstance(close, Close)
        assert close.code == 1009
        await host.until(lambda: host.types()[-1] == "websocket.close")
    assert host.sent[-1]["code"] == 1009


async def test_a_far_side_that_never_answers_a_close_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mount_websocket, "CLOSE_TIMEOUT", 0.01)
    host = Host()
    async with bridged(host) as (_, request):
        host.give("websocket.disconnect", code=1001)
        assert request.bridge is not None
        await request.bridge.ended.wait()


async def test_a_caller_that_takes_nothing_stops_the_far_side() -> None:
    host = Host()
    async with bridged(host, max_message=100_000) as (far, _):
        host.take(False)
        sent = 0
        with anyio.move_on_after(0.2):
            while True:
                await far.stream.send(far.codec.message(b"x" * 10_000))
                sent += 1
        assert sent < 30  # two reads and what the pair of streams holds
        host.take(True)
        await host.until(lambda: len(host.sent) > sent)


async def test_a_far_side_that_takes_nothing_stops_the_caller() -> None:
    host = Host()
    async with bridged(host, max_message=100_000):
        for _ in range(40):
            host.give("websocket.receive", bytes=b"x" * 10_000)
        await host.until(lambda: host.received > 5)
        await anyio.wait_all_tasks_blocked()
        assert host.received < 12


async def test_a_host_that_fails_to_send_ends_the_bridge() -> None:
    host = Host()
    async with bridged(host) as (far, request):
        host.failure = RuntimeError("a host's own")
        await far.stream.send(far.codec.message("x"))
        assert request.bridge is not None
        await request.bridge.ended.wait()
