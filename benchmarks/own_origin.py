"""An origin of our own: takes bodies of any size and forgets them, and answers ``/bytes/N`` and ``/small``. For
uploads, which nginx answers before it has read them, and for everything where nginx is missing.

    python -m benchmarks.own_origin HOST [CERTIFICATE]    prints ``serving on PORT TLS_PORT`` (0 without TLS)
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
import sys
from typing import cast

__all__ = ["SMALL"]

SMALL = b"Hello from the origin\n"
BLOCK = bytes(256 * 1024)
LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
PATH = re.compile(rb"[A-Z]+ /bytes/(\d+) ")
MAX_HEAD = 64 * 1024


class Discarding(asyncio.Protocol):
    """One connection: heads with Content-Length and nothing else, which is all that the benchmarks send."""

    def __init__(self) -> None:
        self.head = b""
        self.left = 0  # bytes of a body yet to come
        self.to_send = 0  # bytes of an answer yet to be written
        self.writable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=1024 * 1024)

    def data_received(self, data: bytes) -> None:
        if self.left:
            taken = min(self.left, len(data))
            self.left -= taken
            if self.left:
                return
            self.answer()
            data = data[taken:]
        self.head += data
        while not self.left and (end := self.head.find(b"\r\n\r\n")) >= 0:
            head, body = self.head[:end], self.head[end + 4 :]
            self.head = b""
            self.begin(head, body)
        if len(self.head) > MAX_HEAD:
            self.transport.abort()

    def begin(self, head: bytes, body: bytes) -> None:
        """A request whose head is whole, and what came behind it."""
        length = LENGTH.search(head)
        size = int(length[1]) if length else 0
        asked = PATH.match(head)
        self.asked = int(asked[1]) if asked else None
        if size > len(body):
            self.left = size - len(body)
            return
        self.answer()
        self.head = body[size:]

    def answer(self) -> None:
        if self.asked is None:
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(SMALL), SMALL))
        else:
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % self.asked)
            self.to_send += self.asked
            self.pump()

    def pump(self) -> None:
        while self.to_send and self.writable and not self.transport.is_closing():
            piece = BLOCK[: self.to_send]
            self.to_send -= len(piece)
            self.transport.write(piece)

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        self.pump()


async def serve(host: str, context: ssl.SSLContext | None) -> asyncio.Server:
    return await asyncio.get_running_loop().create_server(Discarding, host, 0, ssl=context)


def port_of(server: asyncio.Server) -> int:
    return int(server.sockets[0].getsockname()[1])


async def main(host: str, certificate: str | None) -> None:
    ports = [port_of(await serve(host, None)), 0]
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        ports[1] = port_of(await serve(host, context))
    print("serving on", *ports, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(sys.argv[1], sys.argv[2] if sys.argv[2:] else None))
