"""A tunnel server inside a Starlette app, on the app's own port.

    uvicorn mounted_server:app --port 8080

Tunnel clients dial ``http://host:8080/tunnels``; callers reach their origins below ``/tunnels/_token/<token>/``. The
same goes for FastAPI, and for hypercorn on asyncio and trio.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from tunnelkit import TunnelServer

tunnels = TunnelServer(())  # no listener of its own


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """A mounted app hears nothing of the host's lifespan: the server is entered here."""
    async with tunnels:
        yield
        await tunnels.drain(5)


async def who_is_there(request: Request) -> JSONResponse:
    """A page of the host's own, which sees the tunnels."""
    return JSONResponse([{"client": session.address, "by": session.transport} for session in tunnels.sessions()])


app = Starlette(
    routes=[Route("/sessions", who_is_there), Mount("/tunnels", app=tunnels.asgi_app)],
    lifespan=lifespan,
)
