"""The origin of the fault tests: that of the end-to-end tests, and it tells what it was asked.

``/events/N/SECONDS``  N events, so many seconds apart, chunked
``/seen``              what arrived since the last time, and what runs: JSON with ``arrived`` and ``running``, targets
``/release/NAME``      lets ``/hold/NAME`` go on

Run as a program with a port, it prints ``serving on PORT`` when it does.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
from anyio.abc import SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from tests.e2e.origin import Arrived, TestOrigin, send_text, serve_origin

__all__ = ["FaultOrigin"]


class FaultOrigin(TestOrigin):
    """Counts what it is asked by the tunnel. The tests ask it directly."""

    def __init__(self) -> None:
        super().__init__()
        self._running: list[str] = []

    @contextmanager
    def _run(self, target: str) -> Iterator[None]:
        self._running.append(target)
        try:
            yield
        finally:
            self._running.remove(target)

    async def _answer(self, request: Arrived, reader: BufferedByteReceiveStream, stream: SocketStream) -> bool:
        if request.target == "/seen":
            await send_text(stream, json.dumps(self._seen()))
            return True
        if request.target.startswith("/release/"):
            self.release(request.target.rpartition("/")[2])
            await send_text(stream, "{}")
            return True
        with self._run(request.target):
            if not request.target.startswith("/events/"):
                return await super()._answer(request, reader, stream)
            count, period = request.target.partition("?")[0].split("/")[2:]
            await _events(stream, int(count), float(period))
            return True

    def _seen(self) -> dict[str, list[str]]:
        arrived = [target for target in self.targets() if not target.startswith(("/seen", "/release/"))]
        self.requests.clear()
        return {"arrived": arrived, "running": list(self._running)}


async def _events(stream: SocketStream, count: int, period: float) -> None:
    await stream.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    for number in range(count):
        event = b"data: %d\n\n" % number
        await stream.send(b"%x\r\n%b\r\n" % (len(event), event))
        await anyio.sleep(period)  # what makes it a stream of events
    await stream.send(b"0\r\n\r\n")


async def main(port: int) -> None:
    async with serve_origin(port, FaultOrigin()) as origin:
        print(f"serving on {origin.port}", flush=True)
        await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(main, int(sys.argv[1]))
