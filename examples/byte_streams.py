"""A port at the server that leads to a TCP service behind a firewall: a database, a shell, whatever is not HTTP.

``server.connect`` gives an anyio ByteStream to a destination that the tunnel's client allows. Here both ends, the
service and its user run in one program: ``python byte_streams.py``.
"""

import sys

import anyio
from anyio.abc import ByteStream, SocketAttribute, SocketStream

from tunnelkit import TunnelClient, TunnelServer
from tunnelkit.errors import ConnectRefused

TOKEN = "a-secret-of-16-letters"
BROKEN = (anyio.BrokenResourceError, anyio.ClosedResourceError)


async def join(one: ByteStream, other: ByteStream) -> None:
    """Both ways at once. The end of one is passed on, while the other goes on; a break ends both."""

    async def pump(source: ByteStream, target: ByteStream) -> None:
        try:
            async for data in source:
                await target.send(data)
            await target.send_eof()
        except BROKEN:
            tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pump, one, other)
        tasks.start_soon(pump, other, one)


async def forward(server: TunnelServer, local: SocketStream, host: str, port: int) -> None:
    """A connection at the server goes on to ``host``:``port``, as the tunnel's client sees them."""
    async with local:
        try:
            async with server.connect(TOKEN, host, port) as remote:
                await join(local, remote)
        except ConnectRefused as refusal:
            print(f"no way to {host}:{port}: {refusal.code}")


async def shout(stream: SocketStream) -> None:
    """The service behind the firewall."""
    async with stream:
        async for data in stream:
            await stream.send(data.upper())


async def say(port: int, words: bytes) -> bytes:
    """The user: says it all, then reads to the end."""
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        await stream.send(words)
        await stream.send_eof()
        return b"".join([data async for data in stream])


async def main() -> None:
    behind = await anyio.create_tcp_listener(local_host="127.0.0.1")
    public = await anyio.create_tcp_listener(local_host="127.0.0.1")
    secret, port = behind.extra(SocketAttribute.local_port), public.extra(SocketAttribute.local_port)
    allow = [rf"tcp://127\.0\.0\.1:{secret}"]  # and no origin: this client is for one destination, and nothing else
    async with behind, public, TunnelServer("127.0.0.1:0") as server, anyio.create_task_group() as tasks:
        tasks.start_soon(behind.serve, shout)
        tasks.start_soon(public.serve, lambda local: forward(server, local, "127.0.0.1", secret))
        async with TunnelClient(server.url, token=TOKEN, allow=allow) as client:
            await client.wait_ready(timeout=10)
            print((await say(port, b"open sesame")).decode())
        tasks.cancel_scope.cancel()


if __name__ == "__main__":
    anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
