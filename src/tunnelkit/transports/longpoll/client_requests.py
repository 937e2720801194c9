"""What a long-poll client's requests look like, and what they go over: straight, or by a plain forward proxy."""

from __future__ import annotations

from typing import Final

from ...config import Limits
from ...heads import Fields, RequestHead
from ...http.client import OriginConnection
from ...http.plain_codec import PLAIN_PARSER
from ...proof import Prover
from ..answers import Target
from ..base import DialRequest
from .client_call import Call
from .wire import PURPOSES, Op, numbered_fields, open_fields, target_path

__all__ = ["Requests"]

_POST: Final = b"POST"


class Requests:
    """Of one connection. ``bind`` comes between ``open`` and the others."""

    def __init__(self, request: DialRequest, limits: Limits) -> None:
        """Raises ``ConfigError`` for a URL, or a proxy of the environment's, that is none."""
        self.target = Target.parse(request.url)
        self._request = request
        self._limits = limits
        target = self.target
        # https goes by CONNECT, which the dialler does.
        self._proxy = None if target.tls else request.dialler.forward_proxy(target.host, target.port)
        self._for_proxy: Fields = self._proxy.fields if self._proxy is not None else []
        origin = b"http://" + target.authority if self._proxy is not None else b""
        self._targets = {op: origin + target_path(target, op).encode("ascii") for op in Op}
        self._connection_id = ""
        self._prover: Prover | None = None

    def __repr__(self) -> str:
        return f"<Requests to {self.target.host}>"

    async def connect(self) -> OriginConnection:
        """A new connection. Raises ``DialError``, and ``ConfigError`` for a proxy of the environment's that is
        none."""
        target = self.target
        if self._proxy is not None:
            stream = await self._proxy.dial()
        else:
            stream = await self._request.dialler(target.host, target.port, tls=target.tls)
        return OriginConnection(stream, limits=self._limits, parser=PLAIN_PARSER)

    async def dial(self) -> Call:
        """The same, for one request after the other."""
        return Call(await self.connect(), max_body=self._limits.poll_body)

    def open(self) -> RequestHead:
        """Raises ``LocalProtocolError`` for a handshake that cannot be sent."""
        fields = open_fields(self.target, self._request.handshake, self._request.user_agent)
        return self._head(Op.OPEN, fields)

    def bind(self, connection_id: str, prover: Prover) -> None:
        """The server granted a connection."""
        self._connection_id = connection_id
        self._prover = prover

    def make(self, op: Op, number: int, *, length: int = 0, more: Fields | None = None) -> RequestHead:
        """Request ``number`` of its kind, with a body of ``length`` bytes."""
        assert self._prover is not None
        proof = self._prover.make(PURPOSES[op], number, length)
        agent = self._request.user_agent
        fields = numbered_fields(self.target, self._connection_id, number, proof, length=length, user_agent=agent)
        return self._head(op, fields + more if more else fields)

    def _head(self, op: Op, fields: Fields) -> RequestHead:
        return RequestHead(_POST, self._targets[op], fields + self._for_proxy)
