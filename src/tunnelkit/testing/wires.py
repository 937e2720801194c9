"""A transport's two halves, wired up over loopback without a tunnel server: what the conformance kit runs on.

The client half really dials, the server half really listens or answers requests on an HTTP port. Between them, for
transports that dial by the ``dialler`` they are given, stands a ``Relay``, so that checks can cut and stall.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

import anyio
from anyio.abc import TaskGroup, TaskStatus

from ..errors import DialError
from ..handshake import Grant, Handshake, Refusal
from ..http.caller import FrontRequest
from ..http.front import Front
from ..http.mounted import Mounted
from ..net.dial import connect_tcp
from ..net.listen import Listener
from ..net.stream import ByteStream
from ..net.timers import Timers
from ..net.tls import TlsFailure, TlsStream
from ..net.tls_errors import tls_dial_error
from ..proof import FIRST_EPOCH, KEY_SIZE, Prover
from ..transports.base import Accepted, Connection, DialRequest, ForwardProxy, Peer, Transport
from .relay import Relay, serve_relay

__all__ = ["HANDSHAKE", "PREFIX", "Faults", "Maker", "Served", "Wires", "wired"]

HANDSHAKE: Final = Handshake(token="0123456789abcdef", client_version="kit", instance="kit")
PREFIX: Final = "/_tunnel"  # where the server's port has its transports
DIAL_TIMEOUT: Final = 10.0

_KEY: Final = bytes(range(KEY_SIZE))
_logger = logging.getLogger("tunnelkit.testing")


class Faults(Protocol):
    """What a maker can do to the way between the ends. ``Relay`` and ``MemoryTransport`` are such."""

    def cut(self) -> object:
        """Lose every connection, with what is on its way; both ends learn it."""
        ...

    def stall(self) -> None:
        """Nothing passes until ``resume``, and nobody is told."""
        ...

    def resume(self) -> None:
        """What was stalled passes."""
        ...


class Served:
    """The kit's ``Accepted``: one granted offer, and the server's end of its connection."""

    def __init__(self, grant: Grant, over: anyio.Event) -> None:
        self.grant = grant
        self.prover = _prover(grant)
        self.connection: Connection | None = None
        self.decisions: list[str] = []  # "serve" or "abandon": the contract wants one
        self._over = over
        self._decided = anyio.Event()

    async def serve(self, connection: Connection) -> None:
        self.decisions.append("serve")
        self.connection = connection
        self._decided.set()
        try:
            await self._over.wait()
        finally:
            connection.abort()

    def abandon(self) -> None:
        self.decisions.append("abandon")
        self._decided.set()

    async def decided(self) -> None:
        """Wait until the server half called ``serve`` or ``abandon``."""
        await self._decided.wait()


def _prover(grant: Grant) -> Prover:
    return Prover(grant.resume_key or _KEY, grant.session_id, FIRST_EPOCH)


class Wires:
    """Both halves at work, and what the server's side of the kit says and saw. Made by ``wired``."""

    def __init__(self, transport: Transport, tasks: TaskGroup, faults: Faults | None) -> None:
        self.transport = transport
        self.url = ""
        self.faults = faults
        self.relay: Relay | None = None  # where a dial went through one
        self.detection = 0.0  # seconds in which an end with a liveness of its own notices a silent peer
        # -- the server's decision --
        self.refusal: Refusal | None = None  # None: granted
        self.hesitation: anyio.Event | None = None  # an offer waits for it
        self.grant = Grant(
            session_id="kit-0",
            resume_key=_KEY,
            features=frozenset({"kit"}),
            replay_window=4 * 1024 * 1024,
            stream_floor=16 * 1024,
            max_streams=1000,
            grace=30.0,
            public_url="http://kit.example/_token/",
        )
        # -- what it saw --
        self.offers: list[tuple[Handshake, Peer]] = []
        self.served: list[Served] = []
        self._tasks = tasks
        self._dialler = _Dialler(self)
        self._client_ssl: ssl.SSLContext | None = None
        self._connections: list[Connection] = []
        self._over = anyio.Event()
        self._news = anyio.Event()
        self._server = anyio.CancelScope()
        self._closed = anyio.Event()

    # -- the client's side ---------------------------------------------------------------------

    async def connect(self) -> tuple[Connection, Connection]:
        """A new connection: the client's end and the server's."""
        client, grant = await self.dial()
        (served,) = [each for each in self.served if each.grant.session_id == grant.session_id]
        with anyio.fail_after(DIAL_TIMEOUT):
            await served.decided()
        if served.connection is None:
            raise DialError("handshake", "the server half abandoned the connection that the client half made")
        return client, served.connection

    async def dial(
        self,
        handshake: Handshake = HANDSHAKE,
        *,
        timeout: float = DIAL_TIMEOUT,
        tasks: TaskGroup | None = None,
    ) -> tuple[Connection, Grant]:
        """The client half alone."""
        connection, grant = await self.transport.dial(
            DialRequest(
                url=self.url,
                handshake=handshake,
                dialler=self._dialler,
                timeout=timeout,
                tasks=tasks or self._tasks,
                prover=_prover,
                user_agent="tunnelkit-kit",
                ssl_context=self._client_ssl,
            )
        )
        self._connections.append(connection)
        return connection, grant

    # -- the server's side ---------------------------------------------------------------------

    async def offer(self, handshake: Handshake, peer: Peer) -> Accepted | Refusal:
        """The kit's ``Offer``."""
        self.offers.append((handshake, peer))
        refusal, hesitation = self.refusal, self.hesitation
        self._ring()
        if hesitation is not None:
            await hesitation.wait()
        if refusal is not None:
            return refusal
        served = Served(self._numbered_grant(), self._over)
        self.served.append(served)
        self._ring()
        return served

    def _numbered_grant(self) -> Grant:
        given = {name: getattr(self.grant, name) for name in Grant.__dataclass_fields__}
        return Grant(**(given | {"session_id": f"kit-{len(self.served)}"}))

    async def until_offered(self, count: int) -> None:
        """Wait until that many offers were made in all."""
        while len(self.offers) < count:
            await self._news.wait()

    async def until_served(self, count: int) -> None:
        """Wait until that many were granted."""
        while len(self.served) < count:
            await self._news.wait()

    async def close_server(self) -> None:
        """The server's side goes away: from now on, nobody answers a dial."""
        self._server.cancel()
        await self._closed.wait()

    # -- the end -------------------------------------------------------------------------------

    def abort(self) -> None:
        """Abort every connection, on both sides."""
        for connection in self._connections:
            connection.abort()
        for served in self.served:
            if served.connection is not None:
                served.connection.abort()

    def _ring(self) -> None:
        news, self._news = self._news, anyio.Event()
        news.set()


