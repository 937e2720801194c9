"""Who may register, and what becomes of the sessions of before (design, sections 4 and 8)."""

from __future__ import annotations

import json
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme
from anyio.abc import TaskStatus
from cryptography.x509 import load_pem_x509_certificate

from tunnelkit import ConfigError, RegistrationRefused, TlsFiles, TunnelServer
from tunnelkit.config import DEFAULT_LIMITS
from tunnelkit.core.credentials import hash_password
from tunnelkit.errors import ConnectionLost
from tunnelkit.events import ClientEvent, Retrying
from tunnelkit.handshake import Grant, Handshake, Resume, to_fields
from tunnelkit.net.dial import Dial, connect_tcp
from tunnelkit.proof import Purpose, attach_tag, epoch_key, proof
from tunnelkit.server_session import ServerSession
from tunnelkit.testing.relay import serve_relay
from tunnelkit.transports.base import Connection
from tunnelkit.transports.websocket import WebSocketTransport

from ..transports.stubs import dial_request
from .tunnel import QUICK, SHORT, TOKEN, Ends, ask, exchange, open_ends, open_tunnel, parse_head, read_head, until

pytestmark = pytest.mark.anyio

OTHER_TOKEN = "another-token-for-the-tests"
PASSWORD = "correct horse"
ONE_CLIENT = replace(DEFAULT_LIMITS, max_clients_per_token=1)


async def refusal(ends: Ends, **options: Any) -> RegistrationRefused:
    """What a client's user gets that is refused for good."""
    with pytest.raises(RegistrationRefused) as caught, anyio.fail_after(10):
        async with ends.join(ready=False, **options):
            await anyio.sleep_forever()  # the body is cancelled
    return caught.value


# -- passwords ---------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["plain", "scrypt"])
def secret(request: pytest.FixtureRequest) -> str:
    return PASSWORD if request.param == "plain" else str(hash_password(PASSWORD, b"16 bytes of salt", n=2**12))


async def test_the_right_password_opens(secret: str) -> None:
    async with open_ends(passwords={TOKEN: secret}) as ends, ends.join(password=PASSWORD):
        assert (await ends.get("/echo"))[0] == 200


@pytest.mark.parametrize("password", ["wrong", None, "", PASSWORD + " "])
async def test_a_wrong_or_missing_password_ends_the_client(secret: str, password: str | None) -> None:
    async with open_ends(passwords={TOKEN: secret}) as ends:
        error = await refusal(ends, password=password)
        assert (error.status, error.code) == (401, "unauthorized")
        assert "password" in error.detail
        assert PASSWORD not in str(error)
        assert not ends.server.sessions()


async def test_a_hash_is_no_password() -> None:
    hashed = str(hash_password(PASSWORD, b"16 bytes of salt", n=2**12))
    async with open_ends(passwords={TOKEN: hashed}) as ends:
        assert (await refusal(ends, password=hashed)).code == "unauthorized"


async def test_a_password_is_for_registering_and_not_for_calling(secret: str) -> None:
    async with open_ends(passwords={TOKEN: secret}) as ends, ends.join(password=PASSWORD):
        assert (await ask(ends.port, "/echo", X_Token=TOKEN))[0] == 200


async def test_a_refusal_comes_out_of_wait_ready_too() -> None:
    async with open_ends(passwords={TOKEN: PASSWORD}) as ends:
        with pytest.raises(RegistrationRefused):
            async with ends.join():
                raise AssertionError("never ready")


async def test_listed_tokens_only() -> None:
    async with open_ends(known_tokens=[TOKEN], known_tokens_only=True) as ends, ends.join():
        error = await refusal(ends, token=OTHER_TOKEN)
        assert (error.status, error.code) == (403, "forbidden")
        assert OTHER_TOKEN not in str(error)


# -- guesses -----------------------------------------------------------------------------------

FEW_FAILURES = replace(SHORT, failed_registrations_per_minute=3)


