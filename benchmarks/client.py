"""A tunnel client as a process, over one transport in one mode. Used by the benchmarks of transports."""

from __future__ import annotations

import argparse

import anyio

from tunnelkit import TunnelClient
from tunnelkit.transports.base import Transport
from tunnelkit.transports.longpoll import LongPollTransport

WAYS = ("websocket", "longpoll-strict", "longpoll-streamed")


def transport_of(way: str) -> str | Transport:
    if way == "longpoll-strict":
        return LongPollTransport(mode="strict")
    if way == "longpoll-streamed":
        return LongPollTransport(mode="streamed")
    return way


async def serve(url: str, token: str, origin: str, way: str) -> None:
    async with TunnelClient(url, token=token, origin=origin, transport=transport_of(way)) as client:
        await client.wait_ready(10)
        print(f"ready {way}", flush=True)
        await anyio.sleep_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("token")
    parser.add_argument("origin")
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    arguments = parser.parse_args()
    anyio.run(serve, arguments.url, arguments.token, arguments.origin, arguments.way, backend=arguments.backend)


if __name__ == "__main__":
    main()
