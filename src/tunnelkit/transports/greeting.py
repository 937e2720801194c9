"""Handshakes as messages: for transports without HTTP, whose first message each way is a handshake and its answer.

Both halves in their binary encoding (docs/wire-format.md, "Handshake"), each one call on a connection that is open
already: ``greet_server`` at the end that dialled, ``greet_client`` at the one that listened.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import anyio

from ..errors import ConnectionLost, DialError, RegistrationRefused, RemoteProtocolError
from ..handshake import Grant, Handshake, Refusal, from_bytes, refusal_of, to_bytes
from .base import Accepted, Connection, DialRequest, Offer, Peer

__all__ = ["GREETING_TIMEOUT", "greet_client", "greet_server"]

# Seconds that a client has for its handshake to come, and again for taking the answer.
GREETING_TIMEOUT: Final = 10.0


async def greet_server(connection: Connection, request: DialRequest) -> Grant:
    """The client half: send the handshake of ``request`` as a message, and return the server's grant.

    Raises what ``Transport.dial`` has to: RegistrationRefused for the server's own refusal, DialError when the
    connection is lost, when the answer is none, or does not come within ``request.timeout`` seconds. With whatever
    it raises, cancellation too, the connection is aborted.
    """
    try:
        with anyio.fail_after(request.timeout):
            await connection.send(to_bytes(request.handshake))
            answer = from_bytes(await connection.receive())
        if isinstance(answer, Refusal):
            raise RegistrationRefused(answer.status, answer.code, answer.detail, retry_after=answer.retry_after)
        if not isinstance(answer, Grant):
            raise DialError("handshake", "what answered is no tunnel server")
    except BaseException as exc:
        connection.abort()
        if isinstance(exc, (ConnectionLost, RemoteProtocolError, TimeoutError)):
            raise DialError("handshake", str(exc) or "the server did not answer in time") from exc
        raise
    return answer


async def greet_client(connection: Connection, peer: Peer, offer: Offer) -> None:
    """The server half: receive a handshake, make the ``offer``, send the answer, and serve the connection to its end.

    Returns when the connection has ended, however it did. A client that says nothing for ``GREETING_TIMEOUT``
    seconds, or speaks before it was answered, is dropped; ``offer`` is cancelled when the client goes. Raises what
    ``offer`` raises. With that, and cancelled, the connection is aborted.
    """
    try:
        answer = await _answer(connection, peer, offer)
        await _tell(connection, answer)
        await (connection.aclose() if isinstance(answer, Refusal) else answer.serve(connection))
    except ConnectionLost:
        pass  # before it was served: nothing is lost with it
    finally:
        connection.abort()


async def _answer(connection: Connection, peer: Peer, offer: Offer) -> Accepted | Refusal:
    message = None
    with anyio.move_on_after(GREETING_TIMEOUT):
        message = await connection.receive()
    if message is None:
        raise ConnectionLost("no handshake came in time")
    try:
        handshake = from_bytes(message)
    except RemoteProtocolError as exc:
        return refusal_of(exc)
    if not isinstance(handshake, Handshake):
        return Refusal(status=400, code="bad_request", detail="this is no handshake")
    return await _decided(connection, lambda: offer(handshake, peer))


async def _decided(connection: Connection, ask: Callable[[], Awaitable[Accepted | Refusal]]) -> Accepted | Refusal:
    """The server's word, which is not waited for any more when the client is gone."""
    answers: list[Accepted | Refusal] = []
    failures: list[Exception] = []

    async def watch() -> None:
        try:
            await connection.receive()
            failures.append(ConnectionLost("the client spoke before it was answered"))
        except ConnectionLost as lost:
            failures.append(lost)
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        try:
            answers.append(await ask())
        except Exception as error:  # to come out as it is, not in a group
            failures.append(error)
        tasks.cancel_scope.cancel()
    if failures:
        for answer in answers:
            _abandon(answer)
        raise failures[0]
    return answers[0]


async def _tell(connection: Connection, answer: Accepted | Refusal) -> None:
    """A grant that does not get out is abandoned."""
    told = False
    try:
        with anyio.move_on_after(GREETING_TIMEOUT):
            await connection.send(to_bytes(answer if isinstance(answer, Refusal) else answer.grant))
            told = True
    finally:
        if not told:
            _abandon(answer)
    if not told:
        raise ConnectionLost("the answer was not taken in time")


def _abandon(answer: Accepted | Refusal) -> None:
    if not isinstance(answer, Refusal):
        answer.abandon()
