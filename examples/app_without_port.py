"""A FastAPI app behind a firewall that listens nowhere: callers reach it through a tunnel.

    python app_without_port.py ws://tunnel.example.com:8080 a-secret-of-16-letters

Any ASGI or WSGI app goes the same way: ``TunnelClient(origin=app)``.
"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import StreamingResponse

from tunnelkit import TunnelClient


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
    """Entered before the client registers, left after its session."""
    yield {"greeting": "hello"}


app = FastAPI(lifespan=lifespan)


@app.get("/")
async def greet(request: Request) -> dict[str, str]:
    assert request.client is not None
    return {request.state.greeting: request.client.host}


@app.get("/ticks")
async def ticks(count: int = 3) -> StreamingResponse:
    """Server-sent events, each of which arrives as it is sent."""

    async def events() -> AsyncIterator[str]:
        for number in range(count):
            yield f"data: {number}\n\n"
            await anyio.sleep(0.1)

    return StreamingResponse(events(), media_type="text/event-stream")


@app.websocket("/echo")
async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text)


async def main(url: str, token: str) -> None:
    async with TunnelClient(url, token=token, origin=app) as client:
        await client.wait_ready(timeout=10)
        print("ready", client.masked_url, flush=True)
        await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[2], backend=sys.argv[3] if len(sys.argv) > 3 else "asyncio")
