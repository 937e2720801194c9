"""What TLS adds to the contract of byte streams (which ``test_conformance`` runs over every stream below)."""

from __future__ import annotations

import ssl
from contextlib import suppress

import anyio
import pytest

from tunnelkit.errors import StreamBroken
from tunnelkit.net import tls
from tunnelkit.net.memory import MemoryStream, memory_pair
from tunnelkit.net.stream import WRITE_BUFFER, ByteStream
from tunnelkit.net.tls import TlsFailure, TlsStream

from .pairs import CERTIFICATES, fill, open_tls_pair, pattern, read_all, read_exactly

pytestmark = pytest.mark.anyio


class Ends:
    """A TLS pair over memory, with the streams below at hand."""

    def __init__(self, below: tuple[MemoryStream, MemoryStream], tls: tuple[TlsStream, TlsStream]) -> None:
        self.client_below, self.server_below = below
        self.client, self.server = tls


@pytest.fixture
async def ends() -> Ends:
    below = memory_pair()
    return Ends(below, await open_tls_pair(*below))


async def handshakes(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, *, host: str = "localhost"
) -> tuple[TlsStream | TlsFailure, TlsStream | TlsFailure]:
    """Both sides' outcomes."""
    client_below, server_below = memory_pair()
    outcomes: dict[str, TlsStream | TlsFailure] = {}

    async def serve() -> None:
        try:
            outcomes["server"] = await TlsStream.server(server_below, server_context)
        except TlsFailure as exc:
            outcomes["server"] = exc

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve)
        try:
            outcomes["client"] = await TlsStream.client(client_below, client_context, server_hostname=host)
        except TlsFailure as exc:
            outcomes["client"] = exc
    return outcomes["client"], outcomes["server"]


# -- handshake ---------------------------------------------------------------------------------


async def test_facts(ends: Ends) -> None:
    assert ends.client.tls
    assert ends.server.tls
    assert ends.server.peer_certificate is None
    certificate = ends.client.peer_certificate
    assert certificate is not None
    assert ("DNS", "localhost") in certificate["subjectAltName"]  # type: ignore[operator]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_mutual_tls(version: ssl.TLSVersion) -> None:
    server_context = CERTIFICATES.server_for("localhost")
    server_context.verify_mode = ssl.CERT_REQUIRED
    CERTIFICATES.ca.configure_trust(server_context)
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    CERTIFICATES.ca.configure_trust(client_context)
    CERTIFICATES.ca.issue_cert("agent@example.org").configure_cert(client_context)
    client_context.maximum_version = version
    client, server = await handshakes(client_context, server_context)
    assert isinstance(client, TlsStream)
    assert isinstance(server, TlsStream)
    assert "agent@example.org" in str(server.peer_certificate)
    await client.send(b"hello")
    assert await server.receive() == b"hello"


async def test_a_client_without_the_certificate_that_is_wanted() -> None:
    server_context = CERTIFICATES.server_for("localhost")
    server_context.verify_mode = ssl.CERT_REQUIRED
    client, server = await handshakes(CERTIFICATES.client, server_context)
    assert isinstance(server, TlsFailure)
    assert server.error is not None
    assert server.error.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE"
    # In TLS 1.3 the client is done before the server looks: the alert comes when it reads.
    assert isinstance(client, TlsStream)
    with pytest.raises(StreamBroken, match="certificate required"):
        await client.receive()
    with pytest.raises(StreamBroken, match="certificate required"):
        client.try_send(b"x")
    await client.aclose()


async def test_the_alert_of_a_client_that_does_not_trust_reaches_the_server() -> None:
    client, server = await handshakes(ssl.create_default_context(), CERTIFICATES.server)
    assert isinstance(client, TlsFailure)
    assert isinstance(client.error, ssl.SSLCertVerificationError)
    assert isinstance(server, TlsFailure)
    assert "unknown ca" in str(server)


@pytest.mark.parametrize("how", ["eof", "cut"])
async def test_a_peer_that_ends_in_the_handshake(how: str) -> None:
    ours, theirs = memory_pair()
    if how == "eof":
        await theirs.aclose()
    else:
        theirs.abort()
    with pytest.raises(TlsFailure) as caught:
        await TlsStream.client(ours, CERTIFICATES.client, server_hostname="localhost")
    assert caught.value.error is None
    with pytest.raises(StreamBroken, match="closed"):
        ours.receive_nowait()


async def test_a_silent_peer_meets_a_deadline_and_the_stream_is_closed() -> None:
    ours, theirs = memory_pair()
    with pytest.raises(TimeoutError):
        await TlsStream.client(ours, CERTIFICATES.client, server_hostname="localhost", timeout=0.01)
    with pytest.raises(StreamBroken, match="reset"):
        theirs.receive_nowait()


