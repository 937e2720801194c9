"""A transport over plain TCP: every message stands behind its length. Not encrypted: for trusted networks.

It shows the two halves of a transport, and how a connection puts messages into a stream of bytes. ``python
custom_transport.py`` runs a tunnel over it. In a program, ``TunnelClient(transport=TcpTransport("HOST:PORT"))`` dials
what ``TunnelServer(transports=["websocket", TcpTransport("0.0.0.0:PORT")])`` listens on.
"""

import sys

import anyio
from anyio.abc import TaskStatus

from tunnelkit import TunnelClient, TunnelServer
from tunnelkit.errors import ConnectionLost
from tunnelkit.transports import (
    ByteStream,
    Connection,
    DialRequest,
    Grant,
    Listener,
    Offer,
    Peer,
    StreamConnection,
    Transport,
    greet_client,
    greet_server,
)

HEADER = 4  # bytes of a length
CLOSE = 1 << 31  # set in a length: no message, but a close, with its code in place of the length


class TcpConnection(StreamConnection):
    """Messages in a stream of bytes; the rest of a connection's promises is kept by ``StreamConnection``."""

    transport = "tcp"
    max_message = 64 * 1024 - HEADER

    def encode(self, message: bytes) -> bytes:
        return len(message).to_bytes(HEADER) + message

    def encode_close(self, code: int, reason: str) -> bytes:
        return (CLOSE | code).to_bytes(HEADER)

    def decode(self, received: bytearray) -> bytes | None:
        if len(received) < HEADER:
            return None
        length = int.from_bytes(received[:HEADER])
        if length & CLOSE:
            raise ConnectionLost("closed by the peer", clean=True, code=length & ~CLOSE)
        if length > self.max_message:  # judged before any of it is held
            raise ConnectionLost(f"the peer announced a message of {length} bytes", code=1009)
        if len(received) < HEADER + length:
            return None
        message = bytes(received[HEADER : HEADER + length])
        del received[: HEADER + length]
        return message


class TcpTransport(Transport):
    """``address`` is where the server half listens (port 0 picks one), and where the client half dials."""

    name = "tcp"

    def __init__(self, address: str = "127.0.0.1:8090") -> None:
        self.address = address

    async def dial(self, request: DialRequest) -> tuple[Connection, Grant]:
        """The client half. The dialler goes through proxies, where the client is told of any."""
        host, _, port = self.address.rpartition(":")
        connection = TcpConnection(await request.dialler(host, int(port), tls=False))
        return connection, await greet_server(connection, request)

    async def listen(self, offer: Offer, *, task_status: TaskStatus[None]) -> None:
        """The server half: a task for each client, until it is cancelled."""

        async def serve(stream: ByteStream) -> None:
            await greet_client(TcpConnection(stream), Peer(address=stream.peer_address[0]), offer)

        listener = Listener.bind(self.address)
        self.address = "{}:{}".format(*listener.addresses[0])
        await listener.serve(serve, task_status=task_status)


async def main() -> None:
    carrier = TcpTransport("127.0.0.1:0")  # in one program both ends may share it
    async with TunnelServer("127.0.0.1:0", transports=[carrier]) as server:
        url, token = server.url, "a-secret-of-16-letters"
        async with TunnelClient(url, token=token, origin="http://127.0.0.1:8000", transport=carrier) as client:
            await client.wait_ready(timeout=10)
            print("joined by", client.transport)


if __name__ == "__main__":
    anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
