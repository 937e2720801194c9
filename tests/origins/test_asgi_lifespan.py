from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import anyio
import pytest

from tunnelkit import AsgiOrigin
from tunnelkit.config import DEFAULT_LIMITS, Limits
from tunnelkit.errors import AppError
from tunnelkit.origins import asgi_lifespan

pytestmark = pytest.mark.anyio

UP = {"type": "lifespan.startup.complete"}
DOWN = {"type": "lifespan.shutdown.complete"}
SHORT = replace(DEFAULT_LIMITS, app_startup_timeout=0.05, app_shutdown_timeout=0.05)


def origin(app: Any, lifespan: Any = "auto", limits: Limits = DEFAULT_LIMITS) -> AsgiOrigin:
    return AsgiOrigin(app, lifespan=lifespan, limits=limits)


async def test_startup_then_shutdown() -> None:
    heard: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (scope["type"], scope["asgi"]["version"]) == ("lifespan", "3.0")
        heard.append((await receive())["type"])
        scope["state"]["a"] = 1
        await send(UP)
        heard.append((await receive())["type"])
        await send(DOWN)

    made = origin(app, "on")
    async with made.lifespan():
        assert heard == ["lifespan.startup"]
        assert made._state == {"a": 1}
    assert heard == ["lifespan.startup", "lifespan.shutdown"]


async def test_the_shutdown_is_whole_though_the_program_around_is_cancelled() -> None:
    ended: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(UP)
        await receive()
        await anyio.sleep(0.01)
        ended.append("in order")
        await send(DOWN)

    with anyio.CancelScope() as scope:
        async with origin(app).lifespan():
            scope.cancel()
            await anyio.sleep_forever()
    assert ended == ["in order"]


async def test_what_the_body_raises_comes_out_plain() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(UP)
        await receive()

    with pytest.raises(KeyError):
        async with origin(app).lifespan():
            raise KeyError("x")


@pytest.mark.parametrize("how", ["raises", "returns"])
async def test_an_app_without_lifespan(how: str, caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if how == "raises":
            raise NotImplementedError("http only")

    caplog.set_level(logging.INFO)
    async with origin(app).lifespan():
        assert "served without lifespan" in caplog.text
    async with origin(app, "off").lifespan():
        pass
    with pytest.raises(AppError, match="no lifespan"):
        async with origin(app, "on").lifespan():
            raise AssertionError("it started")


@pytest.mark.parametrize("told", ["no disk", ""])
@pytest.mark.parametrize("then", ["raises", "returns", "stays"])
async def test_an_app_that_refuses_to_start(told: str, then: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": told})
        if then == "raises":
            raise OSError("disk")
        if then == "stays":
            await anyio.sleep_forever()

    with pytest.raises(AppError, match=told or "did not start$") as caught:
        async with origin(app, limits=SHORT).lifespan():
            raise AssertionError("it started")
    assert isinstance(caught.value.__cause__, OSError if then == "raises" else type(None))


async def test_an_app_that_does_not_come_to_an_end_with_its_startup() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await anyio.sleep_forever()

    with pytest.raises(AppError, match=r"within 0\.05 s"):
        async with origin(app, limits=SHORT).lifespan():
            raise AssertionError("it started")


async def test_a_startup_may_be_cancelled() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await anyio.sleep_forever()

    with anyio.move_on_after(0.05) as waiting:
        async with origin(app).lifespan():
            raise AssertionError("it started")
    assert waiting.cancelled_caught


async def test_an_app_that_does_not_come_to_an_end_with_its_shutdown(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(UP)
        await receive()
        await receive()  # there is nothing more

    async with origin(app, limits=SHORT).lifespan():
        pass
    assert "did not shut down within 0.05 s" in caplog.text


@pytest.mark.parametrize("when", ["while it runs", "at its end"])
async def test_a_lifespan_that_fails_later_is_logged(when: str, caplog: pytest.LogCaptureFixture) -> None:
    failed = anyio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(UP)
        if when == "at its end":
            await receive()
            await send({"type": "lifespan.shutdown.failed", "message": "still busy"})
        failed.set()
        raise RuntimeError("oh")

    async with origin(app).lifespan():
        if when == "while it runs":
            await failed.wait()
    assert "an app's lifespan failed" in caplog.text
    assert ("still busy" in caplog.text) == (when == "at its end")


async def test_a_message_that_is_none_of_the_lifespan() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        with pytest.raises(AppError, match=r"http\.response\.start"):
            await send({"type": "http.response.start"})
        await send(UP)

    async with origin(app, "on").lifespan():
        pass


@pytest.mark.parametrize("then", ["asks for the next message", "lingers"])
async def test_an_app_that_refuses_to_start_is_not_waited_for(then: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi_lifespan, "REFUSED_TIMEOUT", 0.01 if then == "lingers" else 100.0)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})
        await (anyio.sleep_forever() if then == "lingers" else receive())

    with anyio.fail_after(10), pytest.raises(AppError, match="no database"):
        async with origin(app).lifespan():
            raise AssertionError("it started")
