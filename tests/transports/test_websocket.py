"""The websocket transport: its halves against each other, and each against what the world puts in its way."""

from __future__ import annotations

import base64
import hashlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st

from tunnelkit.config import DEFAULT_LIMITS
from tunnelkit.errors import (
    AnsweredByOther,
    ConnectionLost,
    DialError,
    LocalProtocolError,
    RegistrationRefused,
    StreamBroken,
)
from tunnelkit.handshake import Grant, Handshake, Refusal
from tunnelkit.heads import Fields
from tunnelkit.http.caller import FrontRequest
from tunnelkit.http.front import Front
from tunnelkit.http.mounted import Mounted
from tunnelkit.net.dial import Dial
from tunnelkit.net.listen import Listener
from tunnelkit.net.memory import MemoryStream, memory_pair
from tunnelkit.net.peer import Peer
from tunnelkit.net.stream import ByteStream
from tunnelkit.net.timers import Timers
from tunnelkit.transports.answers import Target
from tunnelkit.transports.base import Accepted, Connection, DialRequest
from tunnelkit.transports.websocket import WebSocketTransport
from tunnelkit.transports.websocket import opening as websocket
from tunnelkit.transports.websocket.handshake import request_fields
from tunnelkit.transports.websocket.opening import MAX_BODY

from .conformance import pump
from .stubs import PROVER, By, NoPieces, dial_request

pytestmark = pytest.mark.anyio

TOKEN = "0123456789abcdef"
HANDSHAKE = Handshake(token=TOKEN)
GRANT = Grant(
    session_id="n-1", resume_key=bytes(32), replay_window=4096, stream_floor=1024, max_streams=10, grace=30.0
)


class Acceptance:
    """An ``Accepted`` that echoes."""

    def __init__(self) -> None:
        self.grant = GRANT
        self.prover = PROVER
        self.abandoned = False
        self.served = False

    async def serve(self, connection: Connection) -> None:
        self.served = True
        with suppress(ConnectionLost):
            while True:
                await pump(connection, [await connection.receive()])
        await connection.aclose()

    def abandon(self) -> None:
        self.abandoned = True


class Offers:
    """The server's decisions, as a test scripts them."""

    def __init__(self, answer: Accepted | Refusal | None = None) -> None:
        self.answer = answer or Acceptance()
        self.seen: list[tuple[Handshake, Peer]] = []

    async def __call__(self, handshake: Handshake, peer: Peer) -> Accepted | Refusal:
        self.seen.append((handshake, peer))
        return self.answer


# -- the client half against a scripted server ---------------------------------------------------

Script = Callable[[MemoryStream, bytes], Awaitable[None]]


def says(answer: bytes) -> Script:
    """A server that answers so and ends its half; ``{accept}`` stands for the right key."""

    async def script(stream: MemoryStream, request: bytes) -> None:
        key = request.split(b"Sec-WebSocket-Key: ")[1].split(b"\r\n")[0]
        digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        await stream.send(answer.replace(b"{accept}", base64.b64encode(digest)))
        await stream.send_eof()

    return script


SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: tunnelkit.v1\r\n"
    b"Tunnelkit-Session: n-1\r\nTunnelkit-Version: 1\r\n"
)


class Outcome:
    """Of one dial: what it gave or raised."""

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.grant: Grant | None = None
        self.error: Exception | None = None
        self.request = b""


async def dial(
    script: Script, *, url: str = "http://tunnel.example:8080", timeout: float = 5, user_agent: str = "test/1"
) -> Outcome:
    """One dial to a server that follows ``script`` once it has the request's head."""
    near, far = memory_pair()
    outcome = Outcome()

    async def dialler(host: str, port: int, *, tls: bool) -> ByteStream:
        assert (host, port, tls) == ("tunnel.example", 8080, url.startswith("https"))
        return near

    async def serve() -> None:
        with suppress(StreamBroken):  # a client that has seen enough
            while not outcome.request.endswith(b"\r\n\r\n"):
                piece = await far.receive()
                if not piece:
                    return
                outcome.request += piece
            await script(far, outcome.request)

    request = dial_request(HANDSHAKE, By(dialler), url=url, timeout=timeout, user_agent=user_agent)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve)
            try:
                outcome.connection, outcome.grant = await WebSocketTransport().dial(request)
            except (DialError, RegistrationRefused, LocalProtocolError) as error:
                outcome.error = error
                with pytest.raises(StreamBroken):
                    await near.receive()  # a failed dial leaves nothing open
            tasks.cancel_scope.cancel()
    return outcome