async def register(port: int, token: str, password: str, *fields: str) -> tuple[int, str]:
    """A handshake by hand, whose connection ends at once: status and the refusal's code."""
    handshake = [
        "GET /_tunnel HTTP/1.1",
        "Host: a",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Protocol: tunnelkit.v1",
    ]
    pairs = to_fields(Handshake(token=token, password=password))
    lines = [*handshake, *fields, *(f"{name.decode()}: {value.decode()}" for name, value in pairs)]
    stream = await connect_tcp("127.0.0.1", port, timeout=5)
    try:
        await stream.send("\r\n".join([*lines, "", ""]).encode())
        data = b""
        with anyio.fail_after(10):
            while b"\r\n\r\n" not in data or (b" 101 " not in data.partition(b"\r")[0] and b"}" not in data):
                piece = await stream.receive()
                assert piece, data
                data += piece
    finally:
        stream.abort()
    head, _, body = data.partition(b"\r\n\r\n")
    status, _ = parse_head(head)
    return status, "" if status == 101 else json.loads(body)["code"]


async def test_failures_from_loopback_are_counted_by_token() -> None:
    async with open_ends(limits=FEW_FAILURES, passwords={TOKEN: PASSWORD, OTHER_TOKEN: PASSWORD}) as ends:
        answers = [await register(ends.port, TOKEN, "guess") for _ in range(4)]
        assert answers == [(401, "unauthorized")] * 3 + [(429, "rate_limited")]
        assert await register(ends.port, TOKEN, PASSWORD) == (429, "rate_limited")
        assert (await register(ends.port, OTHER_TOKEN, PASSWORD))[0] == 101


async def test_failures_behind_a_trusted_proxy_are_counted_by_address() -> None:
    async with open_ends(
        limits=FEW_FAILURES, passwords={TOKEN: PASSWORD, OTHER_TOKEN: PASSWORD}, trusted_proxies=["127.0.0.1"]
    ) as ends:
        one, two = "X-Forwarded-For: 192.0.2.1", "X-Forwarded-For: 192.0.2.2"
        for token in (TOKEN, OTHER_TOKEN, TOKEN):
            assert await register(ends.port, token, "guess", one) == (401, "unauthorized")
        assert await register(ends.port, OTHER_TOKEN, "guess", one) == (429, "rate_limited")
        assert (await register(ends.port, TOKEN, PASSWORD, two))[0] == 101


async def test_a_success_never_counts() -> None:
    async with open_ends(limits=FEW_FAILURES, passwords={TOKEN: PASSWORD}) as ends:
        for _ in range(6):
            assert (await register(ends.port, TOKEN, PASSWORD))[0] == 101


async def test_many_guesses_at_once_are_no_way_around_the_limit() -> None:
    hashed = str(hash_password(PASSWORD, b"16 bytes of salt", n=2**14))
    async with open_ends(limits=FEW_FAILURES, passwords={TOKEN: hashed}) as ends:
        codes: Counter[str] = Counter()

        async def guess() -> None:
            codes[(await register(ends.port, TOKEN, "guess"))[1]] += 1

        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(guess)
        assert codes["unauthorized"] <= 3 + 1  # two are hashed at a time
        assert codes.total() == 20


async def test_a_client_that_is_limited_tries_on() -> None:
    async with open_ends(limits=FEW_FAILURES, passwords={TOKEN: PASSWORD}) as ends:
        for _ in range(3):
            await register(ends.port, TOKEN, "guess")
        async with ends.join(password=PASSWORD, ready=False) as client:
            event = await first(client.events(), Retrying)
            assert "rate_limited" in event.reason
            assert event.delay > 1


async def first(events: AsyncIterator[ClientEvent], kind: type[Retrying]) -> Retrying:
    with anyio.fail_after(10):
        async for event in events:
            if isinstance(event, kind):
                return event
    raise AssertionError("the client is over")


# -- several clients ---------------------------------------------------------------------------