async def test_a_cancelled_handshake_closes_the_stream() -> None:
    ours, theirs = memory_pair()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(TlsStream.server, ours, CERTIFICATES.server)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    with pytest.raises(StreamBroken, match="reset"):
        theirs.receive_nowait()


async def test_a_plain_http_request_gets_the_answer_in_plain() -> None:
    ours, theirs = memory_pair()
    await theirs.send(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(TlsFailure) as caught:
        await TlsStream.server(ours, CERTIFICATES.server, plain_http_answer=b"TLS, please")
    assert caught.value.error is not None
    assert caught.value.error.reason == "HTTP_REQUEST"
    assert await read_all(theirs) == b"TLS, please"


async def test_bytes_in_the_same_piece_as_the_end_of_the_handshake() -> None:
    """Everything byte by byte: the handshake and the data after it survive any split."""
    client_below, middle_one = memory_pair()
    middle_two, server_below = memory_pair()

    async def relay(source: ByteStream, target: ByteStream) -> None:
        with suppress(StreamBroken):
            while data := await source.receive():
                for position in range(len(data)):
                    await target.send(data[position : position + 1])
            await target.send_eof()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(relay, middle_one, middle_two)
        tasks.start_soon(relay, middle_two, middle_one)
        client, server = await open_tls_pair(client_below, server_below)
        await server.send(b"early")
        assert await read_exactly(client, 5) == b"early"
        await client.aclose()
        await server.aclose()


# -- the end -----------------------------------------------------------------------------------


async def test_an_end_without_close_notify_is_truncation(ends: Ends) -> None:
    await ends.server.send(b"partial")
    await ends.server_below.send_eof()
    assert await ends.client.receive() == b"partial"
    with pytest.raises(StreamBroken, match="truncated"):
        await ends.client.receive()
    with pytest.raises(StreamBroken, match="truncated"):
        ends.client.receive_nowait()
    await ends.client.wait(readable=True)


async def test_an_end_in_the_middle_of_a_record_is_truncation(ends: Ends) -> None:
    await ends.server.send(b"x" * 1000)
    record = await ends.client_below.receive()
    await ends.server_below.send_eof()
    broken, feeder = memory_pair()
    ends.client._stream = broken
    await feeder.send(record[:-1])
    await feeder.send_eof()
    with pytest.raises(StreamBroken, match="truncated"):
        await ends.client.receive()


async def test_truncation_is_seen_where_openssl_is_told_to_ignore_it() -> None:
    """As Python 3.11.2 tells it for every context, with OpenSSL 3."""
    context = ssl.create_default_context()
    CERTIFICATES.ca.configure_trust(context)
    context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
    client_below, server_below = memory_pair()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(TlsStream.server, server_below, CERTIFICATES.server)
        client = await TlsStream.client(client_below, context, server_hostname="localhost")
    await server_below.send_eof()
    with pytest.raises(StreamBroken, match="truncated"):
        await client.receive()


async def test_truncation_can_be_tolerated() -> None:
    client_below, server_below = memory_pair()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(TlsStream.server, server_below, CERTIFICATES.server)
        client = await TlsStream.client(
            client_below, CERTIFICATES.client, server_hostname="localhost", require_close_notify=False
        )
    await server_below.send_eof()
    assert await client.receive() == b""
    assert await client.receive() == b""


async def test_close_notify_is_sent_and_the_peers_is_not_waited_for(ends: Ends) -> None:
    await ends.client.aclose()
    assert await ends.server.receive() == b""
    assert await ends.server_below.receive() == b""
    await ends.server.aclose()


async def test_half_close_keeps_what_was_decrypted_and_what_was_not(ends: Ends) -> None:
    await ends.server.send(pattern(20_000))  # two records
    assert await ends.client.receive(10) == pattern(10)  # a record is decrypted as a whole
    await ends.client.send_eof()
    assert await read_exactly(ends.client, 19_990) == pattern(20_000)[10:]
    await ends.server.send(b"more")
    assert await ends.client.receive() == b"more"
    assert await ends.server.receive() == b""


# -- failures and bounds -----------------------------------------------------------------------


async def test_a_damaged_record_breaks_the_stream(ends: Ends) -> None:
    await ends.server.send(b"fine")
    await ends.server_below.send(b"\x17\x03\x03\x00\x20" + bytes(32))
    assert await ends.client.receive() == b"fine"
    with pytest.raises(StreamBroken, match="TLS: "):
        await ends.client.receive()
    # The peer is told.
    with pytest.raises(StreamBroken, match="alert bad record mac"):
        await ends.server.receive()


async def test_what_the_stream_below_does_not_take_is_bounded(ends: Ends) -> None:
    taken = await fill(ends.client)
    assert ends.client.try_send(b"x" * 1_000_000) == 0
    assert len(ends.client._unsent) + ends.client._outgoing.pending <= WRITE_BUFFER + 1024
    assert taken <= 3 * WRITE_BUFFER


async def test_what_the_stream_above_does_not_take_stays_below(ends: Ends) -> None:
    taken = await fill(ends.client)
    assert await ends.server.receive(1) == pattern(1)
    assert ends.server._incoming.pending + ends.server._tls.pending() <= 64 * 1024
    held_below = ends.server_below._held
    assert len(held_below) == 0  # one read, taken over as a whole
    assert await read_exactly(ends.server, 1000) == pattern(1001)[1:]
    assert taken >= 64 * 1024


async def test_a_broken_stream_below_breaks_this_one(ends: Ends) -> None:
    await fill(ends.client)
    ends.server_below.cut()
    for end in (ends.client, ends.server):
        await end.wait(readable=True)
        await end.wait()
        with pytest.raises(StreamBroken, match="reset"):
            end.receive_nowait()
        with pytest.raises(StreamBroken, match="reset"):
            end.try_send(b"x")
        await end.aclose()


async def test_a_reader_and_a_writer_share_the_stream_below(ends: Ends) -> None:
    """A reader that pushes gives its place to a writer, and takes it back when the writer leaves."""
    taken = await fill(ends.client)
    received: list[bytes] = []

    async def read() -> None:
        received.append(await read_exactly(ends.client, 5))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        async with anyio.create_task_group() as writers:
            writers.start_soon(lambda: ends.client.wait(writable=True))
            await anyio.wait_all_tasks_blocked()
            writers.cancel_scope.cancel()
        await anyio.wait_all_tasks_blocked()
        assert await read_exactly(ends.server, taken) == pattern(taken)
        await ends.server.send(b"reply")
    assert received == [b"reply"]


async def test_what_came_before_a_write_failed_can_be_read(ends: Ends) -> None:
    await ends.server.send(b"early answer")
    await ends.server.aclose()
    with pytest.raises(StreamBroken):
        ends.client.try_send(b"x")
    await ends.client.wait(readable=True)
    assert await read_all(ends.client) == b"early answer"
    with pytest.raises(StreamBroken):
        ends.client.try_send(b"x")
    await ends.client.aclose()


async def test_a_peer_that_asks_for_more_answers_than_it_reads(ends: Ends) -> None:
    """As key updates do, which Python's ssl cannot be told to send."""
    await fill(ends.client)
    ends.client._outgoing.write(bytes(3 * WRITE_BUFFER))
    await ends.server_below.send(b"\x17\x03")  # not yet a record
    with pytest.raises(StreamBroken, match="more TLS answers"):
        await ends.client.receive()


class Renegotiating:
    """An SSL object that wants to read before it writes, then one that fails."""

    def __init__(self, error: ssl.SSLError) -> None:
        self.error = error

    def write(self, data: object) -> int:
        raise self.error


def bad_length() -> ssl.SSLError:
    error = ssl.SSLError(1, "[SSL: BAD_LENGTH] bad length")
    error.reason = "BAD_LENGTH"
    return error


@pytest.mark.parametrize(
    ("error", "text"),
    [(ssl.SSLWantReadError(), "renegotiation"), (bad_length(), "TLS: bad length")],
)
async def test_an_ssl_object_that_cannot_write(ends: Ends, error: ssl.SSLError, text: str) -> None:
    ends.client._tls = Renegotiating(error)  # type: ignore[assignment]
    with pytest.raises(StreamBroken, match=text):
        ends.client.try_send(b"x")
    with pytest.raises(StreamBroken, match=text):
        await ends.client.receive()
    ends.client.abort()


async def test_a_half_close_waits_for_room_below(ends: Ends) -> None:
    taken = await fill(ends.client)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ends.client.send_eof)
        await anyio.wait_all_tasks_blocked()
        assert await read_all(ends.server) == pattern(taken)
    assert ends.client.write_buffered == 0


async def test_aclose_gives_up_after_its_deadline(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "CLOSE_TIMEOUT", 0.0)
    await fill(ends.client)
    await ends.client.aclose()
    with pytest.raises(StreamBroken, match="reset"):
        await read_all(ends.server)


async def test_a_send_waits_until_the_stream_below_has_all(ends: Ends) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ends.client.send, pattern(100_000))  # all of it is encrypted before all of it is taken
        await anyio.wait_all_tasks_blocked()
        assert ends.client.write_buffered
        assert await read_exactly(ends.server, 100_000) == pattern(100_000)
    assert ends.client.write_buffered == 0
