"""What a long-poll client's requests look like, and what they go over: straight, or by a plain forward proxy."""

from __future__ import annotations

from typing import Final

from ...config import Limits
from ...heads import Fields, RequestHead
from ...http.client import OriginConnection
from ...http.client_codec import RequestBlock, request_block
from ...http.plain_codec import PLAIN_PARSER
from ...net.loop import loop_clock
from ...proof import Prover
from ..answers import Target
from ..base import DialRequest
from .client_call import Call
from .wire import PURPOSES, Op, fixed_fields, numbered_fields, open_fields, target_path

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
        self.now = loop_clock()
        self._connection_id = ""
        self._heads: dict[Op, bytes] = {}  # what all requests of a kind have in common
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

    def open(self) -> RequestBlock:
        """Raises ``LocalProtocolError`` for a handshake that cannot be sent."""
        return self._block(Op.OPEN, open_fields(self.target, self._request.handshake, self._request.user_agent))

    def bind(self, connection_id: str, prover: Prover) -> None:
        """The server granted a connection."""
        self._connection_id = connection_id
        fields = fixed_fields(self.target, self._request.user_agent)
        self._heads = {op: self._block(op, fields).block.removesuffix(b"\r\n") for op in PURPOSES}
        self._prover = prover

    def make(self, op: Op, number: int, *, length: int = 0, more: Fields | None = None) -> RequestBlock:
        """Request ``number`` of its kind, with a body of ``length`` bytes. ``more``: fields of this one alone."""
        assert self._prover is not None
        proof = self._prover.make(PURPOSES[op], number, length)
        fields = numbered_fields(self._connection_id, number, proof, length)
        lines = [b"%b: %b\r\n" % field for field in (fields + more if more else fields)]
        block = b"".join((self._heads[op], *lines, b"\r\n"))
        return RequestBlock(block, _POST, None, persists=True, length=length)

    def _block(self, op: Op, fields: Fields) -> RequestBlock:
        return request_block(RequestHead(_POST, self._targets[op], fields + self._for_proxy))
