"""Heads on their way through a stream: judged once, however often the same bytes come.

Callers and origins send the same heads again and again, and a head's block is the head, byte for byte. So whatever
follows from a block alone (is it valid, how long is its body, what becomes of it on the way on) is worked out for the
first of equal blocks, and then looked up. Only small blocks are remembered, and only the last few of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, TypeAlias, TypeVar

from ..config import DEFAULT_LIMITS, Limits
from ..errors import HeadError, LocalProtocolError, ProtocolError, RemoteProtocolError
from ..field_names import FieldNames, field_names
from ..forwarding import upgrade_of
from ..heads import (
    ADDED_FIELDS,
    Fields,
    RequestHead,
    ResponseHead,
    Trailers,
    decode_block,
    encode_request,
    encode_response,
    validate_request,
    validate_response,
)

__all__ = ["BLOCKS_KEPT", "KEPT_SIZE", "PLANS_KEPT", "HeadReader", "KnownHead", "KnownRequest", "KnownResponse"]

# Blocks that one reader remembers, and the size of the largest: with what they became, a few MB at most.
BLOCKS_KEPT: Final = 128
KEPT_SIZE: Final = 2048
# What was made of one block: by each origin that callers name, perhaps, and of those there is no end.
PLANS_KEPT: Final = 8

T = TypeVar("T")


class KnownHead:
    """A head that may pass, its block, and what an exchange asks of it. Shared by all that carry the same block: not
    to be changed."""

    __slots__ = ("_plans", "block", "length")

    def __init__(self, fields: Fields, block: bytes, names: FieldNames, error: type[ProtocolError]) -> None:
        self.block = block
        self.length = _promised(fields, names, error)  # of its body, where Content-Length promises one
        self._plans: dict[object, Any] = {}

    def _keep(self, key: object, plan: T) -> T:
        if len(self._plans) >= PLANS_KEPT:
            self._plans.clear()
        self._plans[key] = plan
        return plan


class KnownRequest(KnownHead):
    __slots__ = ("head", "offers")

    def __init__(self, head: RequestHead, block: bytes, names: FieldNames, error: type[ProtocolError]) -> None:
        super().__init__(head.fields, block, names, error)
        self.head = head
        self.offers = b"upgrade" in names.at and upgrade_of(head) is not None  # an upgrade

    @classmethod
    def outgoing(cls, head: RequestHead) -> KnownRequest:
        """A head as it is sent. Raises ``LocalProtocolError`` for one that may not go into a stream."""
        return cls(head, encode_request(head), field_names(head.fields), LocalProtocolError)

    def plan(self, make: Callable[[RequestHead], T]) -> T:
        """What ``make`` makes of the head; of few such functions, made once."""
        plan: T | None = self._plans.get(make)
        return self._keep(make, make(self.head)) if plan is None else plan


class KnownResponse(KnownHead):
    """An interim head, a final one, or 101."""

    __slots__ = ("head",)

    def __init__(self, head: ResponseHead, block: bytes, names: FieldNames, error: type[ProtocolError]) -> None:
        super().__init__(head.fields, block, names, error)
        self.head = head

    @classmethod
    def outgoing(cls, head: ResponseHead) -> KnownResponse:
        """The same of a response."""
        return cls(head, encode_response(head), field_names(head.fields), LocalProtocolError)

    def plan(self, make: Callable[[ResponseHead], T]) -> T:
        """What ``make`` makes of the head; of few such functions, made once."""
        plan: T | None = self._plans.get(make)
        return self._keep(make, make(self.head)) if plan is None else plan


Known: TypeAlias = KnownRequest | KnownResponse | Trailers


class HeadReader:
    """Decodes and judges blocks from the peer. ``limits`` judge them, with some room for the fields that a gateway
    adds."""

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._kept = lru_cache(maxsize=BLOCKS_KEPT)(self._judge)

    def read(self, block: bytes) -> Known:
        """Raises ``RemoteProtocolError`` for a head that may not pass. Trailers are only decoded."""
        return self._kept(block) if len(block) <= KEPT_SIZE else self._judge(block)

    def _judge(self, block: bytes) -> Known:
        head = decode_block(block)
        try:
            if isinstance(head, RequestHead):
                names = validate_request(head, self._limits, ADDED_FIELDS)
                return KnownRequest(head, block, names, RemoteProtocolError)
            if isinstance(head, ResponseHead):
                names = validate_response(head, self._limits, ADDED_FIELDS)
                return KnownResponse(head, block, names, RemoteProtocolError)
        except HeadError as error:
            raise RemoteProtocolError(error.detail, code="bad_head") from error
        return head


def _promised(fields: Fields, names: FieldNames, error: type[ProtocolError]) -> int | None:
    """What Content-Length promises. Frames end bodies, so no head inside a stream has a transfer coding; one that
    had would be framed twice where it is written."""
    if b"transfer-encoding" in names.at:
        raise error("a Transfer-Encoding field inside a stream", code="bad_head")
    values = names.values(fields, b"content-length")
    return int(values[0]) if values and values[0].isdigit() else None
