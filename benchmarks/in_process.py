"""Both ends in one process, and what a small request allocates there; a thread makes the requests, with next to no
objects of its own. Prints JSON.

    python benchmarks/in_process.py ORIGIN BACKEND CARRIER
"""

from __future__ import annotations

import gc
import json
import logging
import os
import re
import socket
import statistics
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import closing, contextmanager

import anyio
import anyio.to_thread

from tunnelkit import TunnelClient, TunnelServer
from tunnelkit.logs import TextFormatter

TOKEN = "a-token-for-the-benchmarks"
REQUEST = f"GET /small HTTP/1.1\r\nHost: tunnel.test\r\nX-Token: {TOKEN}\r\n\r\n".encode()
ANSWER = re.compile(rb"HTTP/1.1 \d+ .*?\r\ncontent-length: (\d+)\r\n(?:.*?\r\n)?\r\n", re.DOTALL | re.IGNORECASE)
WARM, REQUESTS, TRACED = 300, 2000, 50


class Caller:
    """Blocking, over one connection, into one buffer. All answers are as long as the first."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.buffer = bytearray(65536)
        self.sock.sendall(REQUEST)
        got = b""
        while not (whole := ANSWER.match(got)) or len(got) < whole.end() + int(whole[1]):
            got += self.sock.recv(len(self.buffer))
        if not got.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(f"answered {got!r}")
        self.length = len(got)

    def ask(self, times: int) -> None:
        for _ in range(times):
            self.sock.sendall(REQUEST)
            got = 0
            while got < self.length:
                got += self.sock.recv_into(self.buffer)


def count(caller: Caller) -> dict[str, float]:
    """Runs beside the loop, in a thread."""
    caller.ask(WARM)
    gc.collect()
    gc.disable()
    before = sys.getallocatedblocks()
    caller.ask(REQUESTS)
    cyclic = gc.collect()
    kept = sys.getallocatedblocks() - before
    tracemalloc.start()
    caller.ask(TRACED)
    return {"cyclic": cyclic / REQUESTS, "kept": kept / REQUESTS, "temporary": temporary(caller)}


def temporary(caller: Caller) -> float:
    """The most bytes that were alive at once during a request, above what is there between requests; the median."""
    found = []
    for _ in range(TRACED):
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        caller.ask(1)
        _, peak = tracemalloc.get_traced_memory()
        found.append(peak - before)
    return statistics.median(found)


@contextmanager
def logging_at_info() -> Iterator[None]:
    """To nowhere, by the standard library's handler: the lines of a program that does no more about them."""
    logger, handler = logging.getLogger("tunnelkit"), logging.FileHandler(os.devnull)
    handler.setFormatter(TextFormatter())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        handler.close()


async def main(origin: str, carrier: str) -> None:
    transport = "websocket" if carrier == "websocket" else "longpoll"
    async with (
        TunnelServer(listen="127.0.0.1:0") as server,
        TunnelClient(server.url, token=TOKEN, origin=origin, transport=transport) as client,
    ):
        await client.wait_ready(20)
        caller = await anyio.to_thread.run_sync(Caller, int(server.url.rpartition(":")[2]))
        with closing(caller.sock):
            print(json.dumps(await anyio.to_thread.run_sync(count, caller)), flush=True)


if __name__ == "__main__":
    origin, backend, carrier = sys.argv[1:]
    options = {"use_uvloop": True} if backend == "uvloop" else {}
    with logging_at_info():
        anyio.run(main, origin, carrier, backend="trio" if backend == "trio" else "asyncio", backend_options=options)
