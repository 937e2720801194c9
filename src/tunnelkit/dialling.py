"""The client's dials: one connection by one transport, with the handshake that the moment asks for."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import anyio
from anyio.abc import TaskGroup

from .client_session import ClientSession, first_prover
from .config import Limits
from .core.opening import ClientOpening
from .errors import DialError
from .handshake import Grant, Handshake, Resume
from .heads import Fields
from .net.stream import ByteStream
from .proof import Prover
from .transports.base import Connection, Dialler, DialRequest, ForwardProxy, Transport

__all__ = ["Dialling", "Way", "no_answer"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """How the server is reached."""

    url: str  # "http(s)://host:port/base"
    transports: Mapping[str, Transport]  # by name, the best first
    dialler: Dialler
    user_agent: str
    guessed: frozenset[str] = frozenset()  # transports that nobody named
    ssl_context: ssl.SSLContext | None = None  # None: the default one


class Dialling:
    """``announce`` is the handshake but for what resumes or gives up; ``tasks`` outlives every connection."""

    def __init__(self, *, way: Way, announce: Handshake, limits: Limits, tasks: TaskGroup) -> None:
        self._way = way
        self._announce = announce
        self._limits = limits
        self._tasks = tasks

    async def open(self, transport: str, gives_up: Resume | None, *, brief: bool = False) -> tuple[Connection, Grant]:
        """Dial for a new session. ``brief``: from the TCP connection on, the answer may take
        ``first_answer_timeout`` at most. Raises what ``Transport.dial`` raises."""
        return await self._dial(transport, replace(self._announce, gives_up=gives_up), first_prover, brief=brief)

    async def resume(
        self, transport: str, session: ClientSession, *, brief: bool = False
    ) -> tuple[Connection, ClientOpening]:
        """Dial for a session that there is, with its next epoch. The session is where it was until ATTACH."""
        epoch = session.next_epoch()
        announce = replace(self._announce, resume=session.resume(epoch))
        connection, _ = await self._dial(transport, announce, lambda grant: session.prover(epoch), brief=brief)
        return connection, session.opening(epoch, connection)

    async def _dial(
        self, transport: str, announce: Handshake, prover: Callable[[Grant], Prover], *, brief: bool
    ) -> tuple[Connection, Grant]:
        limits, dialler = self._limits, self._way.dialler
        with anyio.CancelScope() as scope:
            return await self._way.transports[transport].dial(
                DialRequest(
                    url=self._way.url,
                    handshake=announce,
                    dialler=_Watched(dialler, scope, limits.first_answer_timeout) if brief else dialler,
                    timeout=limits.dial_timeout,
                    user_agent=self._way.user_agent,
                    ssl_context=self._way.ssl_context,
                    tasks=self._tasks,
                    prover=prover,
                    guessed=transport in self._way.guessed,
                )
            )
        raise no_answer(transport, limits.first_answer_timeout)


def no_answer(transport: str, timeout: float) -> DialError:
    """Something took the connection, and swallows what is sent."""
    return DialError("handshake", f"the {transport} carried no answer within {timeout:g} s")


class _Watched:
    """A dialler that starts a clock with its first connection: what lies behind may be slow to reach, but then it
    answers soon, or another transport does better."""

    def __init__(self, dialler: Dialler, scope: anyio.CancelScope, timeout: float) -> None:
        self._dialler = dialler
        self._scope = scope
        self._timeout = timeout
        self._started = False

    async def __call__(self, host: str, port: int, *, tls: bool) -> ByteStream:
        stream = await self._dialler(host, port, tls=tls)
        self.start()
        return stream

    def forward_proxy(self, host: str, port: int) -> ForwardProxy | None:
        proxy = self._dialler.forward_proxy(host, port)
        return None if proxy is None else _WatchedProxy(proxy, self.start)

    def start(self) -> None:
        if not self._started:
            self._started = True
            self._scope.deadline = anyio.current_time() + self._timeout


class _WatchedProxy:
    """The same for the proxy in place of the destination."""

    def __init__(self, proxy: ForwardProxy, start: Callable[[], None]) -> None:
        self._proxy = proxy
        self._start = start

    @property
    def fields(self) -> Fields:
        return self._proxy.fields

    async def dial(self) -> ByteStream:
        stream = await self._proxy.dial()
        self._start()
        return stream