async def test_a_client_too_many_tries_on_and_gets_in_when_there_is_room() -> None:
    async with open_ends(limits=ONE_CLIENT) as ends, AsyncExitStack() as stack:
        one = await stack.enter_async_context(ends.join())
        two = await stack.enter_async_context(ends.join(ready=False))
        event = await first(two.events(), Retrying)
        assert "too_many_clients" in event.reason
        assert 2 <= event.delay < 4  # as the server asked: the time that it gives a silent client
        one.close()
        await two.wait_ready(30)
        assert (await ends.get("/echo"))[0] == 200


async def test_a_client_that_is_silently_dead_makes_room_within_three_seconds() -> None:
    async with open_ends(limits=ONE_CLIENT) as ends, serve_relay(ends.port) as relay, ends.join(via=relay):
        relay.stall()
        start = anyio.current_time()
        async with ends.join():
            assert anyio.current_time() - start < 10  # a busy machine adds to it
            assert (await ends.get("/echo"))[0] == 200


async def test_a_client_that_lives_keeps_its_place() -> None:
    async with open_ends(limits=ONE_CLIENT) as ends, ends.join():
        assert await register(ends.port, TOKEN, "") == (429, "too_many_clients")  # it answered the ping
        assert (await ends.get("/echo"))[0] == 200


async def test_a_killed_client_that_is_started_again_is_ready_within_three_seconds() -> None:
    async with open_ends(limits=ONE_CLIENT) as ends, serve_relay(ends.port) as relay, ends.join(via=relay):
        relay.refusing = True
        relay.cut()
        start = anyio.current_time()
        async with ends.join():
            assert anyio.current_time() - start < 10  # a busy machine adds to it
            assert (await ends.get("/echo"))[0] == 200


async def test_detached_sessions_take_no_place() -> None:
    limits = replace(SHORT, max_clients_per_token=1)
    async with open_ends(limits=limits) as ends, serve_relay(ends.port) as relay, ends.join(via=relay):
        relay.refusing = True
        relay.cut()
        await ends.detached()
        assert (await register(ends.port, TOKEN, ""))[0] == 101


