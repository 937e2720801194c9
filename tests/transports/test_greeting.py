"""Handshakes as messages: what either half makes of an answer, a loss, silence and garbage."""

from __future__ import annotations

from dataclasses import dataclass, field

import anyio
import pytest

from tunnelkit.errors import ConnectionLost, DialError, RegistrationRefused
from tunnelkit.handshake import Grant, Handshake, Refusal, from_bytes, to_bytes
from tunnelkit.net.stream import ByteStream
from tunnelkit.transports import greeting
from tunnelkit.transports.base import Accepted, Connection, DialRequest, Peer
from tunnelkit.transports.greeting import greet_client, greet_server
from tunnelkit.transports.memory import memory_pair

from .stubs import PROVER, By, dial_request

pytestmark = pytest.mark.anyio

HANDSHAKE = Handshake(token="t" * 16)
GRANT = Grant(session_id="n-1", resume_key=bytes(32))
REFUSAL = Refusal(status=403, code="forbidden", detail="not you")
PEER = Peer(address="192.0.2.1")


# -- the client half ---------------------------------------------------------------------------


def request(timeout: float = 5) -> DialRequest:
    async def dial(host: str, port: int, *, tls: bool) -> ByteStream:
        raise AssertionError("the connection is there already")

    return dial_request(HANDSHAKE, By(dial), timeout=timeout)


async def test_a_grant_is_returned_and_the_handshake_went_out() -> None:
    near, far = memory_pair()
    await far.send(to_bytes(GRANT))
    assert await greet_server(near, request()) == GRANT
    assert from_bytes(await far.receive()) == HANDSHAKE


async def test_a_refusal_is_raised_and_the_connection_aborted() -> None:
    near, far = memory_pair()
    await far.send(to_bytes(REFUSAL))
    with pytest.raises(RegistrationRefused) as raised:
        await greet_server(near, request())
    assert (raised.value.status, raised.value.code, raised.value.detail) == (403, "forbidden", "not you")
    with pytest.raises(ConnectionLost):
        await near.receive()


@pytest.mark.parametrize("answer", [b"", b"garbage", to_bytes(HANDSHAKE)])
async def test_what_is_no_answer_is_a_dial_error(answer: bytes) -> None:
    near, far = memory_pair()
    await far.send(answer)
    with pytest.raises(DialError):
        await greet_server(near, request())


async def test_a_loss_and_silence_are_dial_errors() -> None:
    near, far = memory_pair()
    far.abort()
    with pytest.raises(DialError, match="aborted"):
        await greet_server(near, request())
    near, _ = memory_pair()
    with pytest.raises(DialError, match="did not answer in time"):
        await greet_server(near, request(timeout=0.01))
    with pytest.raises(ConnectionLost):
        await near.receive()


async def test_cancelled_it_aborts() -> None:
    near, _ = memory_pair()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(greet_server, near, request())
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    with pytest.raises(ConnectionLost):
        await near.receive()


# -- the server half ---------------------------------------------------------------------------


@dataclass
class Granted:
    """An offer that was granted, and what became of it."""

    grant: Grant = GRANT
    prover = PROVER
    served: list[Connection] = field(default_factory=list)
    abandoned: int = 0

    async def serve(self, connection: Connection) -> None:
        self.served.append(connection)

    def abandon(self) -> None:
        self.abandoned += 1


@dataclass
class Offers:
    answer: Accepted | Refusal
    heard: list[tuple[Handshake, Peer]] = field(default_factory=list)

    async def __call__(self, handshake: Handshake, peer: Peer) -> Accepted | Refusal:
        self.heard.append((handshake, peer))
        return self.answer


async def test_a_client_that_is_granted_is_served() -> None:
    near, far = memory_pair()
    granted = Granted()
    offers = Offers(granted)
    await near.send(to_bytes(HANDSHAKE))
    await greet_client(far, PEER, offers)
    assert offers.heard == [(HANDSHAKE, PEER)]
    assert (granted.served, granted.abandoned) == ([far], 0)


async def test_a_refusal_is_sent_behind_which_the_connection_is_closed() -> None:
    near, far = memory_pair()
    await near.send(to_bytes(HANDSHAKE))
    await greet_client(far, PEER, Offers(REFUSAL))
    assert from_bytes(await near.receive()) == REFUSAL
    with pytest.raises(ConnectionLost) as end:
        await near.receive()
    assert end.value.clean


@pytest.mark.parametrize(("message", "code"), [(b"garbage", "bad_request"), (to_bytes(GRANT), "bad_request")])
async def test_what_is_no_handshake_is_refused_without_an_offer(message: bytes, code: str) -> None:
    near, far = memory_pair()
    offers = Offers(Granted())
    await near.send(message)
    await greet_client(far, PEER, offers)
    answer = from_bytes(await near.receive())
    assert isinstance(answer, Refusal)
    assert (answer.status, answer.code, offers.heard) == (400, code, [])


async def test_silent_and_lost_clients_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = memory_pair()
    near.abort()
    await greet_client(far, PEER, Offers(REFUSAL))
    monkeypatch.setattr(greeting, "GREETING_TIMEOUT", 0.01)
    near, far = memory_pair()
    await greet_client(far, PEER, Offers(REFUSAL))
    with pytest.raises(ConnectionLost):
        await near.receive()


async def test_a_grant_that_does_not_get_out_is_abandoned() -> None:
    near, far = memory_pair()
    granted = Granted()

    async def offer(handshake: Handshake, peer: Peer) -> Accepted:
        far.lose(ConnectionLost("cut while the server thought"))
        return granted

    await near.send(to_bytes(HANDSHAKE))
    await greet_client(far, PEER, offer)
    assert (granted.served, granted.abandoned) == ([], 1)


async def test_an_offer_is_cancelled_when_the_client_goes() -> None:
    near, far = memory_pair()
    asked, cancelled = anyio.Event(), anyio.Event()

    async def offer(handshake: Handshake, peer: Peer) -> Accepted:
        asked.set()
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()
        raise AssertionError("unreachable")

    await near.send(to_bytes(HANDSHAKE))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(greet_client, far, PEER, offer)
        await asked.wait()
        near.abort()
        await cancelled.wait()


async def test_a_client_that_speaks_before_it_was_answered_is_dropped() -> None:
    near, far = memory_pair()
    asked = anyio.Event()

    async def offer(handshake: Handshake, peer: Peer) -> Accepted:
        asked.set()
        await anyio.sleep_forever()
        raise AssertionError("unreachable")

    await near.send(to_bytes(HANDSHAKE))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(greet_client, far, PEER, offer)
        await asked.wait()
        await near.send(b"too early")
    with pytest.raises(ConnectionLost):
        await near.receive()


async def test_a_client_that_takes_no_answer_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = memory_pair()
    granted = Granted()
    monkeypatch.setattr(greeting, "GREETING_TIMEOUT", 0.05)
    monkeypatch.setattr(far, "send", lambda message: anyio.sleep_forever())
    await near.send(to_bytes(HANDSHAKE))
    await greet_client(far, PEER, Offers(granted))
    assert (granted.served, granted.abandoned) == ([], 1)


async def test_what_an_offer_raises_comes_out_and_the_connection_is_aborted() -> None:
    near, far = memory_pair()

    async def offer(handshake: Handshake, peer: Peer) -> Accepted:
        raise TimeoutError("a bug")

    await near.send(to_bytes(HANDSHAKE))
    with pytest.raises(TimeoutError, match="a bug"):
        await greet_client(far, PEER, offer)
    with pytest.raises(ConnectionLost):
        await near.receive()
