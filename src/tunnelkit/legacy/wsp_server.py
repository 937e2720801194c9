"""wsp's clients at a tunnel server: all connections of one client are the origin of a session inside the process.

Their clients know no tokens: whoever shows the secret key serves the one that the transport is given. A client is
known by its id and by the key that it showed, so that nobody joins another's connections without it.
"""

from __future__ import annotations

import hmac
import logging
import secrets
from contextlib import suppress
from typing import Final

import anyio
from anyio.abc import TaskGroup, TaskStatus

from ..config import DEFAULT_LIMITS, Limits
from ..core.budget import Budget
from ..errors import ConfigError, ConnectionLost, RemoteProtocolError, StreamBroken
from ..handshake import Handshake, Refusal
from ..heads import field_values
from ..logs import quoted
from ..net.peer import Peer
from ..transports.answers import Answer, check_origin
from ..transports.base import Accepted, MountedRequest, Offer
from ..transports.websocket.handshake import check_upgrade
from .fragments import FragmentSocket
from .switching import accept_fields
from .wsp_server_client import ServedClient
from .wsp_wire import GREETING_LIMIT, Greeting, read_greeting, refusal_answer, secret_of

__all__ = ["CLIENTS_LIMIT", "KEY_TIME", "WspServer"]

logger = logging.getLogger("tunnelkit.server")

CLIENTS_LIMIT: Final = 1000  # at a time; each has a session, and its connections
KEY_TIME: Final = 60.0  # seconds for which a key that was right is believed: it may be changed at a reload
# Refusals by which the key was right, and the place may be the client's own.
_ABOUT_PLACES: Final = frozenset({"too_many_clients", "overloaded"})


class WspServer:
    """The server half of the transport ``wsp``. ``token``: whose requests their clients serve."""

    def __init__(self, token: str | None, limits: Limits = DEFAULT_LIMITS) -> None:
        self._token = token
        self._limits = limits
        self._budget = Budget(limits.max_buffered_bytes)
        self._salt = secrets.token_bytes(32)
        self._clients: dict[tuple[str, bytes], ServedClient] = {}
        self._keys: dict[bytes, float] = {}  # of these clients, and when each was found right
        self._offer: Offer | None = None
        self._tasks: TaskGroup | None = None
        self._warned = False

    async def listen(self, offer: Offer, *, task_status: TaskStatus[None]) -> None:
        """Where the sessions live, which last longer than any one connection."""
        if self._token is None:
            raise ConfigError("transports", "wsp needs a token", 'give WspTransport(wsp_token="...")')
        try:
            async with anyio.create_task_group() as self._tasks:
                self._offer = offer
                task_status.started()
                await anyio.sleep_forever()
        finally:
            self._tasks = self._offer = None

    # -- opening -------------------------------------------------------------------------------

    async def mounted(self, request: MountedRequest, offer: Offer) -> None:
        refused = check_upgrade(request.method, request.fields) or check_origin(request.fields)
        if refused is not None:
            await _respond(request, refused)
            return
        opening = _Opening(secret_of(request.fields), request.peer, self._salt)
        refusal = await self._judge(opening, offer)
        if refusal is not None:
            await _respond(request, refusal_answer(refusal))
            return
        try:
            await self._take_in(request, opening)
        finally:
            opening.abandon()

    async def _judge(self, opening: _Opening, offer: Offer) -> Refusal | None:
        """The key, before anything is upgraded. One that was found right is believed for ``KEY_TIME``, as long as a
        client is here that showed it; then that client's next connection has it judged again."""
        now = anyio.current_time()
        found_right = self._keys.get(opening.key)
        if found_right is not None and now - found_right < KEY_TIME:
            return None
        refusal = await self._ask(opening, offer)
        if refusal is not None and (found_right is None or refusal.code not in _ABOUT_PLACES):
            return refusal
        if opening.key in self._keys:
            self._keys[opening.key] = now
        return None

    async def _ask(self, opening: _Opening, offer: Offer) -> Refusal | None:
        assert self._token is not None  # ``listen`` saw to it
        handshake = Handshake(token=self._token, password=opening.secret, client_version="wsp")
        answer = await offer(handshake, opening.peer)
        if isinstance(answer, Refusal):
            return answer
        opening.accepted = answer
        return None

    async def _take_in(self, request: MountedRequest, opening: _Opening) -> None:
        try:
            (key,) = field_values(request.fields, b"sec-websocket-key")
            stream = await request.upgrade(accept_fields(key))
        except StreamBroken:
            return
        socket = FragmentSocket(stream, client=False)
        try:
            with anyio.fail_after(self._limits.opening_timeout / 2):
                greeting = await _greeting(socket)
            client = await self._client(greeting, opening)
            opening.abandon()
            if client is not None:
                await client.serve_connection(socket, greeting.size)
        except (ConnectionLost, RemoteProtocolError, TimeoutError) as error:
            logger.info("a wsp client did not register: %s", error or "no greeting came in time")
        finally:
            socket.abort()

    async def _client(self, greeting: Greeting, opening: _Opening) -> ServedClient | None:
        """The one that is here already, or a new one; None: it may not come."""
        known = greeting.client_id, opening.key
        if known not in self._clients and opening.accepted is None and self._offer is not None:
            await self._ask(opening, self._offer)
        if known in self._clients:
            return self._clients[known]
        if opening.accepted is None or self._tasks is None:
            return None
        if len(self._clients) >= CLIENTS_LIMIT:
            logger.info("a wsp client is not served: there are %d of them", CLIENTS_LIMIT)
            return None
        self._tell(greeting, opening)
        client = ServedClient(
            opening.take(),
            greeting.size,
            self._limits,
            budget=self._budget,
            left=lambda: self._forget(known, client),
        )
        self._clients[known] = client
        self._keys[opening.key] = anyio.current_time()
        self._tasks.start_soon(client.run)
        return client

    def _forget(self, known: tuple[str, bytes], client: ServedClient) -> None:
        if self._clients.get(known) is client:
            del self._clients[known]
            if not any(key == known[1] for _, key in self._clients):
                del self._keys[known[1]]

    def _tell(self, greeting: Greeting, opening: _Opening) -> None:
        logger.info("a wsp client: id=%s keeps=%d", quoted(greeting.client_id), greeting.size)
        if opening.secret is None and not self._warned:
            self._warned = True
            logger.warning("wsp clients may register without a secret key: whoever reaches the server may be one")


class _Opening:
    """What one of their handshakes shows, and the session that it may have."""

    def __init__(self, secret: str | None, peer: Peer, salt: bytes) -> None:
        self.secret = secret
        self.peer = peer
        self.key = hmac.digest(salt, (secret or "").encode(), "sha256")
        self.accepted: Accepted | None = None

    def take(self) -> Accepted:
        assert self.accepted is not None
        accepted, self.accepted = self.accepted, None
        return accepted

    def abandon(self) -> None:
        if self.accepted is not None:
            self.take().abandon()


async def _greeting(socket: FragmentSocket) -> Greeting:
    data, last = b"", False
    while not last:
        fragment = await socket.receive()
        data, last = data + fragment.data, fragment.last
        if len(data) > GREETING_LIMIT:
            break
    return read_greeting(data)


async def _respond(request: MountedRequest, answer: Answer) -> None:
    with suppress(StreamBroken):  # the client left meanwhile: nobody is there to be told
        await request.respond(answer.status, answer.fields, answer.body)
