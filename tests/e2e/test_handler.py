"""``TunnelClient(origin=...)`` with an asynchronous function, through a whole tunnel."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
from collections.abc import AsyncIterator

import anyio
import pytest

from tunnelkit import HandlerOrigin, Request, Response

from .apps import serve_app, still_serves
from .by_hand import caller_side
from .tunnel import TOKEN, ask, exchange, problem_of

pytestmark = pytest.mark.anyio
EVERY_WAY = pytest.mark.ways("websocket", "longpoll", "streamed")


def get(path: str, *lines: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} /_token/{TOKEN}{path} HTTP/1.1", "Host: a", *lines, "", ""]).encode()


async def test_a_request_in_and_a_response_out() -> None:
    async def handler(request: Request) -> Response:
        assert repr(request) == "<Request PUT>"
        assert repr(Response(204)) == "<Response 204>"
        facts = [request.method, request.target, request.path, request.query, request.scheme, request.host]
        facts += [request.caller, request.header("x-many") or "", str(request.header("x-none"))]
        body = await request.read()
        return Response(201, [("X-Facts", "|".join(facts)), (b"x-more", b"1")], body + b"!")

    async with serve_app(handler) as ends:
        fields = {"X-Many": "1", "x-many": "2"}
        status, answer, body = await exchange(
            ends.port, "PUT", ends.path("/a%20b?c=%20"), fields=fields, body=b"hello"
        )
        assert (status, body) == (201, b"hello!")
        assert ("X-Facts", "PUT|/a%20b?c=%20|/a b|c=%20|http|tunnel.test|127.0.0.1|1, 2|None") in answer
        assert ("Content-Length", "6") in answer


@EVERY_WAY
async def test_bodies_stream_both_ways() -> None:
    async def echo(request: Request) -> Response:
        return Response(body=request)

    async with serve_app(echo) as ends, caller_side(ends) as caller:
        await caller.send(get("/", "Transfer-Encoding: chunked", method="POST"))
        await caller.head()  # before any of the body
        for number in range(3):
            await caller.send(b"6\r\npiece%d\r\n" % number)
            await caller.until(b"piece%d\r\n" % number)
        await caller.send(b"0\r\n\r\n")
        await caller.until(b"0\r\n\r\n")


@EVERY_WAY
async def test_trailers_and_early_hints() -> None:
    async def handler(request: Request) -> Response:
        request.early_hints("</a.css>; rel=preload")
        await request.read()
        trailers = [(name.decode(), value.decode()) for name, value in request.trailers]

        async def pieces() -> AsyncIterator[bytes]:
            yield b"body"
            trailers.append(("X-Sum", "1"))

        return Response(headers=[("Trailer", "X-Sum")], body=pieces(), trailers=trailers)

    async with serve_app(handler) as ends, caller_side(ends) as caller:
        await caller.send(get("/", "TE: trailers", "Connection: TE", "Transfer-Encoding: chunked", method="POST"))
        assert b" 103 " in await caller.head()
        await caller.send(b"0\r\nX-Asked: 2\r\n\r\n")
        await caller.head()
        assert await caller.until(b"\r\n\r\n") == b"4\r\nbody\r\n0\r\nX-Asked: 2\r\nX-Sum: 1\r\n\r\n"


@pytest.mark.parametrize("where", ["handler", "body"])
async def test_a_caller_that_leaves_cancels_the_handler(where: str) -> None:
    began, ended = anyio.Event(), anyio.Event()

    async def wait() -> None:
        began.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    async def body() -> AsyncIterator[bytes]:
        await wait()
        yield b""

    async def handler(request: Request) -> Response:
        if request.path == "/fine":
            return Response(body="fine")
        if where == "handler":
            await wait()
        return Response(body=body())

    async with serve_app(handler) as ends:
        async with caller_side(ends) as caller:
            with anyio.fail_after(10):
                await caller.send(get("/"))
                await began.wait()
                caller.reset()
                await ended.wait()
        await still_serves(ends)


async def wrong(request: Request) -> Response:
    if request.path == "/fine":
        return Response(body="fine")
    if request.path == "/raises":
        raise RuntimeError("a secret of the app")
    if request.path == "/returns-none":
        return None  # type: ignore[return-value]
    if request.path == "/bad-status":
        return Response(99)
    if request.path == "/bad-fields":
        return Response(200, [("X-Split", "a\r\nb")])
    if request.path == "/no-pairs":
        return Response(200, [3])  # type: ignore[list-item]
    if request.path == "/too-long":
        await request.read(3)
    length = "11" if request.path == "/too-little" else "9"
    headers = [] if request.path == "/raises-in-body" else [("Content-Length", length)]
    return Response(200, headers, wrong_body(request.path))


async def wrong_body(path: str) -> AsyncIterator[bytes]:
    yield b"x" * (10 if path == "/too-much" else 9)
    if path == "/raises-in-body":
        raise RuntimeError("a secret of the app")


@pytest.mark.parametrize("path", ["/raises", "/returns-none", "/bad-status", "/no-pairs", "/bad-fields", "/too-long"])
async def test_a_failure_before_the_response_began_is_told(path: str, caplog: pytest.LogCaptureFixture) -> None:
    async with serve_app(wrong) as ends:
        answer = await exchange(
            ends.port, "POST", ends.path(path), fields={"Accept": "application/json"}, body=b"four"
        )
        problem = problem_of(answer)
        assert (problem["status"], problem["code"]) == (502, "origin_failed")
        assert b"secret" not in answer[2]
        assert any("an app failed" in record.message for record in caplog.records if record.levelno == logging.ERROR)
        await still_serves(ends)


@pytest.mark.parametrize("path", ["/raises-in-body", "/too-much", "/too-little"])
async def test_a_failure_after_the_response_began_breaks_it_off(path: str) -> None:
    async with serve_app(wrong) as ends:
        async with caller_side(ends) as caller:
            await caller.send(get(path))
            assert not (await caller.broken()).endswith(b"0\r\n\r\n")
        await still_serves(ends)


async def test_context_variables_do_not_reach_the_next_request() -> None:
    user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")

    async def handler(request: Request) -> Response:
        before = user.get()
        user.set("somebody")
        return Response(body=before)

    async with serve_app(HandlerOrigin(handler)) as ends:
        for _ in range(3):
            assert (await ask(ends.port, ends.path("/")))[2] == b"nobody"


async def test_a_handler_that_exits_within_tasks_of_its_own_ends_nothing_else() -> None:
    async def handler(request: Request) -> Response:
        if request.path != "/fine":
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.sleep_forever)
                sys.exit(3)
        return Response(body="fine")

    async with serve_app(handler) as ends:
        problem = problem_of(await ask(ends.port, ends.path("/")))
        assert (problem["status"], problem["code"]) == (502, "origin_failed")
        await still_serves(ends)


async def test_a_handler_that_is_cancelled_by_what_it_awaits(
    anyio_backend_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("on trio nobody else can cancel it")

    async def handler(request: Request) -> Response:
        if request.path == "/fine":
            return Response(body="fine")
        raise asyncio.CancelledError

    async with serve_app(handler) as ends:
        problem = problem_of(await ask(ends.port, ends.path("/")))
        assert (problem["status"], problem["code"]) == (502, "origin_failed")
        assert any("an app failed" in record.message for record in caplog.records)
        await still_serves(ends)