async def test_the_same_instance_supersedes_its_older_session() -> None:
    async with open_tunnel(relay=True, client_options={"instance": "one"}) as tunnel, tunnel.caller() as caller:
        assert tunnel.relay is not None
        await caller.send(f"GET {tunnel.path('/hold/x')} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        await tunnel.origin.arrived("/hold/x")
        tunnel.relay.stall()
        old = tunnel.server.sessions()
        start = anyio.current_time()
        async with tunnel.join(instance="one"):
            assert (await read_head(caller))[0] == 502  # at once, not at the end of grace
            assert anyio.current_time() - start < 10  # a busy machine adds to it
            assert len(tunnel.server.sessions()) == 1
            assert tunnel.server.sessions() != old


async def test_a_superseded_client_is_told_and_ends() -> None:
    async with open_ends() as ends:
        with pytest.raises(RegistrationRefused) as caught:
            async with ends.join(instance="one"), ends.join(instance="one"):
                await anyio.sleep_forever()
        assert caught.value.code == "superseded"


async def test_an_instance_of_another_token_supersedes_nothing() -> None:
    async with open_ends() as ends, ends.join(instance="one"), ends.join(instance="one", token=OTHER_TOKEN):
        assert (await ends.get("/echo"))[0] == 200
        assert len(ends.server.sessions()) == 2


async def test_clients_of_a_token_share_its_load() -> None:
    async with open_ends() as ends, ends.join(), ends.join(), anyio.create_task_group() as group:
        for number in range(1, 11):
            ends.call(group, "/hold/x")
            await ends.origin.until(lambda count=number: len(ends.origin.requests) == count)
        assert [row.req_pending for row in ends.server.snapshot().rows] == [5, 5]
        ends.origin.release("x")


async def test_many_tokens_lead_to_their_own_clients() -> None:
    async with open_ends() as ends, AsyncExitStack() as stack:
        tokens = [f"token-number-{number:02d}-of-many" for number in range(30)]
        for token in tokens:
            await stack.enter_async_context(ends.join(token=token, host=f"{token}.example"))
        for token in tokens:
            _, _, body = await ask(ends.port, f"/_token/{token}/echo")
            assert ["Host", f"{token}.example"] in json.loads(body)["fields"]
        assert ends.server.snapshot().tunnels == 30


# -- openings and resumes ----------------------------------------------------------------------


@asynccontextmanager
async def dialled(ends: Ends, **options: Any) -> AsyncIterator[tuple[Connection, Grant]]:
    """A connection that was granted, and does not attach by itself."""
    handshake = Handshake(**({"token": TOKEN} | options))
    request = dial_request(handshake, Dial(), url=f"http://127.0.0.1:{ends.port}")
    connection, grant = await WebSocketTransport().dial(request)
    try:
        yield connection, grant
    finally:
        connection.abort()


async def refused(ends: Ends, **options: Any) -> str:
    with pytest.raises(RegistrationRefused) as caught:
        async with dialled(ends, **options):
            pass
    return caught.value.code


def resume(session: ServerSession, epoch: int, *, key: bytes | None = None) -> Resume:
    tag = attach_tag(key or session.resume_key, session.id, epoch)
    return Resume(session_id=session.id, epoch=epoch, proof=tag)


async def test_an_opening_that_never_attaches_dies() -> None:
    limits = replace(SHORT, opening_timeout=0.5, max_clients_per_token=1)
    async with open_ends(limits=limits) as ends, dialled(ends) as (connection, _):
        assert not ends.server.sessions()
        assert (await register(ends.port, TOKEN, ""))[1] == "too_many_clients"  # for now
        with pytest.raises(ConnectionLost), anyio.fail_after(15):
            await connection.receive()
        async with ends.join():
            pass


async def test_a_resume_takes_over_only_when_it_attaches() -> None:
    async with open_tunnel() as tunnel:
        session = tunnel.server.sessions()[0]
        async with dialled(tunnel, resume=resume(session, 2)):
            assert (await tunnel.get("/echo"))[0] == 200
            assert session.epoch == 1


@pytest.mark.parametrize("what", ["wrong proof", "foreign session", "another token", "stale epoch"])
async def test_a_resume_without_right_is_refused_and_touches_nothing(what: str) -> None:
    async with open_tunnel() as tunnel, tunnel.join(token=OTHER_TOKEN):
        mine, other = tunnel.server.sessions()
        options: dict[str, dict[str, Any]] = {
            "wrong proof": {"resume": resume(mine, 2, key=b"x" * 32)},
            "foreign session": {"resume": Resume(session_id="n0-" + "0" * 32, epoch=2, proof=b"x" * 32)},
            "another token": {"resume": resume(other, 2)},
            "stale epoch": {"resume": resume(mine, 1)},
        }
        code = await refused(tunnel, **options[what])
        assert code == ("stale_epoch" if what == "stale epoch" else "unknown_session")
        assert tunnel.server.sessions() == [mine, other]
        assert (mine.epoch, other.epoch) == (1, 1)
        assert (await tunnel.get("/echo"))[0] == 200


async def test_a_session_that_is_given_up_ends_at_once() -> None:
    async with open_tunnel(relay=True) as tunnel, anyio.create_task_group() as group:
        assert tunnel.relay is not None
        call = tunnel.call(group, "/hold/x")
        await tunnel.origin.arrived("/hold/x")
        session = tunnel.server.sessions()[0]
        tunnel.relay.stall()
        wrong = Resume(session_id=session.id, epoch=2, proof=b"x" * 32)
        async with dialled(tunnel, gives_up=wrong):
            assert tunnel.server.sessions() == [session]
        tag = proof(epoch_key(session.resume_key, 2), Purpose.GIVE_UP, session.id, 2)
        async with dialled(tunnel, gives_up=Resume(session_id=session.id, epoch=2, proof=tag)):
            assert tunnel.server.sessions() == []
            assert await call.status() == 502


async def test_a_client_names_the_session_that_it_gave_up() -> None:
    """For its own clocks the session cannot be resumed any more, but the server still has it."""
    async with open_ends() as ends, serve_relay(ends.port) as relay, ends.join(via=relay, limits=QUICK) as client:
        old = ends.server.sessions()[0]
        client._supervisor._drop_session("given_up")
        relay.cut()
        await until(lambda: ends.server.sessions() and ends.server.sessions()[0] is not old)
        assert old.ended == "given_up"
        assert len(ends.server.sessions()) == 1


# -- restarts ----------------------------------------------------------------------------------


async def test_a_client_opens_a_new_session_with_a_server_that_was_killed_and_started_again() -> None:
    async with open_tunnel(relay=True, limits=SHORT) as tunnel:
        assert tunnel.relay is not None
        tunnel.relay.refusing = True
        tunnel.relay.cut()
        async with TunnelServer("127.0.0.1:0", limits=SHORT) as second:
            port = tunnel.relay.target = int(second.url.rpartition(":")[2])
            tunnel.relay.refusing = False
            assert (await exchange(port, "GET", tunnel.path("/echo")))[0] == 200
            assert len(second.sessions()) == 1


async def test_a_client_comes_back_to_a_server_that_was_closed_and_started_again() -> None:
    life = anyio.CancelScope()

    async def serve(*, task_status: TaskStatus[list[str]]) -> None:
        with life:
            await TunnelServer("127.0.0.1:0", limits=SHORT).run(task_status=task_status)

    async with open_ends() as ends, anyio.create_task_group() as group:
        url, *_ = await group.start(serve)
        async with ends.join(url=url, limits=SHORT) as client:
            events = client.events()
            life.cancel()
            await first(events, Retrying)
            async with TunnelServer(url.removeprefix("http://"), limits=SHORT) as second:
                port = int(second.url.rpartition(":")[2])
                assert (await exchange(port, "GET", ends.path("/echo")))[0] == 200


async def test_close_ends_a_client_that_has_no_connection() -> None:
    async with AsyncExitStack() as stack:
        ends = await stack.enter_async_context(open_ends())
        relay = await stack.enter_async_context(serve_relay(ends.port))
        relay.refusing = True
        slow = replace(DEFAULT_LIMITS, retry_first=30.0)
        client = await stack.enter_async_context(ends.join(via=relay, ready=False, limits=slow))
        events = client.events()
        await first(events, Retrying)
        client.close()
        with anyio.fail_after(10):
            async for _ in events:
                pass  # up to Closed, the last one


# -- reload ------------------------------------------------------------------------------------


async def test_a_withdrawn_token_ends_its_sessions_and_no_others() -> None:
    passwords = {TOKEN: PASSWORD, OTHER_TOKEN: PASSWORD}
    async with (
        open_ends(passwords=lambda: dict(passwords), known_tokens_only=True) as ends,
        ends.join(password=PASSWORD),
    ):
        stays = ends.server.sessions()

        async def serve() -> None:
            async with ends.join(password=PASSWORD, token=OTHER_TOKEN):
                del passwords[OTHER_TOKEN]
                await ends.server.reload()
                assert ends.server.sessions() == stays
                await anyio.sleep_forever()

        with pytest.raises(RegistrationRefused) as caught, anyio.fail_after(10):
            await serve()
        assert caught.value.code == "forbidden"
        assert (await ends.get("/echo"))[0] == 200
        assert (await ask(ends.port, f"/_token/{OTHER_TOKEN}/echo"))[0] == 404


async def test_known_tokens_are_read_again_at_a_reload() -> None:
    known = [TOKEN]
    async with open_ends(known_tokens=lambda: list(known), known_tokens_only=True) as ends:

        async def serve() -> None:
            async with ends.join():
                assert (await register(ends.port, OTHER_TOKEN, ""))[1] == "forbidden"
                known.append(OTHER_TOKEN)
                await ends.server.reload()
                assert (await register(ends.port, OTHER_TOKEN, ""))[0] == 101
                assert (await ends.get("/echo"))[0] == 200
                known.append("short")
                with pytest.raises(ConfigError, match="token"):
                    await ends.server.reload()
                known[:] = [OTHER_TOKEN]
                await ends.server.reload()
                await anyio.sleep_forever()

        with pytest.raises(RegistrationRefused) as caught, anyio.fail_after(10):
            await serve()  # until it has come back, and is not taken any more
        assert caught.value.code == "forbidden"
        assert (await register(ends.port, TOKEN, ""))[1] == "forbidden"
        assert (await ends.get("/echo"))[0] == 404
        assert TOKEN[:8] not in {session.token_prefix for session in ends.server.sessions()}


async def test_a_token_that_loses_only_one_of_its_listings_stays() -> None:
    passwords, known = {TOKEN: PASSWORD}, [TOKEN]
    async with (
        open_ends(passwords=lambda: dict(passwords), known_tokens=lambda: list(known)) as ends,
        ends.join(password=PASSWORD),
    ):
        known.clear()
        await ends.server.reload()
        known.append(TOKEN)
        passwords.clear()
        await ends.server.reload()
        assert (await ends.get("/echo"))[0] == 200


async def test_what_waits_for_a_withdrawn_token_is_404() -> None:
    passwords = {TOKEN: PASSWORD}
    async with (
        open_ends(passwords=lambda: dict(passwords), known_tokens_only=True) as ends,
        anyio.create_task_group() as group,
    ):
        call = ends.call(group, "/echo")
        await ends.pending(1)
        passwords.clear()
        await ends.server.reload()
        assert await call.status() == 404


async def test_a_changed_password_counts_from_the_next_registration_on() -> None:
    passwords = {TOKEN: PASSWORD}
    async with open_ends(passwords=lambda: dict(passwords)) as ends, ends.join(password=PASSWORD):
        passwords[TOKEN] = "another one"
        await ends.server.reload()
        assert (await ends.get("/echo"))[0] == 200
        assert await register(ends.port, TOKEN, PASSWORD) == (401, "unauthorized")
        assert (await register(ends.port, TOKEN, "another one"))[0] == 101


async def test_a_bad_password_file_keeps_the_old() -> None:
    passwords = {TOKEN: PASSWORD}
    async with open_ends(passwords=lambda: dict(passwords)) as ends, ends.join(password=PASSWORD):
        passwords["short"] = "x"
        with pytest.raises(ConfigError, match="passwords"):
            await ends.server.reload()
        assert (await ends.get("/echo"))[0] == 200
        assert (await register(ends.port, TOKEN, PASSWORD))[0] == 101


def write_certificate(authority: trustme.CA, path: Path) -> int:
    """Its serial number."""
    certificate = authority.issue_cert("127.0.0.1")
    path.write_bytes(
        certificate.private_key_pem.bytes() + b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
    )
    path.chmod(0o600)
    return load_pem_x509_certificate(certificate.cert_chain_pems[0].bytes()).serial_number


async def serial_number(port: int, context: ssl.SSLContext) -> int:
    stream = await Dial(ssl_context=context)("127.0.0.1", port, tls=True)
    try:
        certificate = stream.peer_certificate
        assert certificate is not None
        return int(str(certificate["serialNumber"]), 16)
    finally:
        stream.abort()


async def test_a_new_certificate_is_shown_to_new_connections_and_sessions_go_on(
    tmp_path: Path,
    certificate_authority: trustme.CA,
    client_ssl_context: ssl.SSLContext,
) -> None:
    path = tmp_path / "server.pem"
    old = write_certificate(certificate_authority, path)
    async with open_ends(tls=TlsFiles(cert=path)) as ends:
        url = f"wss://127.0.0.1:{ends.port}"
        async with ends.join(url=url, ssl_context=client_ssl_context):
            session = ends.server.sessions()[0]
            assert await serial_number(ends.port, client_ssl_context) == old
            new = write_certificate(certificate_authority, path)
            await ends.server.reload()
            assert await serial_number(ends.port, client_ssl_context) == new
            path.write_text("no certificate")
            with pytest.raises(ConfigError, match="tls_cert"):
                await ends.server.reload()
            assert await serial_number(ends.port, client_ssl_context) == new
            assert ends.server.sessions() == [session]
            assert session.epoch == 1