async def test_a_dial_gives_the_connection_the_grant_and_what_came_early() -> None:
    outcome = await dial(says(SWITCH + b"\r\n\x82\x05early"))
    assert outcome.grant is not None
    assert outcome.grant.session_id == "n-1"
    assert outcome.connection is not None
    assert await outcome.connection.receive() == b"early"
    assert outcome.request.startswith(b"GET /_tunnel HTTP/1.1\r\nHost: tunnel.example:8080\r\nUser-Agent: test/1\r\n")


async def test_an_interim_answer_and_a_torn_one_are_no_matter() -> None:
    async def script(stream: MemoryStream, request: bytes) -> None:
        whole, far = memory_pair()
        await says(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + SWITCH + b"\r\n\x82\x01e")(whole, request)
        for byte in await far.receive():
            await stream.send(bytes([byte]))

    outcome = await dial(script)
    assert outcome.connection is not None
    assert await outcome.connection.receive() == b"e"


async def test_a_flood_of_interim_answers_leaves_others_their_turns() -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await checkpoint()
            turns += 1

    async with anyio.create_task_group() as group:
        group.start_soon(others)
        outcome = await dial(says(b"HTTP/1.1 102 Processing\r\n\r\n" * 500 + SWITCH + b"\r\n"))
        group.cancel_scope.cancel()
    assert outcome.connection is not None
    assert turns > 250


async def test_a_refusal_is_the_servers_decision() -> None:
    body = b'{"type": "urn:tunnelkit:error:unauthorized", "code": "unauthorized", "detail": "wrong password"}'
    outcome = await dial(
        says(
            b"HTTP/1.1 401 No\r\nContent-Type: application/problem+json\r\nContent-Length: %d\r\n\r\n%b"
            % (len(body), body)
        )
    )
    assert isinstance(outcome.error, RegistrationRefused)
    assert (outcome.error.status, outcome.error.code, outcome.error.detail) == (401, "unauthorized", "wrong password")


@pytest.mark.parametrize(
    ("answer", "status", "hint"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nWelcome", 200, "captive portal"),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", 200, "captive portal"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 900\r\n\r\ncut short", 404, "base path"),
        (b"HTTP/1.1 407 Auth\r\nContent-Length: 0\r\n\r\n", 407, "proxy's URL"),
        (b"HTTP/1.1 301 Moved\r\nLocation: https://tunnel.example/\r\nContent-Length: 0\r\n\r\n", 301, "use wss://"),
        (b"HTTP/1.1 502 Bad\r\nTransfer-Encoding: chunked\r\n\r\nzz", 502, "does not reach"),
        (SWITCH.replace(b"tunnelkit.v1", b"chat") + b"\r\n", 101, "tunnelkit server"),
    ],
)
async def test_every_other_answer_came_from_something_in_between(answer: bytes, status: int, hint: str) -> None:
    outcome = await dial(says(answer))
    assert isinstance(outcome.error, AnsweredByOther)
    assert outcome.error.status == status
    assert hint in outcome.error.hint


@pytest.mark.parametrize("rest", [b"x" * (8 * MAX_BODY), b"", b"never more"])
async def test_a_body_without_end_does_not_hold_the_status_up(rest: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "BODY_TIMEOUT", 0.05)

    async def script(stream: MemoryStream, request: bytes) -> None:
        await stream.send(b"HTTP/1.1 503 Busy\r\nContent-Length: 999999999\r\n\r\n" + rest)
        await anyio.sleep_forever()

    outcome = await dial(script)
    assert isinstance(outcome.error, AnsweredByOther)
    assert outcome.error.status == 503


@pytest.mark.parametrize(
    ("answer", "url", "text", "hint"),
    [
        (b"", "http://tunnel.example:8080", "without an answer", "use wss://"),
        (b"", "https://tunnel.example:8080", "without an answer", ""),
        (b"HTTP/1.1 2", "http://tunnel.example:8080", "not HTTP", ""),
        (b"220 mail.example ESMTP\r\n\r\n", "http://tunnel.example:8080", "not HTTP", ""),
        (b"\x15\x03\x01\x00\x02\x02\x46", "http://tunnel.example:8080", "not HTTP", "that port speaks TLS"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000, "http://tunnel.example:8080", "not HTTP", ""),
        (SWITCH.replace(b"{accept}", b"bm90IG91cnM="), "http://tunnel.example:8080", "not HTTP", ""),
        (SWITCH.replace(b"{accept}", b"bm90IG91cnM=") + b"\r\n", "http://tunnel.example:8080", "Accept", ""),
        (SWITCH.replace(b"n-1", b"\xff") + b"\r\n", "http://tunnel.example:8080", "grant", ""),
    ],
)
async def test_garbage_is_a_dial_error(answer: bytes, url: str, text: str, hint: str) -> None:
    outcome = await dial(says(answer), url=url)
    assert isinstance(outcome.error, DialError)
    assert not isinstance(outcome.error, AnsweredByOther)
    assert outcome.error.stage == "handshake"
    assert text in str(outcome.error)
    assert hint in outcome.error.hint
    assert bool(hint) == bool(outcome.error.hint)


