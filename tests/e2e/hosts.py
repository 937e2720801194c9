"""ASGI servers, as users have them, in the event loop of a test."""

from __future__ import annotations

import importlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import anyio
import pytest
import sniffio

__all__ = ["HOSTS", "App", "hosted"]

App: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]

HOSTS = ("hypercorn", "uvicorn")


@asynccontextmanager
async def hosted(app: App, host: str = "hypercorn") -> AsyncIterator[int]:
    """Serve ``app``; gives the port."""
    if host == "uvicorn" and sniffio.current_async_library() == "trio":
        pytest.skip("uvicorn runs on asyncio alone")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serve = _uvicorn if host == "uvicorn" else _hypercorn
        stop = anyio.Event()
        async with anyio.create_task_group() as group:
            await group.start(serve, app, listener, stop)
            try:
                yield listener.getsockname()[1]
            finally:
                stop.set()


async def _hypercorn(
    app: App, listener: socket.socket, stop: anyio.Event, *, task_status: anyio.abc.TaskStatus[None]
) -> None:
    from hypercorn.config import Config

    config = Config()
    config.bind = [f"fd://{os.dup(listener.fileno())}"]
    config.graceful_timeout = 0.2
    config.loglevel = "CRITICAL"
    backend = "trio" if sniffio.current_async_library() == "trio" else "asyncio"
    serve = importlib.import_module(f"hypercorn.{backend}").serve
    task_status.started()
    await serve(app, config, shutdown_trigger=stop.wait)


async def _uvicorn(
    app: App, listener: socket.socket, stop: anyio.Event, *, task_status: anyio.abc.TaskStatus[None]
) -> None:
    import uvicorn

    config = uvicorn.Config(app, log_level="critical", lifespan="on", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)

    async def watch() -> None:
        await stop.wait()
        server.should_exit = True

    async with anyio.create_task_group() as group:
        group.start_soon(watch)
        task_status.started()
        await server.serve(sockets=[listener])
