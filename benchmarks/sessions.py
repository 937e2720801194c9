"""Many idle tunnels in one process, for the memory that each costs the server.

    python -m benchmarks.sessions URL CARRIER COUNT...

Opens as many as each COUNT says, when it is told so by a line on its standard input; then it prints ``ready COUNT``.
"""

from __future__ import annotations

import ssl
import sys
from contextlib import AsyncExitStack

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from tunnelkit import TunnelClient
from tunnelkit.transports.longpoll import LongPollTransport

AT_ONCE = 50  # are being opened
READY_TIMEOUT = 60.0


def unverified() -> ssl.SSLContext:
    """One for all: reading the machine's CAs for each would take longer than the rest."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


TLS = unverified()


async def hold(url: str, carrier: str, number: int, limiter: anyio.Semaphore, done: anyio.Semaphore) -> None:
    token = f"idle-tunnel-of-the-benchmarks-{number:06d}"
    transport = "websocket" if carrier == "websocket" else LongPollTransport(mode=carrier)
    client = TunnelClient(url, token=token, origin="http://127.0.0.1:9", transport=transport, ssl_context=TLS)
    async with AsyncExitStack() as stack:
        async with limiter:
            await stack.enter_async_context(client)
            await client.wait_ready(READY_TIMEOUT)
        done.release()
        await anyio.sleep_forever()


async def open_more(tasks: TaskGroup, url: str, carrier: str, start: int, count: int) -> None:
    limiter, done = anyio.Semaphore(AT_ONCE), anyio.Semaphore(0)
    for number in range(start, count):
        tasks.start_soon(hold, url, carrier, number, limiter, done)
    for _ in range(start, count):
        await done.acquire()


async def main(url: str, carrier: str, counts: list[int]) -> None:
    async with anyio.create_task_group() as tasks:
        opened = 0
        for count in counts:
            await anyio.to_thread.run_sync(sys.stdin.readline)
            await open_more(tasks, url, carrier, opened, count)
            opened = count
            print(f"ready {count}", flush=True)
        await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[2], [int(count) for count in sys.argv[3:]])
