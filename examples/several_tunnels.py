"""A supervisor of several tunnels: each is a client of its own in one task group, and none ends the others.

A client dials for ever by itself. What is left to do is for what ends one: a refusal that the server means to last,
and an app that does not start. Such a tunnel is tried again after a pause, as passwords are mended and names become
free. Here the server runs in the same program: ``python several_tunnels.py``.
"""

import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

import anyio

from tunnelkit import RegistrationRefused, Request, Response, TunnelClient, TunnelServer
from tunnelkit.errors import AppError
from tunnelkit.events import Connected, EventStream, Lost, Moved, Resumed, Retrying

Make = Callable[[], TunnelClient]
Report = Callable[[str, str], Awaitable[None]]


async def supervise(tunnels: Mapping[str, Make], report: Report, *, pause: float = 60.0) -> None:
    """Keep all of ``tunnels``, functions that make a client, by name. Awaits ``report(name, state)`` at each change.
    Cancelling it ends them."""
    async with anyio.create_task_group() as tasks:
        for name, make in tunnels.items():
            tasks.start_soon(keep, make, partial(report, name), pause)


async def keep(make: Make, report: Callable[[str], Awaitable[None]], pause: float) -> None:
    while True:
        client = make()  # each serves once
        events = client.events()  # from the beginning
        try:
            async with client:
                await watch(events, report)
        except (RegistrationRefused, AppError) as error:
            await report(f"given up: {error}")
            if isinstance(error, RegistrationRefused) and error.code == "superseded":
                return  # another client has its place: the two must not take turns
        await anyio.sleep(pause)


async def watch(events: EventStream, report: Callable[[str], Awaitable[None]]) -> None:
    async for event in events:
        match event:
            case Connected(transport=transport) | Resumed(transport=transport) | Moved(transport=transport):
                await report(f"up by {transport}")
            case Lost(reason=reason) | Retrying(reason=reason):
                await report(f"down: {reason}")


async def hello(name: str, request: Request) -> Response:
    """Stands for a service; more often there is a URL."""
    return Response(body=f"this is {name}\n")


async def main() -> None:
    names = ("wiki", "printer", "camera")
    passwords = {f"a-secret-of-{name}-16": f"password of {name}" for name in names}
    passwords["a-secret-of-camera-16"] = "was changed at the server"
    up, all_up = set(), anyio.Event()
    async with TunnelServer("127.0.0.1:0", passwords=lambda: passwords) as server, anyio.create_task_group() as tasks:

        def make(name: str) -> TunnelClient:
            token, password = f"a-secret-of-{name}-16", f"password of {name}"
            return TunnelClient(server.url, token=token, password=password, origin=partial(hello, name))

        async def report(name: str, state: str) -> None:
            print(f"{name}: {state}")
            if state.startswith("up"):
                up.add(name)
                if len(up) == len(names):
                    all_up.set()
            else:  # somebody mends what is wrong
                passwords["a-secret-of-camera-16"] = "password of camera"
                await server.reload()

        tasks.start_soon(partial(supervise, {name: partial(make, name) for name in names}, report, pause=0.1))
        await all_up.wait()
        tasks.cancel_scope.cancel()


if __name__ == "__main__":
    anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
