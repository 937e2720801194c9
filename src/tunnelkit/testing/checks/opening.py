"""Checks of the conformance kit: dialling, the handshake, the decision of the server, and what is left behind."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import anyio

from ...errors import ConnectionLost, DialError, RegistrationRefused
from ...handshake import Handshake, Refusal, Resume
from ...transports.base import API_VERSION, Connection
from ..wires import HANDSHAKE, Served, Wires
from .base import PATIENCE, Checks, ContractBroken, deliver, expect, pump, receive_until, within

__all__ = ["CHECKS"]

CHECKS: Final = Checks()

_FULL_HANDSHAKE: Final = Handshake(
    token="a-token-for-the-kit",
    password="pass word",
    authorization="Basic a2l0OmtpdA==",
    version_min=1,
    version_max=3,
    features=frozenset({"one", "two"}),
    client_version="9.8.7",
    instance="instance-of-the-kit",
    name="a-name",
    policy="pool",
    resume=Resume(session_id="n0-123", epoch=7, proof=bytes(range(32))),
    gives_up=Resume(session_id="n0-122", epoch=3, proof=bytes(range(32, 64))),
)

_REFUSALS: Final = (
    Refusal(status=403, code="forbidden", detail="not you"),
    Refusal(status=503, code="too_many_clients", detail="later", retry_after=7.0),
)

# Of dials that get no answer, until the client's word reached the server in one: on a busy machine even loopback may
# take longer than the first.
_TIMEOUTS: Final = (0.3, 1.0, 3.0)


@CHECKS.add
async def names_itself(wires: Wires) -> None:
    """A transport has the API's version and a name, and both ends of a connection agree on it and on max_message,
    which is at least 4,096 bytes."""
    expect(wires.transport.api_version == API_VERSION, f"api_version is not {API_VERSION}")
    client, server = await wires.connect()
    for end in (client, server):
        expect(end.transport == wires.transport.name, f"{end.transport!r} is not {wires.transport.name!r}")
        expect(end.max_message >= 4096, f"max_message is {end.max_message}")
    expect(client.max_message == server.max_message, "the ends do not agree on max_message")
    expect(client.ordered == server.ordered, "the ends do not agree on whether they keep order")


@CHECKS.add
async def the_handshake_arrives(wires: Wires) -> None:
    """The offer gets every field of the client's handshake as it was given."""
    await wires.dial(_FULL_HANDSHAKE)
    ((got, _),) = wires.offers
    for name in Handshake.__dataclass_fields__:
        expect(getattr(got, name) == getattr(_FULL_HANDSHAKE, name), f"the field {name} arrived otherwise")


@CHECKS.add
async def the_grant_arrives(wires: Wires) -> None:
    """The dial returns every field of the grant as the server gave it, with a resume key or without one."""
    for key in (wires.grant.resume_key, None):
        wires.grant = replace(wires.grant, resume_key=key)
        _, grant = await wires.dial()
        given = wires.served[-1].grant
        expect(grant == given, f"{given!r} was given and {grant!r} arrived (resume_key equal: {key is not None})")


@CHECKS.add
async def a_refusal_arrives(wires: Wires) -> None:
    """A refusal is raised by the dial as RegistrationRefused, with status, code, detail and retry_after, and the next
    dial may be granted."""
    for refusal in _REFUSALS:
        wires.refusal = refusal
        with within("a refused dial should have ended"):
            try:
                await wires.dial()
            except RegistrationRefused as exc:
                got = Refusal(status=exc.status, code=exc.code, detail=exc.detail, retry_after=exc.retry_after)
                expect(got == refusal, f"{refusal} was given and {got} arrived")
            else:
                raise ContractBroken("a refused dial returned a connection")
    expect(not wires.served, "what was refused was served")
    wires.refusal = None
    await _check_alive(*await wires.connect())


@CHECKS.add
async def connections_do_not_mix(wires: Wires) -> None:
    """Several connections at a time are served, each with its own messages."""
    pairs = [await wires.connect() for _ in range(5)]
    async with anyio.create_task_group() as tasks:
        for number, (client, server) in enumerate(pairs):
            tasks.start_soon(pump, client, [b"up %d" % number])
            tasks.start_soon(pump, server, [b"down %d" % number])
        for number, (client, server) in enumerate(pairs):
            await receive_until(server, b"up %d" % number)
            await receive_until(client, b"down %d" % number)
    pairs[0][0].abort()
    for client, server in pairs[1:]:
        await _check_alive(client, server)


