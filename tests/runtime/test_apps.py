"""Apps at the client over the memory transport: whatever they do, nothing of any exchange stays."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import replace
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import anyio
import pytest

from tunnelkit import AsgiOrigin, HandlerOrigin, Request, Response, TunnelClient, WsgiOrigin
from tunnelkit.origins.app import AppOrigin

from .tunnels import QUICK, TOKEN, Tunnel, eventually, tunnel

pytestmark = pytest.mark.anyio

PATH = f"/_token/{TOKEN}/"
Message = MutableMapping[str, Any]


async def asgi(scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[..., Any]) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        body += message["body"]
        more = message["more_body"]
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": body[:5]})


def wsgi(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    body = environ["wsgi.input"].read()
    start_response("200 OK", [])
    return [body[:5]]


async def handler(request: Request) -> Response:
    return Response(body=(await request.read())[:5])


def every_kind() -> list[AppOrigin]:
    return [AsgiOrigin(asgi, lifespan="off"), WsgiOrigin(wsgi), HandlerOrigin(handler)]


KINDS = pytest.mark.parametrize("kind", range(3), ids=["asgi", "wsgi", "handler"])


async def both_clean(there: Tunnel, client: TunnelClient, origin: AppOrigin) -> None:
    await there.clean()
    await eventually(lambda: not client._agent.active and not origin._running)
    session = client._supervisor._session
    assert session is not None
    await eventually(lambda: not session.link.mux.active_streams and client._supervisor._budget.used == 0)


@KINDS
async def test_bodies_of_all_sizes(kind: int) -> None:
    origin = every_kind()[kind]
    async with tunnel() as there, there.client(origin) as client:
        await client.wait_ready(10)
        caller = there.call()
        for size in (0, 1, 40_000, 500_000):
            async with anyio.create_task_group() as group:
                group.start_soon(_post, caller, size)
                assert await caller.answer() == (200, b"x" * min(size, 5))
        await both_clean(there, client, origin)


async def _post(caller: Any, size: int) -> None:
    await caller.send("POST", PATH, body=b"x" * size)


@KINDS
async def test_callers_that_leave_in_the_middle(kind: int) -> None:
    origin = every_kind()[kind]
    async with tunnel() as there, there.client(origin) as client:
        await client.wait_ready(10)
        for _ in range(3):
            caller = there.call()
            await caller.send("POST", PATH, "Content-Length: 100", body=b"")
            await eventually(lambda: origin._running)
            caller.stream.abort()
            await both_clean(there, client, origin)


@KINDS
async def test_a_session_that_is_lost_in_the_middle(kind: int) -> None:
    origin = every_kind()[kind]
    async with tunnel() as there, there.client(origin) as client:
        await client.wait_ready(10)
        caller = there.call()
        await caller.send("POST", PATH, "Content-Length: 100", body=b"")
        await eventually(lambda: origin._running)
        [session] = there.server.sessions()
        session.link.end("for_the_test")
        await eventually(lambda: not origin._running)


async def test_work_behind_the_response_holds_no_stream() -> None:
    """Background tasks are an app's right: what they hold is their own, and no place among the streams."""
    go = anyio.Event()
    done = 0

    async def app(scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[..., Any]) -> None:
        nonlocal done
        await asgi(scope, receive, send)
        await go.wait()
        done += 1

    origin = AsgiOrigin(app, lifespan="off")
    limits = replace(QUICK, max_streams=3)
    async with tunnel(limits=limits) as there, there.client(origin) as client:
        await client.wait_ready(10)
        for _ in range(6):
            assert (await there.get())[0] == 200
        await there.clean()
        assert origin._running == 6
        go.set()
        await both_clean(there, client, origin)
    assert done == 6


async def test_a_client_that_ends_takes_its_apps_with_it() -> None:
    ended = anyio.Event()

    async def app(scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[..., Any]) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    origin = AsgiOrigin(app, lifespan="off")
    async with tunnel() as there:
        async with there.client(origin) as client:
            await client.wait_ready(10)
            caller = there.call()
            await caller.send("GET", PATH)
            await eventually(lambda: origin._running)
        assert ended.is_set()
        assert (await caller.answer())[0] == 502


async def test_a_client_that_drains_waits_for_its_apps() -> None:
    go = anyio.Event()

    async def slow(request: Request) -> Response:
        await go.wait()
        return Response(body="late")

    async with tunnel() as there, there.client(HandlerOrigin(slow)) as client:
        await client.wait_ready(10)
        caller = there.call()
        await caller.send("GET", PATH)
        await eventually(lambda: client._agent.active)
        async with anyio.create_task_group() as group:
            group.start_soon(client.drain, 10)
            await anyio.wait_all_tasks_blocked()
            go.set()
            assert await caller.answer() == (200, b"late")