async def test_a_connection_that_breaks_is_a_dial_error() -> None:
    async def script(stream: MemoryStream, request: bytes) -> None:
        await stream.send(b"HTTP/1.1 1")
        stream.cut()

    assert isinstance((await dial(script)).error, DialError)


async def test_a_silent_server_is_a_dial_error_in_time() -> None:
    async def script(stream: MemoryStream, request: bytes) -> None:
        await anyio.sleep_forever()

    error = (await dial(script, timeout=0.02)).error
    assert isinstance(error, DialError)
    assert error.stage == "handshake"
    assert "0.02 s" in str(error)


@given(st.binary(max_size=200), st.booleans())
def test_random_answers_cost_only_their_own_dial(answer: bytes, is_http: bool) -> None:
    outcome = anyio.run(dial, says(b"HTTP/1.1 " * is_http + answer))
    assert isinstance(outcome.error, DialError)


async def request_through(dialler: Callable[..., Awaitable[ByteStream]], timeout: float = 5) -> DialError:
    request = dial_request(HANDSHAKE, By(dialler), timeout=timeout)
    with anyio.fail_after(10), pytest.raises(DialError) as caught:
        await WebSocketTransport().dial(request)
    return caught.value


async def test_what_the_dialler_raises_passes() -> None:
    async def dialler(host: str, port: int, *, tls: bool) -> ByteStream:
        raise DialError("resolve", "no such host")

    assert (await request_through(dialler)).stage == "resolve"


async def test_a_slow_dialler_is_cut_off_as_its_own_stage() -> None:
    async def dialler(host: str, port: int, *, tls: bool) -> ByteStream:
        await anyio.sleep_forever()
        raise AssertionError("unreachable")

    assert (await request_through(dialler, timeout=0.01)).stage == "connect"


async def test_a_stream_that_breaks_at_once_is_a_dial_error() -> None:
    async def dialler(host: str, port: int, *, tls: bool) -> ByteStream:
        near, far = memory_pair()
        far.abort()
        return near

    assert (await request_through(dialler)).stage == "handshake"


async def test_a_cancelled_dial_closes_what_it_opened() -> None:
    near, far = memory_pair()

    async def dialler(host: str, port: int, *, tls: bool) -> ByteStream:
        return near

    request = dial_request(HANDSHAKE, By(dialler))
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(WebSocketTransport().dial, request)
            assert await far.receive()
            tasks.cancel_scope.cancel()
        with pytest.raises(StreamBroken):
            await far.receive()


async def test_a_field_that_http_cannot_carry_is_not_quoted() -> None:
    async def never(stream: MemoryStream, request: bytes) -> None:
        raise AssertionError("a request was sent")

    error = (await dial(never, user_agent="two\r\nlines")).error
    assert isinstance(error, LocalProtocolError)
    assert "two" not in str(error)
    assert error.__cause__ is None


# -- the server half -----------------------------------------------------------------------------

GOOD = request_fields(Target.parse("http://h"), b"dGhlIHNhbXBsZSBub25jZQ==", HANDSHAKE, "")


class FakeRequest(NoPieces):
    """A ``MountedRequest`` that keeps what it is answered."""

    def __init__(self, fields: Fields, method: bytes = b"GET") -> None:
        self.method = method
        self.path = ""
        self.fields = fields
        self.peer = Peer(address="192.0.2.1")
        self.status = 0
        self.answer: Fields = []
        self.failure: BaseException | None = None
        self.far: MemoryStream | None = None

    async def body(self, max_bytes: int) -> bytes:
        raise AssertionError("a websocket's request has no body")

    async def respond(self, status: int, fields: Fields, body: bytes = b"") -> None:
        self.status, self.answer = status, fields
        if self.failure is not None:
            raise self.failure

    async def upgrade(self, fields: Fields) -> ByteStream:
        if self.failure is not None:
            raise self.failure
        self.status, self.answer = 101, fields
        near, self.far = memory_pair()
        self.far.abort()
        return near


async def test_a_grant_upgrades_and_serves() -> None:
    request, acceptance = FakeRequest(GOOD), Acceptance()
    offers = Offers(acceptance)
    with anyio.fail_after(10):
        await WebSocketTransport().mounted(request, offers)
    assert request.status == 101
    assert acceptance.served
    assert not acceptance.abandoned
    assert offers.seen == [(HANDSHAKE, Peer(address="192.0.2.1"))]