@CHECKS.add
async def a_dial_is_bounded(wires: Wires) -> None:
    """A dial that gets no answer ends with DialError when its timeout is over."""
    wires.hesitation = anyio.Event()
    for timeout in _TIMEOUTS:
        with within(f"a dial with a timeout of {timeout:g} s should have ended"):
            try:
                await wires.dial(timeout=timeout)
            except DialError:
                pass
            else:
                raise ContractBroken("a dial returned though the server had not decided")
        if wires.offers:
            break
    expect(wires.offers, f"no offer was made in a dial of {_TIMEOUTS[-1]:g} s")
    await _server_forgets(wires)


@CHECKS.add
async def a_cancelled_dial_leaves_nothing(wires: Wires) -> None:
    """A dial can be cancelled: it closes what it opened, and the server half abandons its offer, or serves a
    connection that is lost."""
    wires.hesitation = anyio.Event()
    ended = anyio.Event()
    async with anyio.create_task_group() as tasks:

        async def dial() -> None:
            try:
                await wires.dial()
            finally:
                ended.set()

        tasks.start_soon(dial)
        with within("an offer should have been made"):
            await wires.until_offered(1)
        tasks.cancel_scope.cancel()
    with within("a cancelled dial should have ended"):
        await ended.wait()
    if (relay := wires.relay) is not None:
        with within("the cancelled dial should have closed what it opened"):
            await relay.until(lambda: not relay.pairs, timeout=PATIENCE + 1)
    await _server_forgets(wires)


@CHECKS.add
async def a_dial_to_nobody_fails(wires: Wires) -> None:
    """Where no server answers, a dial raises DialError."""
    await _check_alive(*await wires.connect())
    await wires.close_server()
    with within("a dial to nobody should have ended"):
        try:
            await wires.dial()
        except DialError:
            return
    raise ContractBroken("a dial returned though no server is there")


@CHECKS.add
async def no_task_is_left(wires: Wires) -> None:
    """What a transport starts in the request's task group ends with the connection, and raises nothing."""
    for ending in ("abort", "close"):
        with within(f"after {ending}, the tasks in DialRequest.tasks should have ended"):
            async with anyio.create_task_group() as tasks:
                client, _ = await wires.dial(tasks=tasks)
                server = await _end_of(wires.served[-1])
                await _check_alive(client, server)
                if ending == "abort":
                    client.abort()
                else:
                    tasks.start_soon(_close_behind, server)
                    await client.aclose()


async def _close_behind(connection: Connection) -> None:
    """Close once the peer has."""
    try:
        while True:
            await connection.receive()
    except ConnectionLost:
        await connection.aclose()


async def _end_of(served: Served) -> Connection:
    with within("the server half should have called serve"):
        await served.decided()
    if served.connection is None:
        raise ContractBroken("the server half abandoned a connection that was made")
    return served.connection


async def _check_alive(client: Connection, server: Connection) -> None:
    for sender, receiver in ((client, server), (server, client)):
        await deliver(sender, receiver, b"alive")


async def _server_forgets(wires: Wires) -> None:
    """The server decides at last, for a client that has left; then another one is served as ever."""
    assert wires.hesitation is not None
    wires.hesitation.set()
    wires.hesitation = None
    with within("an offer should have been answered"):
        await wires.until_served(len(wires.offers))
    for served in wires.served[:]:
        await _lost(wires, served)
    client, grant = await wires.dial(HANDSHAKE)
    (served,) = [each for each in wires.served if each.grant.session_id == grant.session_id]
    await _check_alive(client, await _end_of(served))
    for each in wires.served:
        await _decided(each)
        expect(len(each.decisions) == 1, f"the server half called {' and '.join(each.decisions)} for one offer")


async def _decided(served: Served) -> None:
    with within("the server half should have called serve or abandon, for a client that left"):
        await served.decided()


async def _lost(wires: Wires, served: Served) -> None:
    """Of a client that left before it was granted anything."""
    await _decided(served)
    if (end := served.connection) is not None:
        with within("a connection whose client left before it began should be lost", _detection(wires, end)):
            try:
                while True:
                    await end.receive()
            except ConnectionLost:
                pass


def _detection(wires: Wires, end: Connection) -> float:
    return PATIENCE if end.wants_pings else wires.detection
