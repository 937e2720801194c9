"""Functions around each exchange, at either end of a whole tunnel: they see, veto and change heads; bodies stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import anyio
import pytest

from tunnelkit import Request, Response
from tunnelkit.errors import StreamBroken
from tunnelkit.middleware import CallNext, HttpAnswer, HttpExchange, Middleware

from .tunnel import TOKEN, Ends, exchange, open_ends, read_head

pytestmark = pytest.mark.anyio

Open: TypeAlias = Callable[..., Any]
PIECE = b"x" * 10_000
NOTHING: tuple[bytes, ...] = ()


@pytest.fixture(params=["server", "client"])
def opened(request: pytest.FixtureRequest) -> Open:
    """Makes a tunnel with middleware at one end, before an app."""

    @asynccontextmanager
    async def make(*middleware: Middleware, app: Any = None, **options: Any) -> AsyncIterator[Ends]:
        at_server: dict[str, Any] = {"middleware": middleware} if request.param == "server" else {}
        at_client: dict[str, Any] = {"middleware": middleware} if request.param == "client" else {}
        served = {"origin": app} if app is not None else {}
        async with open_ends(**at_server) as ends, ends.join(**at_client, **served, **options):
            yield ends

    return make


async def test_middleware_sees_each_exchange(opened: Open) -> None:
    seen: list[tuple[str, str, str | None, int]] = []

    async def see(exchange: HttpExchange, call_next: CallNext) -> HttpAnswer:
        answer = await call_next(exchange)
        seen.append((exchange.method, exchange.target, exchange.header("x-one"), answer.status))
        assert TOKEN not in repr(exchange)
        return answer

    async with opened(see) as ends:
        status, _, body = await exchange(ends.port, "POST", ends.path("/echo?a=1"), fields={"X_One": "1"}, body=b"hi")
    assert (status, seen) == (200, [("POST", "/echo?a=1", "1", 200)])
    assert b'"body": "hi"' in body


async def test_middleware_vetoes_and_the_origin_never_hears_of_it(opened: Open) -> None:
    async def veto(exchange: HttpExchange, call_next: CallNext) -> HttpAnswer:
        return HttpAnswer(403, [(b"Content-Type", b"text/plain")], b"not today\n")

    async with opened(veto) as ends:
        status, fields, body = await ends.get("/echo")
        assert (status, body) == (403, b"not today\n")
        assert ("Content-Length", "10") in fields
        assert ends.origin.requests == []


async def test_middleware_replaces_an_answer_and_the_rest_is_cancelled(opened: Open) -> None:
    cancelled = anyio.Event()

    async def app(request: Request) -> Response:
        async def body() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield PIECE
            finally:
                cancelled.set()

        return Response(200, [], body())

    async def replace(exchange: HttpExchange, call_next: CallNext) -> HttpAnswer:
        assert (await call_next(exchange)).status == 200
        return HttpAnswer(410, body=b"gone")

    async with opened(replace, app=app) as ends:
        status, _, body = await ends.get("/")
        assert (status, body) == (410, b"gone")
        await cancelled.wait()


async def test_middleware_replaces_an_answer_that_broke_off(opened: Open) -> None:
    begun = anyio.Event()
    broke = anyio.Event()

    async def app(request: Request) -> Response:
        async def body() -> AsyncIterator[bytes]:
            for piece in NOTHING:
                yield piece
            await begun.wait()
            broke.set()
            raise RuntimeError("not even one")

        return Response(200, [("Content-Length", "100")], body())

    async def replace(exchange: HttpExchange, call_next: CallNext) -> HttpAnswer:
        answer = await call_next(exchange)
        begun.set()
        await broke.wait()
        await anyio.wait_all_tasks_blocked()
        return answer if exchange.target == "/kept" else HttpAnswer(502, body=b"try again")

    async with opened(replace, app=app) as ends:
        assert (await ends.get("/"))[::2] == (502, b"try again")
        with pytest.raises((AssertionError, StreamBroken)):
            await ends.get("/kept")  # a part is told to be one


@pytest.mark.parametrize("target", ["/made", "/made-with-a-body", "/changed"])
@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_without_a_body_has_none(opened: Open, status: int, target: str) -> None:
    """And the connection goes on: what follows is the next answer."""

    async def app(request: Request) -> Response:
        return Response(200, [], "a body")

    async def empty(exchange: HttpExchange, call_next: CallNext) -> HttpAnswer:
        if exchange.target == "/next":
            return await call_next(exchange)
        if exchange.target == "/changed":
            answer = await call_next(exchange)
            answer.status = status
            return answer
        return HttpAnswer(status, [(b"X-Own", b"1")], b"dropped" if "with" in exchange.target else b"")

    async with opened(empty, app=app) as ends, ends.caller() as stream:
        data = b""
        for asked, told in ((target, status), ("/next", 200)):
            await stream.send(f"GET {ends.path(asked)} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            answered, fields, data = await read_head(stream, data)
            assert answered == told
            if told == status:
                assert ("content-length" in {name.lower() for name, _ in fields}) is False
                assert data == b""


async def test_middleware_changes_heads_both_ways(opened: Open) -> None:
    async def change(exchange: HttpExchange, call_next: CallNext) -> HttpAnswer:
        exchange.target = "/status/201"
        exchange.set_header("X-Added", "by middleware")
        exchange.remove_header("X-One")
        answer = await call_next(exchange)
        answer.status += 1
        answer.set_header("X-Answer", "changed")
        return answer

    async def app(request: Request) -> Response:
        facts = (request.target, request.header("x-added"), request.header("x-one"))
        return Response(201, [("X-Answer", "first")], repr(facts))

    async with opened(change, app=app) as ends:
        status, fields, body = await ends.get("/other", X_One="1")
    assert (status, body.decode()) == (202, repr(("/status/201", "by middleware", None)))
    assert [value for name, value in fields if name == "X-Answer"] == ["changed"]


async def test_the_first_middleware_is_the_outermost(opened: Open) -> None:
    order: list[str] = []

    def named(name: str) -> Middleware:
        async def middleware(exchange: HttpExchange, call_next: CallNext) -> HttpAnswer:
            order.append(name)
            answer = await call_next(exchange)
            order.append(name)
            return answer

        return middleware

    async with opened(named("a"), named("b")) as ends:
        await ends.get("/echo")
    assert order == ["a", "b", "b", "a"]


async def test_bodies_stream_past_middleware_both_ways(opened: Open) -> None:
    """The first piece of the request is answered before its end was sent, and so is the second."""

    async def app(request: Request) -> Response:
        return Response(200, [], (piece async for piece in request))

    async def see(exchange: HttpExchange, call_next: CallNext) -> HttpAnswer:
        return await call_next(exchange)

    async with opened(see, app=app) as ends, ends.caller() as stream:
        head = f"POST {ends.path('/')} HTTP/1.1\r\nHost: tunnel.test\r\nTransfer-Encoding: chunked\r\n\r\n"
        await stream.send(head.encode())
        _, _, data = await read_head(stream)
        for piece in (b"first", b"second"):
            await stream.send(b"%x\r\n%s\r\n" % (len(piece), piece))
            while piece not in data:
                data += await stream.receive()
        await stream.send(b"0\r\n\r\n")
        while not data.endswith(b"0\r\n\r\n"):
            data += await stream.receive()


async def test_a_body_waits_for_middleware_unbuffered_and_then_comes_whole(opened: Open) -> None:
    sent, go = 0, anyio.Event()

    async def app(request: Request) -> Response:
        async def body() -> AsyncIterator[bytes]:
            nonlocal sent
            for _ in range(100):
                sent += len(PIECE)
                yield PIECE

        return Response(200, [("Content-Length", str(100 * len(PIECE)))], body())

    async def hold(exchange: HttpExchange, call_next: CallNext) -> HttpAnswer:
        answer = await call_next(exchange)
        await go.wait()
        return answer

    async with opened(hold, app=app) as ends, anyio.create_task_group() as group:
        call = ends.call(group, "/")
        while not sent:  # noqa: ASYNC110
            await anyio.sleep(0.005)
        await anyio.wait_all_tasks_blocked()
        assert sent < 100 * len(PIECE)
        go.set()
        status, _, body = await call.answer()
        assert (status, len(body)) == (200, 100 * len(PIECE))


@pytest.mark.parametrize("when", ["before", "after"])
async def test_what_middleware_raises_costs_its_exchange_alone(
    opened: Open, when: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(exchange: HttpExchange, call_next: CallNext) -> HttpAnswer:
        if exchange.target != "/bad":
            return await call_next(exchange)
        if when == "after":
            await call_next(exchange)
        raise ValueError("a mistake of the function")

    async with opened(fail) as ends:
        status, _, body = await ends.get("/bad")
        assert status in (500, 502)
        assert b"mistake" not in body
        assert "a mistake of the function" in caplog.text
        assert (await ends.get("/echo"))[0] == 200


async def test_middleware_sees_failures_of_the_tunnel_as_answers(opened: Open) -> None:
    seen: list[int] = []

    async def see(exchange: HttpExchange, call_next: CallNext) -> HttpAnswer:
        answer = await call_next(exchange)
        seen.append(answer.status)
        return answer

    async def app(request: Request) -> Response:
        raise ValueError("the app's own")

    async with opened(see, app=app) as ends:
        status, _, body = await ends.get("/")
    assert (status, seen) == (502, [502])
    assert b"origin_failed" in body


async def test_a_caller_that_leaves_ends_call_next(opened: Open) -> None:
    ended = anyio.Event()

    async def see(exchange: HttpExchange, call_next: CallNext) -> HttpAnswer:
        try:
            return await call_next(exchange)
        finally:
            ended.set()

    async with opened(see) as ends, anyio.create_task_group() as group:
        call = ends.call(group, "/hold/x")
        await ends.origin.until(lambda: len(ends.origin.requests) == 1)
        call.leave()
        await ended.wait()


async def test_upgrades_pass_middleware(opened: Open) -> None:
    async def see(exchange: HttpExchange, call_next: CallNext) -> HttpAnswer:
        assert exchange.upgrade
        answer = await call_next(exchange)
        answer.set_header("X-Answer", "changed")
        return answer

    async with opened(see) as ends, ends.caller() as stream:
        lines = (f"GET {ends.path('/upgrade')} HTTP/1.1", "Host: tunnel.test", "Connection: Upgrade", "Upgrade: echo")
        head = "\r\n".join([*lines, "", ""])
        await stream.send(head.encode() + b"early")
        status, fields, data = await read_head(stream)
        assert (status, ("X-Answer", "changed") in fields) == (101, True)
        while b"early" not in data:
            data += await stream.receive()


async def test_an_answer_of_middleware_that_cannot_be_sent_is_a_failure(opened: Open) -> None:
    async def wrong(exchange: HttpExchange, call_next: CallNext) -> HttpAnswer:
        answers: dict[str, Any] = {
            "/status": HttpAnswer(101),
            "/field": HttpAnswer(200, [(b"Bad Name", b"1")]),
            "/nothing": None,
        }
        if exchange.target == "/twice":
            await call_next(exchange)
            return await call_next(exchange)
        return answers[exchange.target]  # type: ignore[no-any-return]

    async with opened(wrong) as ends:
        for target in ("/status", "/field", "/nothing", "/twice"):
            assert (await ends.get(target))[0] in (500, 502), target
