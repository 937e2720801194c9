"""``TunnelClient(origin=...)`` with a WSGI app: in threads, of which there are so many, through a whole tunnel."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import wsgiref.validate
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, TypeAlias
from wsgiref.types import StartResponse, WSGIEnvironment

import anyio
import anyio.to_thread
import pytest

from tunnelkit import WsgiOrigin
from tunnelkit.config import DEFAULT_LIMITS
from tunnelkit.origins import wsgi

from .apps import serve_app, still_serves
from .by_hand import caller_side
from .tunnel import TOKEN, ask, exchange, problem_of, until

pytestmark = pytest.mark.anyio
EVERY_WAY = pytest.mark.ways("websocket", "longpoll", "streamed")

Wsgi: TypeAlias = Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]
FIELDS = [("Content-Type", "text/plain")]


def get(path: str, *lines: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} /_token/{TOKEN}{path} HTTP/1.1", "Host: a", *lines, "", ""]).encode()


def fine(app: Wsgi) -> Wsgi:
    """``app``, with an answer for ``still_serves``."""

    def served(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/fine":
            start_response("200 OK", FIELDS)
            return [b"fine"]
        return app(environ, start_response)

    return served


async def test_pep_3333_to_the_letter() -> None:
    """By wsgiref's validator, which raises at anything that is not."""
    seen: dict[str, Any] = {}

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        seen.update(environ)
        body = environ["wsgi.input"]
        lines = [body.readline(), body.read(3), *body.readlines(1), body.read(1000), body.read(1)]
        start_response("201 Made", [*FIELDS, ("X-Lines", repr(lines))])
        return [b"made"]

    body = b"first\nsecond\nthird\n" + b"x" * 50
    async with serve_app(WsgiOrigin(wsgiref.validate.validator(app))) as ends:
        fields = {"Content-Type": "text/x", "X-Many": "1", "x-many": "2"}
        status, answer, made = await exchange(
            ends.port, "POST", ends.path("/gr%C3%BC%20n?a=%20b"), fields=fields, body=body
        )
        assert (status, made) == (201, b"made")
        lines = [b"first\n", b"sec", b"ond\n", b"third\n" + b"x" * 50, b""]
        assert ("X-Lines", repr(lines)) in answer
    expected = {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/gr\u00c3\u00bc n",
        "QUERY_STRING": "a=%20b",
        "CONTENT_TYPE": "text/x",
        "CONTENT_LENGTH": str(len(body)),
        "SERVER_NAME": "tunnel.test",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "tunnel.test",
        "HTTP_X_MANY": "1, 2",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    assert {key: seen.get(key) for key in expected} == expected


@EVERY_WAY
async def test_a_response_arrives_as_the_app_yields_it() -> None:
    go = threading.Event()
    closed = threading.Event()

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            yield b"first"
            assert go.wait(10)
            yield b""
            yield b"last"

        def close(self) -> None:
            closed.set()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", FIELDS)
        write(b"written")
        return Body()

    async with serve_app(app) as ends, caller_side(ends) as caller:
        await caller.send(get("/"))
        await caller.until(b"written")
        await caller.until(b"first")
        assert not closed.is_set()
        go.set()
        await caller.until(b"last\r\n0\r\n\r\n")
        await until(closed.is_set)


@EVERY_WAY
async def test_a_request_reaches_the_app_as_the_caller_sends_it() -> None:
    def echo(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", FIELDS)
        return iter(lambda: environ["wsgi.input"].readline(), b"")

    async with serve_app(echo) as ends, caller_side(ends) as caller:
        await caller.send(get("/", "Transfer-Encoding: chunked", method="POST"))
        for number in range(3):
            await caller.send(b"7\r\npiece%d\n\r\n" % number)
            await caller.until(b"piece%d\n\r\n" % number)
        await caller.send(b"0\r\n\r\n")
        await caller.until(b"0\r\n\r\n")


async def test_a_blocked_thread_stops_nobody_else() -> None:
    go = threading.Event()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        assert go.wait(10)
        start_response("200 OK", FIELDS)
        return [b"late"]

    async with serve_app(fine(app)) as ends, caller_side(ends) as caller:
        await caller.send(get("/"))
        await still_serves(ends)
        go.set()
        await caller.until(b"late")


async def test_there_are_so_many_threads_and_no_more() -> None:
    go = threading.Event()
    running = most = 0
    lock = threading.Lock()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        assert go.wait(10)
        with lock:
            running -= 1
        start_response("200 OK", FIELDS)
        return [b"done"]

    origin = WsgiOrigin(app, limits=replace(DEFAULT_LIMITS, wsgi_threads=2))
    async with serve_app(origin) as ends, anyio.create_task_group() as group:
        calls = [ends.call(group, "/") for _ in range(2)]
        await until(lambda: running == 2)
        calls += [ends.call(group, "/") for _ in range(3)]
        await until(lambda: origin._running == 5)
        calls.pop().leave()  # while it waits for its turn
        await until(lambda: origin._running == 4)
        go.set()
        assert [await call.status() for call in calls] == [200] * 4
    assert most == 2


async def test_a_system_without_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async with serve_app(WsgiOrigin(fine(wrong), limits=replace(DEFAULT_LIMITS, wsgi_threads=1))) as ends:
        with monkeypatch.context() as patch:
            patch.setattr(wsgi._CallThread, "start", fails)
            assert problem_of(await ask(ends.port, ends.path("/fine")))["code"] == "origin_failed"
        await still_serves(ends)


async def test_a_thread_that_stays_blocked_does_not_hold_up_the_end(caplog: pytest.LogCaptureFixture) -> None:
    """It is left to itself, and finds nobody when it goes on."""
    began, go, ended = threading.Event(), threading.Event(), threading.Event()
    failure: list[Exception] = []

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        began.set()
        go.wait(10)
        try:
            start_response("200 OK", FIELDS)(b"to nobody")
        except Exception as error:
            failure.append(error)
            raise
        finally:
            ended.set()
        return []

    async with serve_app(app) as ends, caller_side(ends) as caller:
        await caller.send(get("/"))
        await until(began.is_set)
    assert any("left to itself" in record.message for record in caplog.records)
    go.set()
    assert await anyio.to_thread.run_sync(ended.wait, 10)
    assert isinstance(failure[0], OSError)
    for thread in threading.enumerate():
        if thread.name == "tunnelkit WSGI":
            await anyio.to_thread.run_sync(thread.join, 10)
            assert not thread.is_alive()


@pytest.mark.parametrize("does", ["reads", "writes"])
async def test_a_caller_that_leaves_is_told_to_the_app(does: str) -> None:
    failure: list[Exception] = []
    began = threading.Event()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", FIELDS)
        began.set()
        try:
            while True:
                if does == "reads":
                    environ["wsgi.input"].read(1)
                else:
                    write(bytes(10_000))
        except Exception as error:
            failure.append(error)
            raise

    async with serve_app(fine(app)) as ends:
        async with caller_side(ends) as caller:
            await caller.send(get("/", "Content-Length: 10", method="POST"))
            await until(began.is_set)
            caller.reset()
            await until(lambda: failure)
        assert isinstance(failure[0], OSError)
        await still_serves(ends)


def wrong(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path == "/raises-before":
        raise RuntimeError("a secret of the app")
    if path == "/exits-before":
        sys.exit(3)
    if path == "/cancels-before":
        raise asyncio.CancelledError
    if path == "/no-start":
        return [b"body"]
    if path == "/no-status":
        start_response("fine", FIELDS)
    if path == "/no-pairs":
        start_response("200 OK", [("X",)])  # type: ignore[list-item]
    if path == "/bad-fields":
        start_response("200 OK", [("X-Split", "a\r\nb")])
    length = [("Content-Length", "10")] if "content-length" in path else []
    start_response("200 OK", FIELDS + length)
    if path == "/starts-twice":
        start_response("200 OK", FIELDS)
    if path == "/text":
        return ["text"]  # type: ignore[list-item]
    return wrong_body(path)


def wrong_body(path: str) -> Iterator[bytes]:
    yield b"x" * (11 if path == "/too-much-content-length" else 9)
    if path == "/raises-after":
        raise RuntimeError("a secret of the app")
    if path == "/too-much-content-length-later":
        yield b"xx"


@pytest.mark.parametrize("path", [
    "/raises-before", "/exits-before", "/cancels-before", "/no-start", "/no-status", "/no-pairs", "/bad-fields",
    "/starts-twice", "/text", "/too-much-content-length",
])  # fmt: skip
async def test_a_failure_before_the_response_began_is_told(path: str, caplog: pytest.LogCaptureFixture) -> None:
    async with serve_app(fine(wrong)) as ends:
        answer = await ask(ends.port, ends.path(path))
        problem = problem_of(answer)
        assert (problem["status"], problem["code"]) == (502, "origin_failed")
        assert b"secret" not in answer[2]
        assert any("an app failed" in record.message for record in caplog.records if record.levelno == logging.ERROR)
        await still_serves(ends)


@pytest.mark.parametrize("path", [
    "/raises-after", "/too-much-content-length-later", "/too-little-content-length",
])  # fmt: skip
async def test_a_failure_after_the_response_began_breaks_it_off(path: str) -> None:
    async with serve_app(fine(wrong)) as ends:
        async with caller_side(ends) as caller:
            await caller.send(get(path))
            assert not (await caller.broken()).endswith(b"0\r\n\r\n")
        await still_serves(ends)


async def test_an_app_may_replace_its_head_until_the_body_begins() -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", FIELDS)
        if environ["PATH_INFO"] == "/late":
            write(b"begun")
        try:
            raise ValueError("on the way")
        except ValueError:
            start_response("500 Sorry", FIELDS, sys.exc_info())
        return [b"sorry"]

    async with serve_app(fine(app)) as ends:
        status, answer, body = await exchange(ends.port, "GET", ends.path("/early"))
        assert (status, body) == (500, b"sorry")
        assert ("Content-Length", "5") in answer  # it was there as a whole
        async with caller_side(ends) as caller:
            await caller.send(get("/late"))
            await caller.broken()
        await still_serves(ends)


async def test_what_the_app_writes_to_its_errors_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        print("something\nto know", file=environ["wsgi.errors"])
        start_response("204 No Content", [])
        return []

    async with serve_app(app) as ends:
        assert (await ends.get("/"))[0] == 204
    assert [record.message for record in caplog.records if "WSGI" in record.message] == [
        "the WSGI app: something",
        "the WSGI app: to know",
    ]


async def test_an_upgrade_that_no_app_speaks() -> None:
    async with serve_app(fine(wrong)) as ends, caller_side(ends) as caller:
        await caller.send(get("/", "Connection: Upgrade", "Upgrade: websocket"))
        assert b" 501 " in await caller.head()
        await still_serves(ends)