async def test_a_refusal_upgrades_nothing() -> None:
    request = FakeRequest(GOOD)
    offers = Offers(Refusal(status=429, code="too_many_clients", detail="enough", retry_after=5))
    await WebSocketTransport().mounted(request, offers)
    assert request.status == 429
    assert (b"Retry-After", b"5") in request.answer


async def test_a_wrong_request_makes_no_offer() -> None:
    request, offers = FakeRequest(GOOD, b"POST"), Offers()
    await WebSocketTransport().mounted(request, offers)
    assert request.status == 405
    assert not offers.seen


async def test_a_client_that_left_is_abandoned() -> None:
    request, acceptance = FakeRequest(GOOD), Acceptance()
    request.failure = StreamBroken("gone")
    await WebSocketTransport().mounted(request, Offers(acceptance))
    assert acceptance.abandoned
    assert not acceptance.served
    await WebSocketTransport().mounted(request, Offers(Refusal(status=403, code="forbidden", detail="no")))


async def test_a_cancelled_upgrade_is_abandoned() -> None:
    acceptance = Acceptance()

    class Stuck(FakeRequest):
        async def upgrade(self, fields: Fields) -> ByteStream:
            await anyio.sleep_forever()
            raise AssertionError("unreachable")

    with anyio.move_on_after(0.01):
        await WebSocketTransport().mounted(Stuck(GOOD), Offers(acceptance))
    assert acceptance.abandoned


# -- both halves over loopback, below the real front ---------------------------------------------


@asynccontextmanager
async def server(offers: Offers, ssl_context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """A listener whose front mounts the transport at /_tunnel; gives its URL."""
    transport, timers = WebSocketTransport(), Timers()

    async def handler(request: FrontRequest) -> None:
        assert request.head.target == b"/base/_tunnel"
        await transport.mounted(Mounted(request, transport.mount_path()), offers)

    front = Front(handler, timers=timers, limits=DEFAULT_LIMITS)

    async def connection(stream: ByteStream) -> None:
        await front.serve_connection(stream, Peer(address=stream.peer_address[0]))

    listener = Listener.bind("127.0.0.1:0", ssl_context=ssl_context)
    async with anyio.create_task_group() as tasks:
        await tasks.start(timers.run)
        await tasks.start(lambda *, task_status: listener.serve(connection, task_status=task_status))
        yield f"{listener.urls[0]}/base"
        tasks.cancel_scope.cancel()


def to(url: str, ssl_context: ssl.SSLContext | None = None) -> DialRequest:
    return dial_request(HANDSHAKE, Dial(ssl_context=ssl_context), url=url)


@pytest.mark.parametrize("with_tls", [False, True])
async def test_messages_go_there_and_back(
    with_tls: bool, client_ssl_context: ssl.SSLContext, server_ssl_context: ssl.SSLContext
) -> None:
    acceptance = Acceptance()
    with anyio.fail_after(10):
        async with server(Offers(acceptance), server_ssl_context if with_tls else None) as url:
            connection, grant = await WebSocketTransport().dial(to(url, client_ssl_context))
            assert grant == GRANT
            for size in (1, 24, 1000, connection.max_message):
                message = bytes(i % 251 for i in range(size))
                await pump(connection, [message])
                assert await connection.receive() == message
            await connection.aclose()
    assert acceptance.served


async def test_a_refusal_arrives_whole() -> None:
    with anyio.fail_after(10):
        async with server(Offers(Refusal(status=401, code="unauthorized", detail="wrong password"))) as url:
            with pytest.raises(RegistrationRefused, match="wrong password") as caught:
                await WebSocketTransport().dial(to(url))
    assert caught.value.terminal


async def test_ws_to_a_tls_port_is_explained(server_ssl_context: ssl.SSLContext) -> None:
    with anyio.fail_after(10):
        async with server(Offers(), server_ssl_context) as url:
            with pytest.raises(DialError, match="use wss://"):
                await WebSocketTransport().dial(to(url.replace("https", "http")))


async def test_garbage_costs_only_its_own_connection() -> None:
    with anyio.fail_after(10):
        async with server(Offers()) as url:
            target = Target.parse(url)
            for garbage in (b"\x00\xff" * 100, b"GET /base/_tunnel HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01"):
                stream = await Dial()(target.host, target.port, tls=False)
                await stream.send(garbage)
                await stream.send_eof()
                with suppress(StreamBroken):
                    while await stream.receive():
                        pass
                stream.abort()
            connection, _ = await WebSocketTransport().dial(to(url))
            await connection.aclose()