# Makes a fresh pair of halves for each check: ``lambda: wired(MyTransport())``.
Maker: TypeAlias = Callable[[], AbstractAsyncContextManager[Wires]]


class _Dialler:
    """A dialler that leads through a relay, one for each destination."""

    def __init__(self, wires: Wires) -> None:
        self._wires = wires
        self._relays: dict[tuple[str, int], Relay] = {}

    async def __call__(self, host: str, port: int, *, tls: bool) -> ByteStream:
        relay = self._relays.get((host, port))
        if relay is None:
            relay = self._relays[host, port] = await self._wires._tasks.start(_run_relay, host, port)
            self._wires.relay = relay
            self._wires.faults = self._wires.faults or relay
        stream = await connect_tcp("127.0.0.1", relay.port, timeout=DIAL_TIMEOUT)
        return await self._start_tls(stream, host) if tls else stream

    async def _start_tls(self, stream: ByteStream, host: str) -> ByteStream:
        context = self._wires._client_ssl or ssl.create_default_context()
        try:
            return await TlsStream.client(stream, context, server_hostname=host, timeout=DIAL_TIMEOUT)
        except TlsFailure as exc:
            raise tls_dial_error(exc, host) from exc

    def forward_proxy(self, host: str, port: int) -> ForwardProxy | None:
        return None


async def _run_relay(host: str, port: int, *, task_status: TaskStatus[Relay]) -> None:
    async with serve_relay(port, host=host) as relay:
        task_status.started(relay)
        await anyio.sleep_forever()


@dataclass
class _Port:
    """The HTTP port of a server's half that is mounted."""

    wires: Wires

    async def answer(self, request: FrontRequest) -> None:
        transport = self.wires.transport
        mount = PREFIX + (transport.mount_path() or "")
        path = request.head.target.partition(b"?")[0].decode("ascii", "replace")
        below = path.removeprefix(mount)
        if path.startswith(mount) and (not below or (mount != PREFIX and below.startswith("/"))):
            await transport.mounted(Mounted(request, below), self.wires.offer)
        else:
            await Mounted(request, path).respond(404, [])

    async def serve(self, server_ssl: ssl.SSLContext | None, *, task_status: TaskStatus[str]) -> None:
        listener = Listener.bind("127.0.0.1:0", ssl_context=server_ssl, logger=_logger)
        timers = Timers(_logger)
        front = Front(self.answer, timers=timers)

        async def handle(stream: ByteStream) -> None:
            address, port = stream.peer_address
            await front.serve_connection(stream, Peer(address=address, port=port, tls=stream.tls))

        async with anyio.create_task_group() as tasks:
            await tasks.start(timers.run)
            await tasks.start(lambda *, task_status: listener.serve(handle, task_status=task_status))
            scheme = "http" if server_ssl is None else "https"
            task_status.started(f"{scheme}://localhost:{listener.addresses[0][1]}")


@asynccontextmanager
async def wired(
    transport: Transport,
    *,
    faults: Faults | None = None,
    detection: float = 60.0,
    server_ssl: ssl.SSLContext | None = None,
    client_ssl: ssl.SSLContext | None = None,
) -> AsyncIterator[Wires]:
    """Both halves of ``transport``, at work while the context lasts.

    ``faults`` does what a relay would, for a transport that dials by itself. ``detection``: seconds in which a
    connection that does not want the session's pings notices a silent peer. With ``server_ssl`` (a certificate for
    ``localhost``) and ``client_ssl``, the HTTP port speaks TLS.
    """
    async with anyio.create_task_group() as tasks:
        wires = Wires(transport, tasks, faults)
        wires.detection, wires._client_ssl = detection, client_ssl
        await tasks.start(_run_server, wires, server_ssl)
        try:
            yield wires
        finally:
            wires.abort()
            wires._over.set()
            with anyio.CancelScope(shield=True):
                await anyio.wait_all_tasks_blocked()  # asyncio closes a socket a turn later
            tasks.cancel_scope.cancel()


async def _run_server(wires: Wires, server_ssl: ssl.SSLContext | None, *, task_status: TaskStatus[None]) -> None:
    transport = wires.transport
    with wires._server:
        async with anyio.create_task_group() as tasks:
            await tasks.start(lambda *, task_status: transport.listen(wires.offer, task_status=task_status))
            wires.url = "http://127.0.0.1:9"  # the port of nobody, for those that find their listener by themselves
            if transport.mount_path() is not None:
                wires.url = await tasks.start(_Port(wires).serve, server_ssl)
            task_status.started()
    wires._closed.set()
